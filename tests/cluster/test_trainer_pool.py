"""Several trainers at once, when one of them dies or fails. Stand-ins train, on a real Ray."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from cluster import trainer_actor, trainer_pool
from cluster.placement import Groups, Placement
from cluster.settings import Settings
from cluster.trainer_actor import TrainerReport
from cluster.trainer_pool import TrainerSession
from cluster.workers.follow import Follower, merge_progress
from ledger.errors import LunaError
from trainers.job import Paused, TrioProgress
from trainers.models.frozen import Base

FIRST, SECOND = Placement(("creative", "logical"), 0), Placement(("dialectical",), 0)


@pytest.fixture
def session(ray_head: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainerSession:
    """Actors that do what their job says, and note it in files. There is no device for one that asks for 7 GPUs."""
    import ray

    from cluster.ray_head import connect

    connect()

    class StandIn:
        def __init__(self) -> None:
            self.stopped = False

        def open(self, *arguments: Any) -> bool:
            return True  # it sees the home

        def report(self) -> TrainerReport:
            return TrainerReport(None, [])

        def stop(self) -> None:
            self.stopped = True

        def train(self, job: dict[str, Any]) -> str:
            import os
            import time

            from ledger.errors import LunaError

            log = Path(job["log"])
            with log.open("a") as file:
                file.write("begun\n")
            if job["does"] == "dies once" and log.read_text() == "begun\n":
                os._exit(1)
            if job["does"] == "fails":
                while not Path(job["after"]).exists():
                    time.sleep(0.1)
                raise LunaError("not a number")
            deadline = time.monotonic() + job.get("seconds", 0)
            while time.monotonic() < deadline and not self.stopped:
                time.sleep(0.05)
            with log.open("a") as file:
                file.write("stopped\n" if self.stopped else "done\n")
            return job["does"]

    def start(group: Placement) -> Any:
        return ray.remote(StandIn).options(num_cpus=0, num_gpus=group.gpus, max_concurrency=4).remote()

    monkeypatch.setattr(trainer_actor, "start_trainer", start)
    return TrainerSession({}, Groups((FIRST, SECOND)), Base("tiny", "a" * 64, tmp_path), Settings())


def train(session: TrainerSession, first: dict[str, Any], second: dict[str, Any]) -> dict[Placement, Any]:
    jobs: Any = {FIRST: first, SECOND: second}
    return session.train(jobs, Follower(lambda progress: None), threading.Event())


@pytest.mark.ray
@pytest.mark.slow
def test_only_the_trainer_that_died_is_asked_again(session: TrainerSession, tmp_path: Path) -> None:
    logs = tmp_path / "first", tmp_path / "second"
    done = train(
        session, {"does": "dies once", "log": str(logs[0])}, {"does": "works", "log": str(logs[1]), "seconds": 4}
    )
    assert done == {FIRST: "dies once", SECOND: "works"}
    assert [log.read_text().split() for log in logs] == [["begun", "begun", "done"], ["begun", "done"]]


@pytest.mark.ray
@pytest.mark.slow
def test_when_one_trainer_fails_the_others_stop_at_a_safe_point(session: TrainerSession, tmp_path: Path) -> None:
    logs = tmp_path / "first", tmp_path / "second"
    with pytest.raises(LunaError, match="not a number"):
        train(
            session,
            {"does": "fails", "log": str(logs[0]), "after": str(logs[1])},
            {"does": "works", "log": str(logs[1]), "seconds": 60},
        )
    assert logs[1].read_text().split() == ["begun", "stopped"]


@pytest.mark.ray
@pytest.mark.slow
def test_a_group_without_a_device_takes_turns_on_that_of_another(
    session: TrainerSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # here alone: where two groups wait for each other, a process that starts slowly must not take turns with the other
    monkeypatch.setattr(trainer_pool, "_DEVICE_TIMEOUT_S", 1)
    log, lost = tmp_path / "log", Placement(("dialectical",), 7)
    order: list[tuple[Placement, Any]] = []
    jobs: Any = {group: {"does": group.name, "log": str(log), "seconds": 2} for group in (FIRST, lost)}
    follow = Follower(lambda progress: None, lambda group, outcome: order.append((group, outcome)))
    done: dict[Placement, Any] = {**session.train(jobs, follow, threading.Event())}
    assert order == list(done.items()) == [(FIRST, "creative+logical"), (lost, "dialectical")]
    assert log.read_text().split() == ["begun", "done", "begun", "done"], "one after the other"


@pytest.mark.ray
@pytest.mark.slow
def test_a_pause_is_kept_while_trainers_wait_for_their_devices(session: TrainerSession, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    jobs: Any = {Placement(FIRST.roles, 7): {"does": "works", "log": str(tmp_path / "log")}}
    with pytest.raises(Paused, match="before its trainers had started"):
        session.train(jobs, Follower(lambda progress: None), stop)


def test_the_slowest_device_decides_the_progress() -> None:
    first = TrioProgress(3, 10, {"creative": 1.0}, 2.0, 9.0, {"creative": 3}, {"creative": 10})
    second = TrioProgress(5, 8, {"logical": 2.0}, 3.0, 4.0, {"logical": 5}, {"logical": 8})
    both = merge_progress([first, second])
    assert (both.step, both.steps, both.examples_per_s, both.seconds_left) == (3, 10, 5.0, 9.0)
    assert both.role_steps == {"creative": 3, "logical": 5}
