"""Two processes of one thread each that train jobs of the sharded engine through gloo, and what each of them saw."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch.distributed as dist

from ledger.errors import LunaError
from tests.trainers.builders import CPU
from trainers.engines import open_engine
from trainers.job import TrioJob, TrioOutcome
from trainers.models.frozen import Base
from trainers.sharded import engine as sharded
from trainers.sharded.engine import ShardedEngine, WholeOutcome
from trainers.sharded.placement import Loader, Placement, Plan
from trainers.sharded.strategies import placed


@dataclass(frozen=True)
class Task:
    """A job of a group under a strategy."""

    base: Base
    job: TrioJob
    whole_into: Path | None = None
    """Train the whole base instead, and put it here."""
    stop_after: int | None = None
    """The process of the highest rank asks to stop after so many steps."""


@dataclass
class Told:
    """What one process saw of a task."""

    outcome: TrioOutcome | WholeOutcome | None = None
    error: str = ""
    losses: list[dict[str, float]] = field(default_factory=list)
    channels: list[dict[str, dict[str, float]]] = field(default_factory=list)
    optimizers: list[str] = field(default_factory=list)
    """Classes: what moves the parameters, and torch's within it."""
    model: str = ""
    state_share: float = 0.0
    """Of all first moments, those that this process holds."""
    weight_share: float = 0.0
    """Of the whole model's numbers, those that this process holds between two steps."""

    @property
    def loss(self) -> list[float]:
        """Of every step of the only role."""
        return [next(iter(one.values())) for one in self.losses]


def train_together(folder: Path, tasks: Sequence[Task], size: int = 2) -> list[list[Told]]:
    """What each process saw of each task, by rank."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(size) as pool:
        meeting = str(folder / "meeting")
        asked = [pool.apply_async(_worker, (rank, size, meeting, tasks)) for rank in range(size)]
        return [one.get(240) for one in asked]


def _worker(rank: int, size: int, meeting: str, tasks: Sequence[Task]) -> list[Told]:
    dist.init_process_group("gloo", store=dist.FileStore(meeting, size), rank=rank, world_size=size)
    told = [train_here(task, last=rank == size - 1) for task in tasks]
    dist.destroy_process_group()
    return told


def train_here(task: Task, last: bool = True) -> Told:
    """One task in this process, with the others of its group, if it has one."""
    told, steps, job = Told(), 0, task.job
    engine = open_engine(task.base, job.train, job.lora, CPU)
    assert isinstance(engine, ShardedEngine)

    @contextlib.contextmanager
    def watched(load: Loader, plan: Plan) -> Iterator[Placement]:
        with placed(load, plan) as placement:
            yield placement
            _look(told, placement)

    def note(progress: Any) -> None:
        told.losses.append(dict(progress.losses))
        told.channels.append(progress.channels)

    def asked_to_stop() -> bool:
        nonlocal steps
        steps += 1
        return last and task.stop_after is not None and steps > task.stop_after

    setattr(sharded, "placed", watched)  # noqa: B010  # its own name there is not exported
    try:
        if task.whole_into is None:
            told.outcome = engine.train(job, note, asked_to_stop)
        else:
            told.outcome = engine.train_whole(job, task.whole_into, note, asked_to_stop)
    except LunaError as error:
        told.error = f"{type(error).__name__}: {error}"
    finally:
        setattr(sharded, "placed", placed)  # noqa: B010
    return told


def _look(told: Told, placement: Any) -> None:
    outer = placement.optimizer
    inner = getattr(outer, "optimizer", outer)
    told.optimizers = [type(outer).__name__, type(inner).__name__]
    parameters = list(placement.parameters.values())
    held = sum(local(state["exp_avg"]).numel() for state in inner.state.values())
    told.state_share = held / sum(whole_size(parameter) for parameter in parameters)
    model = getattr(placement, "engine", None) or placement.model
    told.model = type(model).__name__
    own = [getattr(one, "ds_tensor", one) for one in model.parameters()]
    told.weight_share = sum(local(one).numel() for one in own) / sum(whole_size(one) for one in model.parameters())


def local(tensor: Any) -> Any:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def whole_size(parameter: Any) -> int:
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def under(job: TrioJob, strategy: str, run: str, offload_param: bool = False, **train: Any) -> TrioJob:
    """The job for the sharded engine, with a folder of its own."""
    settings = job.train.model_dump() | {"engine": "sharded", "threads": 1} | train
    settings["sharded"] = {"strategy": strategy, "offload_param": offload_param}
    chosen = type(job.train).model_validate(settings)
    return dataclasses.replace(job, train=chosen, run_dir=str(Path(job.run_dir).with_name(run)))
