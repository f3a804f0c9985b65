"""A generation from its data to its verdict in this process, without Ray: recorded step by step, and resumed."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from cluster.generation import GenerationRun, Watcher
from cluster.placement import Groups, Placement
from cluster.request import GenerationRequest, PinnedBase, RunSpec
from cluster.run_log import run_log
from cluster.settings import load_settings
from cluster.steps.records import Judged, Trained
from cluster.trainer_actor import TrainerActor
from curriculum.example import Example
from curriculum.parquet import write_examples
from ledger.home import Home
from ledger.journal import STEPS, Step
from ledger.roles import ROLES
from ledger.store import Stores
from ledger.verification.ledger import verify
from serving import app
from tests.cluster.builders import answered, even_numbers
from tests.cluster.test_generations import LENIENT
from trainers.models.frozen import Base, prepare_base

pytestmark = pytest.mark.slow


class OneProcess:
    """Stands for the pool and its session: one trainer in this process."""

    groups = Groups((Placement(ROLES, 0),))

    def __init__(self) -> None:
        self.actor = TrainerActor()
        self.opened = False
        self.settings: Any = None

    def open(self, home: Home, base: Base, settings: Any, recorded: Any = ()) -> OneProcess:
        if not self.opened:
            self.actor.open(base, settings.train, settings.lora)
        self.opened, self.settings = True, settings
        return self

    def train(self, jobs: Any, follow: Any, stop: Any) -> None:
        for group, job in jobs.items():
            follow.on_outcome(group, self.actor.train(job))

    def leave_shared_cards(self) -> None:
        pass

    def evaluate(self, plans: Any, compared: Any, gen_id: int) -> Any:
        return self.actor.evaluate(plans, compared, gen_id, self.settings)

    def everyday(self, pool: Any, most: int) -> Any:
        return self.actor.everyday(ROLES, pool, most, self.settings)

    def view(self, parents: Any, examples: Any, with_own: bool) -> Any:
        return self.actor.view([e for own in examples.values() for e in own], parents, with_own, self.settings.text)

    def measure_preferences(self, pairs: Any, child: Any, parent: Any, gen_id: int) -> Any:
        beta, lengths = self.settings.channels.beta, self.settings.text
        return self.actor.measure_preferences(pairs, child, parent, gen_id, beta, lengths)

    def blend(self, parents: Any, children: Any, alpha: float, into: Path) -> Any:
        return self.actor.blend(parents, children, alpha, into)


@pytest.fixture(scope="module")
def pool() -> OneProcess:
    return OneProcess()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    made = Home(tmp_path_factory.mktemp("walk") / "home").create()
    made.settings_file.write_text(LENIENT)
    return made


@pytest.fixture(scope="module")
def base(home: Home) -> Base:
    return prepare_base(load_settings(home.settings_file).base, home)


@pytest.fixture(scope="module")
def stores(home: Home, base: Base) -> Iterator[Stores]:
    with Stores.create(home) as opened:
        opened.ledger.create_lineage("main", base.sha)
        yield opened


@pytest.fixture(autouse=True)
def nothing_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "running", lambda: None)


@pytest.fixture
def steps() -> list[Step]:
    return []


@pytest.fixture
def watcher(steps: list[Step]) -> Watcher:
    return Watcher(steps.append, lambda progress: None, threading.Event())


def a_run(
    home: Home, stores: Stores, base: Base, first: int, examples: Sequence[Example] = (), **overrides: Any
) -> RunSpec:
    settings = load_settings(home.settings_file, overrides)
    sha = write_examples(home.inbox_dir, examples or even_numbers(first, 150))
    request = GenerationRequest(settings=settings, base=PinnedBase(source=base.source, sha=base.sha), data=(sha,))
    gen_id = stores.ledger.next_gen_id("main")
    run = stores.journal.create_run(f"run-{gen_id}", "main", gen_id, request.model_dump(mode="json"))
    return RunSpec.of(home, run)


def walk(spec: RunSpec, stores: Stores, pool: Any, watcher: Watcher, lines: list[str]) -> Judged:
    with run_log(spec.folder, spec.gen_id, lines.append):
        verdict = GenerationRun(spec, stores, pool, watcher).run()
    stores.journal.finish_run(spec.run_id, "done", verdict.reason)
    return verdict


def test_a_generation_is_accepted_and_its_step_records_are_kept(
    home: Home, base: Base, stores: Stores, pool: OneProcess, watcher: Watcher, steps: list[Step]
) -> None:
    lines: list[str] = []
    spec = a_run(home, stores, base, 0, eval={"everyday_items": 120, "everyday_tokens": 1})
    verdict = walk(spec, stores, pool, watcher, lines)
    assert (verdict.verdict, set(verdict.alphas.values()), stores.ledger.head()) == ("accepted", {1.0}, 0), verdict
    assert tuple(steps) == STEPS
    assert any("new examples" in line for line in lines)
    for role in ROLES:
        assert any(f"{role}: generalization " in line for line in lines), "how far measuring is"
        assert any(f"{role}: the base gets" in line and "too few to tell" in line for line in lines)
    assert not {"base_ability", "bare_glyphs"} & {score.eval for score in stores.ledger.evals(0)}
    trained = Trained.model_validate(stores.journal.step_result(spec.run_id, "train"))
    assert {row.role: row.child_sha for row in stores.ledger.generation(0)} == trained.shas
    assert verify(home) == []


def test_a_run_goes_on_at_the_first_step_without_a_result(
    home: Home, base: Base, stores: Stores, pool: OneProcess, watcher: Watcher, steps: list[Step]
) -> None:
    class Broken(OneProcess):
        def __init__(self) -> None:
            self.actor, self.opened, self.settings = pool.actor, True, None

        def evaluate(self, plans: Any, compared: Any, gen_id: int) -> Any:
            raise RuntimeError("cut off")

    spec = a_run(home, stores, base, 1000)
    with pytest.raises(RuntimeError):
        walk(spec, stores, Broken(), watcher, [])
    assert walk(spec, stores, pool, watcher, []).verdict == "accepted"
    assert steps == ["collect", "plan", "train", "measure", "measure", "judge", "deploy"]
    row = stores.ledger.generation(spec.gen_id)[0]
    assert (row.parent_gen, row.n_replay > 0) == (0, True)


def test_a_run_killed_right_after_its_verdict_was_recorded_tells_the_same_verdict(
    home: Home, base: Base, stores: Stores, pool: OneProcess, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is judged once, and the deploy that was missing is made up for."""

    class Killed(BaseException):
        pass

    def record_step(run_id: str, step: Step, phase: Any, payload: Any = None) -> None:
        if (step, phase) == ("judge", "after"):
            raise Killed
        recorded(run_id, step, phase, payload)

    recorded = stores.journal.record_step
    spec = a_run(home, stores, base, 3000)
    with monkeypatch.context() as patched:
        patched.setattr(stores.journal, "record_step", record_step)
        with pytest.raises(Killed):
            walk(spec, stores, pool, watcher, [])
    head, chain = stores.ledger.head(), len(stores.ledger.rows())
    home.csv.unlink()  # the kill may come before it is derived
    again = walk(spec, stores, pool, watcher, [])
    assert (stores.ledger.head(), len(stores.ledger.rows())) == (head, chain)
    rows = stores.ledger.generation(spec.gen_id)
    assert (again.verdict, again.reason) == (rows[0].verdict, rows[0].reason)
    assert again.alphas == {row.role: row.alpha for row in rows}
    assert stores.journal.step_result(spec.run_id, "deploy") is not None
    assert verify(home) == []


def test_two_answer_data_is_judged_by_its_whole_answers(
    home: Home, base: Base, stores: Stores, pool: OneProcess, watcher: Watcher
) -> None:
    """Moods, yes and no, spam and ham: four answers to choose from are not needed, which ended such a run unjudged."""
    spec = a_run(home, stores, base, 0, answered(["positive", "negative"], 150))
    assert walk(spec, stores, pool, watcher, []).verdict == "accepted"
    for score in stores.ledger.evals(spec.gen_id):
        if score.eval == "generalization":
            assert score.method == "exact"
            assert score.n >= 20


def test_a_child_that_knows_no_more_than_its_parent_is_rejected(
    home: Home, base: Base, stores: Stores, pool: OneProcess, watcher: Watcher
) -> None:
    """Steps that hardly move it teach nothing, whatever share of the new questions the parent passes by itself."""
    if stores.ledger.head() is None:
        walk(a_run(home, stores, base, 0), stores, pool, watcher, [])
    told: dict[str, Any] = {"gates": {"closed_mastered": 0.97, "significance": 0.05}, "blends": {"enabled": False}}
    spec = a_run(home, stores, base, 5000, train={"lr": 1e-9}, **told)
    verdict = walk(spec, stores, pool, watcher, [])
    assert verdict.verdict == "rejected"
    assert "nothing new was learned" in verdict.reason
    for score in stores.ledger.evals(spec.gen_id):
        if score.eval == "generalization":
            closed = score.details["closed"]
            assert closed["n"] == score.n >= 20
            assert closed["child"] - closed["parent"] == closed["won"] - closed["lost"]


def test_where_the_child_fails_blends_are_tried_and_the_head_stays(
    home: Home, base: Base, stores: Stores, pool: OneProcess, watcher: Watcher
) -> None:
    lines: list[str] = []
    head, before = stores.ledger.head(), len(list(home.adapters_dir.iterdir()))
    spec = a_run(home, stores, base, 2000, gates={"generalization_min": 1.0})
    verdict = walk(spec, stores, pool, watcher, lines)
    assert (verdict.verdict, stores.ledger.head()) == ("rejected", head)
    assert [f"parent + {alpha} " in " ".join(lines) for alpha in ("0.75", "0.5", "0.25")] == [True] * 3
    assert len(list(home.adapters_dir.iterdir())) == before + 3, "blends that failed are not kept"
