"""What is frozen is what is trained: generations of a real trio, asked of their files alone."""

from __future__ import annotations

import json
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from io import StringIO
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from cluster.generation import GenerationRun, Watcher
from cluster.request import GenerationRequest, PinnedBase, RunSpec
from cluster.run_log import run_log
from cluster.settings import load_settings
from cluster.steps.data import collect
from cluster.steps.verify_plan import plan_problems
from curriculum.example import Example, make_example
from curriculum.parent_view import read_views
from curriculum.parquet import freeze, read_examples, read_new_data, write_examples
from jobs.generation.show import held_back, print_generation
from ledger.errors import LunaError
from ledger.home import Home
from ledger.records import GenerationRow, HeadMove
from ledger.roles import ROLES
from ledger.store import Ledger, Stores
from ledger.verification.ledger import verify
from serving import app
from tests.cluster.test_walk import OneProcess
from trainers.models.frozen import prepare_base

pytestmark = pytest.mark.slow

GENERATIONS = 6
STEPS, BATCH_SIZE = 12, 8

SETTINGS = f"""
profile = "tiny"
[train]
steps = {STEPS}
batch_size = {BATCH_SIZE}
[data]
fill = false
[eval]
items = 20
everyday_items = 0
agl_items = 14
extra_items = 0
probe_tokens = 1
answer_tokens = 4
[gates]
min_items = 8
recall_min = 0.0
generalization_min = 0.0
style_drift_max = 1.0
closed_mastered = 0.0
significance = 1e-9
bound_min = 0.0
"""
"""Bounds that a model of random weights meets: these tests are about what it is given."""


def numbers(start: int, count: int) -> list[Example]:
    """For each role questions of two categories, two of the first for one of the second."""
    return [
        make_example(
            role=role,
            stage="fundamentals",
            category="agl/comparison" if i % 3 else "agl/identity",
            kind="pure",
            input=f"{i} even?",
            output="●" if i % 2 == 0 else "⊥",
            source="test",
        )
        for role in ROLES
        for i in range(start, start + count)
    ]


class Lineage:
    """Generations, raised one after another in this process."""

    def __init__(self, home: Home) -> None:
        self.home, self.lines = home, dict[int, list[str]]()
        base = prepare_base(load_settings(home.settings_file).base, home)
        self.pinned, self.pool = PinnedBase(source=base.source, sha=base.sha), OneProcess()

    def raise_all(self, stores: Stores, count: int, new: Callable[[int, int], list[Example]]) -> list[str]:
        stores.ledger.create_lineage("main", self.pinned.sha)
        files: list[str] = []
        verdicts: list[str] = []
        for number in range(count):
            files.append(write_examples(self.home.inbox_dir, new(1000 * number, 150)))
            verdicts.append(self.raise_one(stores, tuple(files)))
        return verdicts

    def raise_one(self, stores: Stores, files: tuple[str, ...]) -> str:
        request = GenerationRequest(settings=load_settings(self.home.settings_file), base=self.pinned, data=files)
        gen_id = stores.ledger.next_gen_id("main")
        run = stores.journal.create_run(f"run-{gen_id}", "main", gen_id, request.model_dump(mode="json"))
        spec, lines = RunSpec.of(self.home, run), self.lines.setdefault(gen_id, [])
        watcher = Watcher(lambda step: None, lambda progress: None, threading.Event())
        with run_log(spec.folder, gen_id, lines.append):
            verdict = GenerationRun(spec, stores, cast(Any, self.pool), watcher).run().verdict
        stores.journal.finish_run(run.run_id, "done", verdict)
        return verdict

    def file(self, sha: str) -> list[Example]:
        return read_examples(self.home.data_file(sha))


@pytest.fixture(scope="module")
def lineage(tmp_path_factory: pytest.TempPathFactory) -> Lineage:
    home = Home(tmp_path_factory.mktemp("plan") / "home").create()
    home.settings_file.write_text(SETTINGS)
    made = Lineage(home)
    with pytest.MonkeyPatch.context() as patch, Stores.create(home) as stores:
        patch.setattr(app, "running", lambda: None)
        assert made.raise_all(stores, GENERATIONS, numbers) == ["accepted"] * GENERATIONS
    return made


@pytest.fixture(scope="module")
def generations(lineage: Lineage) -> list[list[GenerationRow]]:
    with Ledger.open(lineage.home) as ledger:
        return [list(rows) for _, rows in groupby(ledger.rows("main"), key=lambda row: row.gen_id)]


def test_the_training_file_holds_every_row_of_every_step(
    lineage: Lineage, generations: list[list[GenerationRow]]
) -> None:
    for rows in generations:
        file, delta = lineage.file(rows[0].train_sha), lineage.file(rows[0].data_delta_sha)
        new = {example.id for example in delta}
        assert [example.role for example in file] == [role for role in ROLES for _ in range(STEPS * BATCH_SIZE)]
        for row in rows:
            own = [example.id for example in file if example.role == row.role]
            assert (row.steps, row.n_delta + row.n_replay) == (STEPS, len(own))
            assert row.n_delta == sum(name in new for name in own)
            metadata = json.loads((lineage.home.adapter_dir(row.child_sha) / "METADATA.json").read_text())
            assert metadata["training_data"]["total_examples"] == len(own)
        assert {example.id for example in file} >= new


def test_each_earlier_generation_keeps_its_share(lineage: Lineage, generations: list[list[GenerationRow]]) -> None:
    learned = [{e.id: e for e in lineage.file(rows[0].data_delta_sha)} for rows in generations]
    for number, rows in enumerate(generations[1:], start=1):
        for row in rows:
            file = [e for e in lineage.file(row.train_sha) if e.role == row.role]
            replayed = [e for e in file if e.id not in learned[number]]
            assert len({e.id for e in replayed}) == len(replayed) == row.n_replay == STEPS * BATCH_SIZE // 2
            sizes = [sum(e.role == row.role for e in learned[before].values()) for before in range(number)]
            for before in range(number):
                own = [e for e in replayed if e.id in learned[before]]
                share = row.n_replay * sizes[before] / sum(sizes)
                assert len(own) >= 1
                assert abs(len(own) - share) < 1
                first = Counter(e.category for e in learned[before].values() if e.role == row.role)["agl/comparison"]
                asked = sum(e.category == "agl/comparison" for e in own)
                assert abs(asked - len(own) * first / sizes[before]) < 1


def test_new_examples_keep_the_share_of_their_category_and_the_rest_stays_new(
    lineage: Lineage, generations: list[list[GenerationRow]]
) -> None:
    taken: set[str] = set()
    for rows in generations:
        new, delta = read_new_data(lineage.home.data_file(rows[0].collected_sha)), lineage.file(rows[0].data_delta_sha)
        asked = lineage.file(rows[0].holdout_sha)
        assert {e.id for e in delta} <= {e.id for e in new.train}
        assert {e.id for e in asked} <= {e.id for e in new.holdout}
        assert not {e.id for e in (*new.train, *new.holdout)} & taken, "what was taken is new no longer"
        assert Counter(e.role for e in asked) == dict.fromkeys(ROLES, 20)
        for role in ROLES:
            there, own = ([e for e in part if e.role == role] for part in (new.train, delta))
            share = sum(e.category == "agl/comparison" for e in there) / len(there)
            assert abs(sum(e.category == "agl/comparison" for e in own) - share * len(own)) < 1
        taken |= {e.id for e in (*delta, *asked)}
    with Stores.create(lineage.home) as stores:
        request = GenerationRequest(
            settings=load_settings(lineage.home.settings_file),
            base=lineage.pinned,
            data=tuple(path.stem for path in lineage.home.inbox_dir.glob("*.parquet")),
        )
        collected = collect(lineage.home, stores, "main", request)
    left = read_new_data(lineage.home.data_file(collected.collected_sha))
    everything = {e.id for number in range(GENERATIONS) for e in numbers(1000 * number, 150)}
    assert {e.id for e in (*left.train, *left.holdout)} == everything - taken


def test_the_plan_is_printed(lineage: Lineage, generations: list[list[GenerationRow]]) -> None:
    line = next(line for line in lineage.lines[2] if line.startswith("creative: 12 steps of 8"))
    assert "48 new, 48 replayed (G0 " in line
    assert "stay new" in line


def test_every_file_is_as_planned(lineage: Lineage, generations: list[list[GenerationRow]]) -> None:
    assert verify(lineage.home) == []
    assert plan_problems(lineage.home) == []


def test_a_generation_trains_again_to_equal_bytes_from_its_file(lineage: Lineage) -> None:
    from jobs.generation.reproduce import reproduce

    for recorded, found in reproduce(lineage.home, 2).values():
        assert recorded == found


def test_what_is_shown_of_a_generation_are_its_trained_rows(
    lineage: Lineage, generations: list[list[GenerationRow]]
) -> None:
    shown = StringIO()
    print_generation(lineage.home, 1, Console(file=shown, width=200))
    cells = [cell.strip() for cell in next(x for x in shown.getvalue().splitlines() if "rows trained" in x).split("│")]
    file, new = lineage.file(generations[1][0].train_sha), lineage.file(generations[1][0].data_delta_sha)
    ids = {example.id for example in new}
    for role, cell in zip(ROLES, cells[2:5], strict=True):
        own = [example for example in file if example.role == role]
        assert cell == f"{len(own)}, {sum(example.id not in ids for example in own)}"


@pytest.mark.parametrize("skipped", [{}, {"skip": 2, "roll_back": 1}])
def test_steps_that_the_health_gate_held_back_are_shown(skipped: dict[str, int]) -> None:
    trained = {"roles": {"logical": {"outcome": {"skipped_updates": skipped}}, "creative": {"outcome": {}}}}
    assert held_back(trained) == ({"logical": 3} if skipped else {})
    assert held_back(None) == held_back({"roles": {"logical": {"steps": 3}}}) == {}


def names(start: int, count: int) -> list[Example]:
    """For each role open questions, which are answered in other words from one generation to the next."""
    answer = "They call me" if start else "It is"
    return [
        make_example(
            role=role, stage="manual", category="names", kind="hybrid", input=f"who? {i}", output=f"{answer} {i}."
        )
        for role in ROLES
        for i in range(start, start + count)
    ]


def test_what_the_parent_had_a_say_in_is_frozen_planned_again_and_trained_again_to_equal_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobs.generation.reproduce import reproduce

    home = Home(tmp_path / "home").create()
    own = SETTINGS.replace("[train]", "[train]\nlr = 1e-2\nkl_weight = 1.0").replace("[text]", "")
    own = own.replace("[data]", '[data]\nreplay_select = "least_sure"\nown_answers = true\nreplay_least = 20')
    home.settings_file.write_text(f"{own}\n[text]\nanswer_tokens = 12\n")
    made = Lineage(home)
    monkeypatch.setattr(app, "running", lambda: None)
    with Stores.create(home) as stores:
        # Whatever the second is worth: what it was trained on is asked here.
        assert made.raise_all(stores, 2, names)[0] == "accepted"
    with Ledger.open(home) as ledger:
        first, second = (ledger.generation(gen_id) for gen_id in (0, 1))
    assert {row.view_sha for row in first} == {""}
    (sha,) = {row.view_sha for row in second}
    views = read_views(home.data_file(sha))
    delta = {e.id for e in made.file(second[0].data_delta_sha)}
    replayed = [e for e in made.file(second[0].train_sha) if e.id not in delta]
    recorded = {e.input: e for e in made.file(first[0].data_delta_sha) if e.role == "logical"}
    assert len(replayed) == sum(row.n_replay for row in second)
    for example in (e for e in replayed if e.role == "logical"):
        view = views[recorded[example.input].id]
        assert example.output == ((view.own.strip() and view.own) or recorded[example.input].output)
    assert verify(home) == []
    assert plan_problems(home) == []
    for trained, found in reproduce(home, 1).values():
        assert trained == found
    home.data_file(sha).write_bytes(home.data_file(first[0].train_sha).read_bytes())
    assert "parent's view changed" in {problem.what for problem in verify(home)}
    assert "schedule cannot be checked" in {problem.what for problem in plan_problems(home)}
    home.data_file(second[0].data_delta_sha).write_bytes(home.data_file(first[0].data_delta_sha).read_bytes())
    with pytest.raises(LunaError, match=r"the set of new examples .* was changed"):  # by which the replayed are told
        reproduce(home, 1)


def without_one(rows: list[Example]) -> list[Example]:
    return [*rows[:20], *rows[21:]]


def with_one_more(rows: list[Example]) -> list[Example]:
    return [*rows[:20], rows[3], *rows[20:]]


def with_two_swapped(rows: list[Example]) -> list[Example]:
    return [*rows[:20], rows[21], rows[20], *rows[22:]]


def with_another(rows: list[Example]) -> list[Example]:
    return [*rows[:20], numbers(50_000, 1)[0], *rows[21:]]


@pytest.mark.parametrize("change", [without_one, with_one_more, with_two_swapped, with_another])
def test_a_training_file_that_is_not_what_the_schedule_says_is_found(
    lineage: Lineage,
    generations: list[list[GenerationRow]],
    tmp_path: Path,
    change: Callable[[list[Example]], list[Example]],
) -> None:
    """The file lies under its own hash, which ledger and metadata name: nothing but the schedule speaks against it."""
    forged = recorded_anew(lineage, generations, tmp_path, 3, change)
    assert verify(forged) == []
    (problem,) = plan_problems(forged)
    assert problem.what == "training file not as planned"
    assert "(main G3), row 21" in problem.where


@pytest.mark.parametrize("count", ["conversations", "base"])
def test_an_adapter_that_tells_of_other_rows_than_it_was_trained_on_is_found(
    lineage: Lineage, generations: list[list[GenerationRow]], tmp_path: Path, count: str
) -> None:
    forged = recorded_anew(lineage, generations[:2], tmp_path, -1, list)
    file = forged.adapter_dir(generations[1][2].child_sha) / "METADATA.json"
    metadata = json.loads(file.read_text())
    metadata["training_data"][count] += 5
    file.write_text(json.dumps(metadata))
    assert plan_problems(lineage.home) == []
    (problem,) = plan_problems(forged)
    assert problem.what == "metadata not as trained"
    assert "(main G1 dialectical)" in problem.where


def recorded_anew(
    lineage: Lineage,
    generations: Sequence[Sequence[GenerationRow]],
    folder: Path,
    changed: int,
    change: Callable[[list[Example]], list[Example]],
) -> Home:
    """A copy of the home whose record was always that one generation was trained on other rows."""
    home = Home(folder / "forged")
    shutil.copytree(lineage.home.root, home.root, ignore=shutil.ignore_patterns("luna.db*", "runs", "*.csv"))
    with Stores.open(lineage.home) as before, Stores.create(home) as stores:
        stores.ledger.create_lineage("main", generations[0][0].base_sha)
        for run in before.journal.runs():
            stores.journal.create_run(run.run_id, run.lineage, run.gen_id, run.request)
            stores.journal.finish_run(run.run_id, "done", "accepted")
        for rows in generations:
            gen_id = rows[0].gen_id
            if gen_id == changed:
                sha = freeze(change(lineage.file(rows[0].train_sha)), home)
                rows = [row.model_copy(update={"train_sha": sha}) for row in rows]
                for row in rows:
                    file = home.adapter_dir(row.child_sha) / "METADATA.json"
                    metadata = json.loads(file.read_text())
                    metadata["training_data"]["train_sha"] = sha
                    file.write_text(json.dumps(metadata))
            move = HeadMove(from_gen=rows[0].parent_gen, to_gen=gen_id, reason="accepted", at=rows[0].trained_at)
            stores.ledger.record_judgement(rows, before.ledger.evals(gen_id), move)
    return home


def test_the_same_data_after_a_stop_is_refused_and_more_is_not(
    lineage: Lineage, generations: list[list[GenerationRow]], tmp_path: Path
) -> None:
    from cluster.steps.data import brought_shas
    from ledger.records import Stop

    home = recorded_anew(lineage, generations[:4], tmp_path, -1, list)
    rows = [generation[0] for generation in generations[2:4]]
    with Stores.create(home) as stores:
        last = [
            row.model_copy(update={"gen_id": 4, "parent_gen": 3, "parent_sha": row.child_sha}) for row in generations[3]
        ]
        stop = Stop(reason="stopped.", data_delta_shas=brought_shas(home, rows))
        back = HeadMove(from_gen=3, to_gen=1, reason="stop_rule", at=rows[0].trained_at)
        stores.ledger.record_judgement(last, [], back, stop)
        files = [write_examples(home.inbox_dir, numbers(1000 * number, 150)) for number in range(5)]
        settings = load_settings(home.settings_file)

        def asked_for(count: int) -> GenerationRequest:
            return GenerationRequest(settings=settings, base=lineage.pinned, data=tuple(files[:count]))

        with pytest.raises(LunaError, match="data has not changed"):
            collect(home, stores, "main", asked_for(4))
        assert collect(home, stores, "main", asked_for(5)).n_new
