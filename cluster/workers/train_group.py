"""One job trained by several workers, each on a device of its own: Ray Train starts them, and again when one is lost.

A group is made for one job and ended with it: its workers load the base, join by gloo on CPUs and by nccl beside it on
GPUs, and open the engine as any trainer does. When a worker is lost Ray Train ends the others and starts as many as the
cluster has devices for now, at least one, which go on from the last checkpoint; when devices come back, the same.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from cluster.calls import get
from cluster.placement import Placement
from cluster.store.depot import depot_of
from cluster.store.mirror import Mirror
from cluster.store.reach import HomeNotSeenError, Setup
from cluster.trainer_actor import ENVIRONMENT, LESS_MEMORY, TrainerLine, TrainerReport
from ledger.errors import LunaError
from ledger.logs import LineHandler, listening
from trainers.config import TrainSettings
from trainers.job import Engine, Paused, TrioJob, TrioOutcome, TrioProgress
from trainers.models.frozen import Base

_START_TIMEOUT_S = 300
"""Longest wait for a first worker to get its device."""

_LOSSES = 2
"""Times that a group is started again: a worker that is lost a third time in the same work is not bad luck."""

_LOOK_EVERY_S = 1.0
_TELL_EVERY_S = 0.5
"""How often the leading worker says how far it is, and asks whether to stop; the others hear it from it."""

_REPORT_TIMEOUT_S = 30


@dataclass(frozen=True)
class _Order:
    """What every worker of a group is told."""

    setup: Setup
    train: TrainSettings
    job: TrioJob
    on_gpus: bool
    group: Any
    """The actor of :class:`TrainGroup`."""


def train_in_group(
    placement: Placement,
    setup: Setup,
    job: TrioJob,
    on_progress: Callable[[TrioProgress], None],
    stop: threading.Event,
) -> TrioOutcome:
    """Train a job on up to `placement.workers` devices. What Ray Train notes of the group goes to the job's `run_dir`.

    Raises:
        Paused: `stop` was set; a checkpoint is saved.
        LunaError: what an engine raises, no device became free, or workers were lost too often.
    """
    if placement.workers > 1 and 0 < placement.gpus < 1:
        raise LunaError(
            f"{placement.workers} workers of {placement.name} would each have {placement.gpus:g} of a GPU; workers "
            "that train together need a whole one each. Plan fewer workers."
        )
    group = ray.remote(TrainGroup).options(
        num_cpus=0,
        max_concurrency=4,
        max_restarts=0,
        label_selector=_this_node(),
        runtime_env={"env_vars": ENVIRONMENT},
    )
    actor = group.remote()
    try:
        return _follow(actor, actor.train.remote(placement, setup, job), on_progress, stop)
    finally:
        ray.kill(actor)  # which ends its workers


def _follow(actor: Any, asked: Any, on_progress: Callable[[TrioProgress], None], stop: threading.Event) -> TrioOutcome:
    """The group's answer; meanwhile its progress and log lines are passed on, and the wish to stop is told."""
    begun = time.monotonic()
    while not ray.wait([asked], timeout=_LOOK_EVERY_S)[0]:
        if stop.is_set():
            actor.stop.remote()
        report, has_begun = _report(actor)
        if report.progress is not None:
            on_progress(report.progress)
        if not has_begun:
            _refuse_to_wait_longer(time.monotonic() - begun, stop)
    _report(actor)  # what was logged at its end
    try:
        outcome: TrioOutcome = get(asked)
    except RayActorError as error:
        raise LunaError(f"the group of trainers ended ({type(error).__name__}); look at the Ray dashboard.") from error
    return outcome


def _refuse_to_wait_longer(waited_s: float, stop: threading.Event) -> None:
    if stop.is_set():
        raise Paused("training stopped before a worker had begun; the next run begins it.")
    if waited_s > _START_TIMEOUT_S:
        raise LunaError(
            f"no worker of the group began within {_START_TIMEOUT_S} s: no node has the CPUs and GPUs that one asks "
            "for free. Look at the Ray dashboard."
        )


def _report(actor: Any) -> tuple[TrainerReport, bool]:
    """What the group says now, and whether a worker has begun; its log lines are logged here."""
    report, has_begun = TrainerReport(None, []), True
    with suppress(RayActorError, GetTimeoutError):  # a death is seen where the answer is awaited
        report, has_begun = ray.get(actor.report.remote(), timeout=_REPORT_TIMEOUT_S)
    for line in report.lines:
        line.log()
    return report, has_begun


class TrainGroup:
    """Threaded: one call runs Ray Train, while workers tell it how far they are and others ask. Its end is theirs."""

    def __init__(self) -> None:
        self._lines: list[TrainerLine] = []
        self._progress: TrioProgress | None = None
        self._begun, self._stop = 0, False

    def train(self, placement: Placement, setup: Setup, job: TrioJob) -> TrioOutcome:
        """Run the group to the end; raises what the engine raises."""
        try:
            return self._train(placement, setup, job)
        except HomeNotSeenError:
            if setup.reach is None or setup.reach.depot is not None:
                raise
            return self._train(placement, replace(setup, reach=setup.reach.under(depot_of(setup.reach))), job)

    def _train(self, placement: Placement, setup: Setup, job: TrioJob) -> TrioOutcome:
        from ray.train.v2.api.exceptions import TrainingFailedError

        # A group may shrink, grow and move to other nodes: the threads must not depend on which ones, as bytes do.
        threads = setup.settings.train.threads or 1
        train = setup.settings.train.model_copy(update={"threads": threads})
        order = _Order(setup, train, job, placement.gpus > 0, ray.get_runtime_context().current_actor)
        try:
            answer = _trainer(placement, threads, order).fit().return_value
        except TrainingFailedError as error:
            reason = str(error).strip().splitlines()[-1][:300]
            raise LunaError(
                f"the workers of {placement.name} failed {_LOSSES + 1} times in the same work ({reason}); look at the "
                f"Ray dashboard's logs. {LESS_MEMORY}"
            ) from error
        if isinstance(answer, LunaError):
            raise answer
        outcome: TrioOutcome = answer
        return outcome

    def begin(self, size: int) -> None:
        """Of the leading worker: so many have begun, for the first time or after another number of them."""
        self._begun += 1
        again = "; it goes on from its last checkpoint, since a worker was lost or came" if self._begun > 1 else ""
        self._lines.append(TrainerLine(__name__, logging.INFO, f"{size} worker(s) train together{again}", None))

    def tell(self, progress: TrioProgress | None, lines: list[TrainerLine]) -> bool:
        """Of the leading worker: how far it is. Returns whether to stop."""
        self._progress = progress or self._progress
        self._lines += lines
        return self._stop

    def report(self) -> tuple[TrainerReport, bool]:
        """What there is to tell, and whether a worker has begun."""
        lines, self._lines = self._lines, []
        return TrainerReport(self._progress, lines), self._begun > 0

    def stop(self) -> None:
        """Ask the workers to save a checkpoint and return."""
        self._stop = True


def _trainer(placement: Placement, threads: int, order: _Order) -> Any:
    """Ray Train's trainer of a group."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.config import LoggingConfig

    on_gpus = placement.gpus > 0
    resources: dict[str, float] = {"CPU": threads, **({"GPU": placement.gpus} if on_gpus else {})}
    return TorchTrainer(
        _work,
        train_loop_config={"order": order},
        # What is decided on the host goes by gloo, so that no worker waits for its GPU to tell it.
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if on_gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=(1, placement.workers), use_gpu=on_gpus, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=f"{placement.name}-{uuid.uuid4().hex[:8]}",  # under a name that it knows Ray Train would go on
            storage_path=str(Path(order.job.run_dir) / "ray-train"),
            failure_config=FailureConfig(max_failures=_LOSSES),
            worker_runtime_env={"env_vars": ENVIRONMENT},
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )


def _work(config: dict[str, Any]) -> TrioOutcome | LunaError:
    """One worker's part. A user's error is its answer: Ray Train starts a group again that raises."""
    from trainers.engines import open_engine
    from trainers.parallel import World

    order: _Order = config["order"]
    world = World.current()
    if world.leads:
        get(order.group.begin.remote(world.size))
    with _Link(order.group if world.leads else None) as link:
        try:
            device, lora = _device(order.on_gpus), order.setup.settings.lora
            mirror, base, job = world.together(lambda: _files_here(order))
            engine = world.together(lambda: open_engine(base, order.train, lora, device))
            if mirror is None or not world.leads:
                return engine.train(job, link.note, link.should_stop)
            return _train_away(mirror, engine, job, link)
        except LunaError as error:
            return error


def _files_here(order: _Order) -> tuple[Mirror | None, Base, TrioJob]:
    """Base and job with paths of this worker's node, and what sends files back where that does not see the home."""
    setup = order.setup
    if setup.reach is None or setup.reach.sees_home():
        return None, setup.base, order.job
    mirror = Mirror(setup.reach)
    base = mirror.opened(setup.base)
    return mirror, base, mirror.brought("train", (order.job,))[0]


def _train_away(mirror: Mirror, engine: Engine, job: TrioJob, link: _Link) -> TrioOutcome:
    """Train in the leading worker on a node that does not see the home, which gets what it writes."""

    def note(progress: TrioProgress) -> None:
        link.note(progress)
        mirror.send_new_checkpoint()

    try:
        return engine.train(job, note, link.should_stop)
    finally:
        mirror.send_back()


def _device(on_gpus: bool) -> Any:
    """The device that Ray has given this worker; all GPUs of a node's workers are visible to each."""
    import torch
    from ray.train.torch import get_device

    return get_device() if on_gpus else torch.device("cpu")


class _Link:
    """What a worker and its group tell each other: now and then while it trains, and at the end.

    Args:
        group: the actor; None in a worker that does not lead.
    """

    def __init__(self, group: Any):
        self._group = group
        self._lines: list[TrainerLine] = []
        self._progress: TrioProgress | None = None
        self._told, self._stop = time.monotonic(), False
        self._listening = ExitStack()

    def __enter__(self) -> _Link:
        self._listening.enter_context(listening(LineHandler(self._keep)))
        return self

    def __exit__(self, *_: object) -> None:
        self._tell()
        self._listening.close()

    def note(self, progress: TrioProgress) -> None:
        """How far the training is."""
        self._progress = progress

    def should_stop(self) -> bool:
        """Whether it is to stop, as far as this worker knows."""
        if time.monotonic() - self._told > _TELL_EVERY_S:
            self._tell()
        return self._stop

    def _tell(self) -> None:
        if self._group is not None:
            lines, self._lines = self._lines, []
            self._stop = get(self._group.tell.remote(self._progress, lines))
            self._told = time.monotonic()

    def _keep(self, record: logging.LogRecord) -> None:
        self._lines.append(TrainerLine.of(record))


def _this_node() -> dict[str, str]:
    return {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
