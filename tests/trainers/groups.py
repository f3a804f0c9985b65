"""Two processes of one thread each that train jobs together through gloo, and what each of them saw."""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist

import trainers.fused.run as run_module
from ledger.errors import LunaError
from ledger.roles import Role
from tests.trainers.builders import CPU, LORA
from trainers.config import TrainSettings
from trainers.engines import open_engine
from trainers.fused.engine import FusedEngine
from trainers.fused.graph import GraphStep, step_for
from trainers.fused.run import FusedRun
from trainers.job import TrioJob, TrioOutcome
from trainers.models.frozen import Base

ONE_THREAD = TrainSettings(dtype="float32", threads=1)


@dataclass(frozen=True)
class Task:
    """A job of a group, and what goes wrong in it."""

    job: TrioJob
    stop_after: int | None = None
    """The process of rank 1 asks to stop after so many steps."""
    disturb: bool = False
    """The process of rank 1 moves its adapters by a hair."""
    graphs: bool = False
    """Steps are taken as on a GPU, by plain operations."""


@dataclass
class Told:
    """What one process saw of a task."""

    outcome: TrioOutcome | None = None
    error: str = ""
    losses: list[dict[Role, float]] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    """Digests of masters and moments wherever the processes compare theirs."""


def train_together(folder: Path, base: Base, tasks: Sequence[Task], size: int = 2) -> list[list[Told]]:
    """What each process saw of each task, by rank."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(size) as pool:
        meeting = (folder / "meeting").as_uri()
        asked = [pool.apply_async(_worker, (rank, size, meeting, base, tasks)) for rank in range(size)]
        return [one.get(240) for one in asked]


def train_alone(base: Base, task: Task) -> Told:
    """The same of one process."""
    return _train(FusedEngine(base, ONE_THREAD, LORA, CPU), task, 0)


def _worker(rank: int, size: int, meeting: str, base: Base, tasks: Sequence[Task]) -> list[Told]:
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size)
    engine = open_engine(base, ONE_THREAD, LORA, CPU)
    assert isinstance(engine, FusedEngine)
    told = [_train(engine, task, rank) for task in tasks]
    dist.destroy_process_group()
    return told


def _train(engine: FusedEngine, task: Task, rank: int) -> Told:
    told, refuse, steps = Told(), FusedEngine._refuse_apart, 0

    def seen(run: FusedRun) -> None:
        if task.disturb and rank == 1:
            run.bank.master[0, 3] += 1e-6
        whole = torch.cat([value.reshape(-1).float() for value in run.trio.state_dict().values()])
        told.states.append(hashlib.sha256(whole.numpy().tobytes()).hexdigest())
        refuse(engine, run)

    def asked_to_stop() -> bool:
        nonlocal steps
        steps += 1
        return rank == 1 and task.stop_after is not None and steps > task.stop_after

    engine._refuse_apart = seen  # type: ignore[method-assign]
    run_module.step_for = (lambda *_: GraphStep) if task.graphs else step_for  # type: ignore[attr-defined]
    try:
        told.outcome = engine.train(task.job, lambda p: told.losses.append(dict(p.losses)), asked_to_stop)
    except LunaError as error:
        told.error = f"{type(error).__name__}: {error}"
    return told
