"""Whether frozen training files are what the schedule says: every generation is planned again and compared by row.

A plan is a pure function of the recorded settings, the new data, the frozen scores, pairs and views, and what the
line was trained on. Whoever changes that function must leave a way to tell which rows were planned by the old one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, zip_longest
from typing import Any

from cluster.request import GenerationRequest
from cluster.settings import Settings, recorded_sha
from cluster.steps.planning import Plan, line_for_replay, pairs_of, plan_of, replay_seed
from cluster.steps.records import Parent
from cluster.steps.replaying import Earlier
from curriculum.conversations.lessons import weight_by_reward
from curriculum.example import Example
from curriculum.parent_view import read_views
from curriculum.parquet import NewData, read_examples, read_new_data
from curriculum.reward import VALUES, RewardOutput
from curriculum.reward.scores import read_scores
from ledger.errors import LunaError
from ledger.home import Home
from ledger.metadata import METADATA_FILE, read_metadata
from ledger.records import GenerationRow
from ledger.store import Ledger, Stores
from ledger.verification.problems import Problem

_RESTORE = "restore the file and luna.db from a copy"


def plan_problems(home: Home) -> list[Problem]:
    """Where a generation's rows, new examples, asked items or counts are not those of its plan; empty if all are.

    Generations of versions that froze a set of examples are left out: nothing was fixed that they could be held to.
    """
    problems: list[Problem] = []
    try:
        stores = Stores.open(home)
    except LunaError:  # of an earlier version, whose generations had no schedule, or broken, which others name
        return []
    with stores:
        requests = {run.run_id: run.request for run in stores.journal.runs()}
        for lineage in stores.ledger.lineages():
            for _, rows in groupby(stores.ledger.rows(lineage.name), key=lambda row: row.gen_id):
                generation = list(rows)
                if generation[0].collected_sha:
                    problems += _problems_of(home, stores.ledger, generation, requests)
    return problems


def _problems_of(
    home: Home, ledger: Ledger, generation: Sequence[GenerationRow], requests: Mapping[str, dict[str, Any]]
) -> Iterator[Problem]:
    first = generation[0]
    who = f"{first.lineage} G{first.gen_id}"
    try:
        plan = planned_again(home, ledger, generation, _settings(first, requests))
        yield from _differing_rows(home, first.train_sha, "training file", who, plan.rows)
        yield from _differing_rows(home, first.data_delta_sha, "delta", who, plan.delta)
        yield from _differing_rows(home, first.holdout_sha, "holdout", who, plan.asked)
    except LunaError as error:  # a file or a run that is missing or was changed
        yield Problem("schedule cannot be checked", who, "its settings and data", str(error), _RESTORE)
        return
    for row in generation:
        own = plan.schedules[row.role]
        planned, told = (own.steps, own.n_delta, own.n_replay), (row.steps, row.n_delta, row.n_replay)
        if planned != told:
            names = "{} steps, {} new and {} replayed rows"
            where = f"{who} {row.role}"
            yield Problem("counts not as planned", where, names.format(*planned), names.format(*told), _RESTORE)
        yield from _told_otherwise(home, row, plan)


def _told_otherwise(home: Home, row: GenerationRow, plan: Plan) -> Iterator[Problem]:
    """Whether the adapter's metadata counts the rows of conversations as they are; the rest of it others compare."""
    file = home.adapter_dir(row.child_sha) / METADATA_FILE
    try:
        metadata = read_metadata(file.parent)
    except LunaError:  # which others name
        return
    counts = metadata.get("training_data")
    if (metadata.get("generation"), metadata.get("role")) != (row.gen_id, row.role) or not isinstance(counts, Mapping):
        return  # of another row with the same bytes, or broken, which others name
    rows = plan.schedules[row.role].rows
    talks = sum(example.stage == "conversations" for example in rows)
    planned, told = (talks, len(rows) - talks), (counts.get("conversations"), counts.get("base"))
    if planned != told:
        names = "{} rows of conversations and {} others"
        where = f"{file.relative_to(home.root)} ({row.lineage} G{row.gen_id} {row.role})"
        yield Problem("metadata not as trained", where, names.format(*planned), names.format(*told), _RESTORE)


def planned_again(home: Home, ledger: Ledger, generation: Sequence[GenerationRow], settings: Settings) -> Plan:
    """The plan that a recorded generation must have had.

    Raises:
        LunaError: a file that it rests on is missing or broken.
    """
    first = generation[0]
    parent = None
    if first.parent_gen is not None:
        parent = Parent(gen_id=first.parent_gen, shas={row.role: row.parent_sha for row in generation})
    new = read_new_data(home.data_file(first.collected_sha))
    line = line_for_replay(home, ledger, first.lineage, settings, new, parent)
    factors = _factors(home, first, new)
    views = read_views(home.data_file(first.view_sha)) if first.view_sha else {}
    own_words = read_examples(home.data_file(first.rehearsed_sha)) if first.rehearsed_sha else ()
    earlier = Earlier(line, replay_seed(parent), views, own_words)
    return plan_of(settings, new, factors, earlier, pairs_of(home, first.pref_sha))


def _factors(home: Home, row: GenerationRow, new: NewData) -> dict[str, float]:
    """What the frozen scores of the reward model make of the new examples' weights."""
    if not row.rewards_sha:
        return {}
    scores = read_scores(home.data_file(row.rewards_sha))
    return {
        example.id: weight_by_reward(example, RewardOutput(**dict(zip(VALUES, scores[example.id], strict=True))))
        for example in new.train
        if example.id in scores
    }


def _settings(row: GenerationRow, requests: Mapping[str, dict[str, Any]]) -> Settings:
    if (request := requests.get(row.run_id)) is None:
        raise LunaError(f"the run {row.run_id} is not in the ledger")
    if (found := recorded_sha(request["settings"])) != row.config_sha:
        raise LunaError(f"the settings of run {row.run_id} have SHA {found[:12]}, not {row.config_sha[:12]}")
    return GenerationRequest.from_record(request).settings


def _differing_rows(home: Home, sha: str, what: str, who: str, planned: Sequence[Example]) -> Iterator[Problem]:
    """The first row of a file that is not the planned one."""
    file = home.data_file(sha)
    found = read_examples(file)
    for number, (right, is_) in enumerate(zip_longest(planned, found), start=1):
        if right != is_:
            where = f"{file.relative_to(home.root)} ({who}), row {number}"
            yield Problem(f"{what} not as planned", where, _named(right), _named(is_), _RESTORE)
            return


def _named(example: Example | None) -> str:
    if example is None:
        return "no row"
    return f"{example.role} {example.id[:12]} of weight {example.weight:g}"
