"""The data of a generation: what is new, split and frozen; mixed with replay; what was learned earlier."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from cluster.request import GenerationRequest
from cluster.steps.admission import check_answers
from cluster.steps.records import Collected, Parent, TrainingSet
from curriculum.example import Example, unique
from curriculum.mix import mix
from curriculum.parquet import freeze, read_examples
from curriculum.replay import sample_replay
from curriculum.split import split_holdout
from ledger.errors import LunaError
from ledger.files import sha256_json
from ledger.home import Home
from ledger.records import GenerationRow
from ledger.roles import ROLES
from ledger.rules.stop_rule import stopped_refusal
from ledger.store import Ledger


def collect(home: Home, ledger: Ledger, lineage: str, request: GenerationRequest) -> Collected:
    """Pin the parent, keep what is new in the requested files since it, and freeze that as delta and holdout.

    Raises:
        LunaError: nothing is new, a role has no data, a holdout is too small, or the lineage was stopped on this data.
    """
    if not request.data:
        raise LunaError(
            "there is no data for a generation: the inbox is empty. Build some with `luna curriculum build`, "
            "or bring your own with `luna curriculum import FILE`."
        )
    parent = pinned_parent(ledger, lineage)
    examples = unique(e for sha in request.data for e in read_examples(home.inbox_dir / f"{sha}.parquet"))
    known = seen_ids(home, ledger, lineage)
    fresh = [example for example in examples if example.id not in known]
    # Sorted, so that the delta's hash says which examples it holds, whatever files they came in.
    delta, holdout = split_holdout(sorted(fresh, key=_by_id), request.settings.data.holdout_percent)
    _check_sizes(delta, holdout, len(examples) - len(fresh), request)
    check_answers(holdout, delta)
    delta_sha = freeze(delta, home)
    if refusal := stopped_refusal(ledger.stop_of(lineage), delta_sha):
        raise LunaError(refusal)
    return Collected(
        parent=parent,
        delta_sha=delta_sha,
        holdout_sha=freeze(holdout, home),
        n_delta=len(delta),
        n_holdout=len(holdout),
    )


def pinned_parent(ledger: Ledger, lineage: str) -> Parent | None:
    """The head as it stands; None before the first accepted generation."""
    head = ledger.head(lineage)
    if head is None:
        return None
    rows = ledger.generation(head, lineage)
    return Parent(gen_id=head, shas={row.role: row.child_sha for row in rows}, train_sha=rows[0].train_sha)


def _by_id(example: Example) -> str:
    return example.id


def freeze_union(home: Home, delta_shas: Collection[str]) -> str:
    """The delta that collecting the data of these deltas together would give; returns its SHA-256."""
    together = unique(example for sha in delta_shas for example in read_examples(home.data_file(sha)))
    return freeze(sorted(together, key=_by_id), home)


def seen_ids(home: Home, ledger: Ledger, lineage: str) -> set[str]:
    """Ids of all examples that the head's line was trained or measured on."""
    head = ledger.head(lineage)
    if head is None:
        return set()
    files = {sha for row in _line(ledger, lineage, head) for sha in (row.data_delta_sha, row.holdout_sha) if sha}
    return {example.id for sha in files for example in read_examples(home.data_file(sha))}


def _line(ledger: Ledger, lineage: str, head: int) -> list[GenerationRow]:
    """One row of the head and of each of its ancestors; what they share over the roles is what counts here."""
    return [ledger.generation(gen_id, lineage)[0] for gen_id in ledger.parent_chain(head, lineage)]


def _check_sizes(
    delta: Sequence[Example], holdout: Sequence[Example], repeated: int, request: GenerationRequest
) -> None:
    percent, needed = request.settings.data.holdout_percent, request.settings.gates.min_items
    trains, holds = Counter(e.role for e in delta), Counter(e.role for e in holdout)
    for role in ROLES:
        if not trains[role] + holds[role]:
            raise LunaError(
                f"the delta has no new examples for {role} ({repeated} examples were seen before and left out). "
                "Every role needs data: add some with `luna curriculum build` or `luna curriculum import`."
            )
        if holds[role] < needed:
            raise LunaError(
                f"the holdout of {role} would have {holds[role]} examples ({percent} % of {trains[role] + holds[role]} "
                f"new ones), and the gates need at least {needed}. Bring about {needed * 100 // percent} examples for "
                f"{role}, or lower [gates] min_items in luna.toml and know that the score means less."
            )


def mix_with_replay(
    home: Home, request: GenerationRequest, delta_sha: str, parent: Parent | None, factors: Mapping[str, float]
) -> TrainingSet:
    """Write the training set in its order: replay of the parent's data and the delta.

    `factors` multiply the weights of new examples, by id. What comes to 0 is left out before anything is drawn or
    shuffled, so that the rest is trained on as if it had never been there.
    """
    delta = weighed(read_examples(home.data_file(delta_sha)), factors)
    replay: list[Example] = []
    if parent is not None and request.settings.data.replay_k:
        parents_data = weighed(read_examples(home.data_file(parent.train_sha)), {})
        replay = sample_replay(parents_data, delta, k=request.settings.data.replay_k, seed=sha256_json(parent.shas))
    train = mix(delta, replay, request.settings.seed)
    replayed = {example.id for example in replay}
    counts = Counter((example.role, example.id in replayed) for example in train)
    return TrainingSet(
        train_sha=freeze(train, home),
        n_delta={role: counts[role, False] for role in ROLES},
        n_replay={role: counts[role, True] for role in ROLES},
    )


def weighed(examples: Iterable[Example], factors: Mapping[str, float]) -> list[Example]:
    """The examples with their weights times their factors (by id, default 1), without those of weight 0."""
    found = [replace(e, weight=e.weight * factors[e.id]) if e.id in factors else e for e in examples]
    return [example for example in found if example.weight > 0]


def earlier_examples(home: Home, ledger: Ledger, lineage: str, head: int | None) -> list[Example] | None:
    """What the head's line was trained on as new data, for recall; None before the first accepted generation."""
    if head is None:
        return None
    found: list[Example] = []
    for row in sorted(_line(ledger, lineage, head), key=lambda row: row.data_delta_sha):
        new = read_examples(home.data_file(row.data_delta_sha))
        if row.rewards_sha:  # What the reward model kept from training nobody can be asked to remember.
            trained = {example.id for example in read_examples(home.data_file(row.train_sha))}
            new = [example for example in new if example.id in trained]
        found += new
    return unique(found)
