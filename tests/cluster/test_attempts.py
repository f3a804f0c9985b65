"""A step that fails three times at the same place is given up with its reason, and the head stays."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.attempts import MOST, HopelessError, begin_step, reached_in, tried_enough
from cluster.run_worker import RunWorker
from ledger.errors import LunaError
from ledger.home import Home
from ledger.journal import Attempt, RunJournal
from ledger.store import Stores
from serving import app
from tests.ledger.builders import make_ledger, sha

CRASHED = Attempt("", "failed", "ValueError: no such thing")
KILLED = Attempt("", "", "")
PAUSED = Attempt("", "paused", "")


def test_three_failures_are_enough_and_the_reason_names_how_they_ended() -> None:
    assert tried_enough("plan", [CRASHED, KILLED], "") is None
    reason = tried_enough("plan", [CRASHED, KILLED, CRASHED], "")
    assert reason is not None
    assert "plan was begun 3 times" in reason
    assert "ValueError: no such thing" in reason
    assert "its process was killed" in reason
    assert "The head stays" in reason


def test_a_pause_is_no_failure() -> None:
    assert tried_enough("train", [CRASHED, PAUSED, CRASHED, *[PAUSED] * 5], "") is None
    assert tried_enough("train", [CRASHED, PAUSED, CRASHED, PAUSED, KILLED], "") is not None


def test_a_training_that_comes_further_each_time_is_never_given_up() -> None:
    far = [Attempt(f"checkpoint-{number}", "", "") for number in range(50)]
    assert tried_enough("train", far, "checkpoint-50") is None
    stuck = [*far, *[Attempt("checkpoint-50", "", "")] * MOST]
    assert tried_enough("train", stuck, "checkpoint-50") is not None
    assert tried_enough("train", stuck, "checkpoint-51") is None


@given(st.lists(st.sampled_from([CRASHED, KILLED, PAUSED])))
def test_what_was_tried_is_given_up_exactly_after_three_that_were_no_pauses(attempts: list[Attempt]) -> None:
    assert (tried_enough("measure", attempts, "") is not None) == (sum(a is not PAUSED for a in attempts) >= MOST)


def test_the_journal_keeps_how_each_attempt_ended_across_restarts(tmp_path: Path) -> None:
    make_ledger(tmp_path).close()
    home = Home(tmp_path)
    folder = home.run_dir("run-a")
    for end in ("killed", "told", "killed again"):
        with Stores.create(home) as stores:  # a process of its own
            journal = stores.journal
            if end == "killed":
                journal.create_run("run-a", "main", 0, {})
            begin_step(journal, "run-a", "train", folder)
            if end == "told":
                journal.end_attempt("run-a", "train", "failed", "the disk is full")
                journal.end_attempt("run-a", "train", "failed", "told twice")
    with Stores.create(home) as stores:
        assert [a.error for a in stores.journal.attempts("run-a", "train")] == ["", "the disk is full", ""]
        with pytest.raises(HopelessError, match=r"train was begun 3 times.*the disk is full"):
            begin_step(stores.journal, "run-a", "train", folder)
        (folder / "creative" / "checkpoint-4").mkdir(parents=True)
        assert reached_in(folder) == "creative/checkpoint-4"
        begin_step(stores.journal, "run-a", "train", folder)


def test_notes_on_a_training_outlive_its_attempts_and_a_finished_group_is_progress(tmp_path: Path) -> None:
    make_ledger(tmp_path).close()
    folder = Home(tmp_path).run_dir("run-a")
    with Stores.create(Home(tmp_path)) as stores:
        journal = stores.journal
        journal.create_run("run-a", "main", 0, {})
        with pytest.raises(LunaError, match="has not begun"):
            journal.note("run-a", "train", {})
        for _ in range(MOST):
            begin_step(journal, "run-a", "train", folder)
        assert journal.notes("run-a", "train") is None
        journal.note("run-a", "train", {"done": {"creative+logical": {}}})
        journal.end_attempt("run-a", "train", "failed", "a node was lost")
        begin_step(journal, "run-a", "train", folder)
        assert journal.notes("run-a", "train") == {"done": {"creative+logical": {}}}
        assert [one.reached for one in journal.attempts("run-a", "train")] == ["", "", "", "creative+logical"]
        assert journal.attempts("run-a", "train")[2].error == "a node was lost"


def test_the_run_that_was_in_work_is_known_from_the_journal_whatever_its_lineage(tmp_path: Path) -> None:
    make_ledger(tmp_path).close()
    with Stores.create(Home(tmp_path)) as stores:
        journal: RunJournal = stores.journal
        for name in ("other", "third"):
            stores.ledger.create_lineage(name, sha("a"))
        for number, lineage in enumerate(("main", "other", "third")):
            journal.create_run(f"run-{number}", lineage, 0, {})
        journal.record_step("run-2", "collect", "before")
        journal.end_attempt("run-2", "collect", "failed", "no data")
        journal.record_step("run-1", "collect", "before")
        journal.record_step("run-1", "collect", "after", {})
        journal.record_step("run-1", "plan", "before")
        journal.finish_run("run-0", "abandoned")
        assert [run.run_id for run in journal.open_runs()] == ["run-1", "run-2"]
        assert [journal.at_rest(run) for run in journal.open_runs()] == ["", "failed"]
        journal.end_attempt("run-1", "plan", "paused")
        assert [journal.at_rest(run) for run in journal.open_runs()] == ["paused", "failed"]
        journal.record_step("run-1", "plan", "before")
        assert journal.at_rest(journal.open_runs()[0]) == "", "it goes on"


class Poisoned:
    """A pool on which no generation can even open its session's device."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def open(self, home: Any, base: Any, settings: Any, recorded: Any = ()) -> Any:
        return self

    @property
    def groups(self) -> Any:
        raise self.error


@pytest.mark.parametrize("error", [LunaError("no GPU is free"), ZeroDivisionError("division by zero")])
def test_a_run_is_closed_when_its_step_has_failed_three_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    from cluster.request import GenerationRequest, PinnedBase
    from cluster.settings import Settings
    from cluster.steps.records import Collected
    from tests.cluster.test_steps import planned

    monkeypatch.setattr(app, "running", lambda: None)
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)  # a crash is told by the state
    make_ledger(tmp_path).close()
    home = Home(tmp_path)
    request = GenerationRequest(settings=Settings(), base=PinnedBase(source="tiny", sha=sha("a")), data=())
    with Stores.create(home) as stores:
        run = stores.journal.create_run("run-a", "main", 0, request.model_dump(mode="json"))
        collected = Collected(parent=None, collected_sha=sha("e"), n_new=8, n_held_out=2)
        for record in (collected, planned()):
            stores.journal.record_step("run-a", record.step, "before")
            stores.journal.record_step("run-a", record.step, "after", record.model_dump(mode="json"))
        worker: Any = RunWorker(home, Poisoned(error))  # type: ignore[arg-type]
        ends = []
        for _ in range(3):
            worker.start(stores, run)
            worker._thread.join(30)
            ends.append(worker.state(0).ended)
        first = "interrupted" if isinstance(error, LunaError) else "crashed"
        assert [end.state for end in ends] == [first, first, "failed"]
        assert str(error) in ends[-1].reason
        closed = stores.journal.runs()[0]
        assert (closed.state, closed.message) == ("failed", ends[-1].reason)
        assert stores.journal.open_run("main") is None, "the next generation may begin"
