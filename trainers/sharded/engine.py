"""The sharded engine: one learner after another, its model laid over the workers of a process group.

For a base that does not fit one card, and for training the base itself. It takes the process group that is initialised,
or is alone; all workers make the same calls, and the leading one writes. The fused engine is faster wherever the base
fits: here a role follows the other, and each prompt is computed whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ledger.errors import LunaError
from ledger.files import write_atomic
from ledger.roles import BASE, Role, Voice
from trainers import runtime
from trainers.checkpoint import fingerprint, load_checkpoint, save_checkpoint
from trainers.config import LoraSettings, TrainSettings
from trainers.curves import LossCurves
from trainers.data import RoleData, read_role_data
from trainers.job import EngineInfo, Paused, RoleOutcome, TrioJob, TrioOutcome, TrioProgress
from trainers.models.adapter_set import AdapterSet
from trainers.models.adapters import blend_files
from trainers.models.frozen import Base, load_base, load_tokenizer
from trainers.parallel import World
from trainers.reference.generator import PeftGenerator, with_adapter
from trainers.sharded.learner import (
    adapted,
    begin_adapter,
    keep_no_states,
    publish_adapter,
    publish_whole,
    take_adapter,
    whole,
)
from trainers.sharded.placement import Loader, Plan
from trainers.sharded.progress import Watch
from trainers.sharded.ranks import group_of, launcher_environment, tensors_of_lead
from trainers.sharded.run import ShardedRun
from trainers.sharded.strategies import placed

Workers = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class WholeOutcome:
    """A base whose every weight was trained."""

    base: Base
    """`<models>/<sha>`, in Hugging Face's format, with its parent's tokenizer."""
    steps: int
    losses: Sequence[float]
    """Of every step, nats a token, or all channels together."""
    seconds: float
    engine: EngineInfo


class ShardedEngine:
    """See :class:`trainers.job.Engine`."""

    name = "sharded"
    lean = None

    def __init__(self, base: Base, train: TrainSettings, lora: LoraSettings, device: torch.device):
        if train.quantize != "none":
            raise LunaError(
                f'the sharded engine holds its base as it is, and [train] quantize = "{train.quantize}" needs the '
                'fused engine. Leave it out: [train.sharded] strategy = "zero3" with offload_param makes room too.'
            )
        self.base, self.settings, self.lora, self.device = base, train, lora, device
        self.threads = runtime.pin_threads(train.threads)
        self.dtype = runtime.resolve_dtype(train.dtype, device)
        self.tokenizer = load_tokenizer(base.path)
        self._answering: Any = None

    @property
    def info(self) -> EngineInfo:
        """See :attr:`trainers.job.Engine.info`."""
        packages = ["accelerate", "peft", "transformers"]
        packages += ["deepspeed"] if self.settings.sharded.strategy.startswith("zero") else []
        versions = {name: version(name) for name in packages}
        return EngineInfo(
            engine="sharded",
            device=self.device.type,
            dtype=str(self.dtype).removeprefix("torch."),
            threads=self.threads,
            versions={"torch": torch.__version__, "machine": platform.machine(), **versions},
            card=runtime.card_of(self.device),
            workers=((0, World.current().size),),
        )

    def train(
        self, job: TrioJob, on_progress: Callable[[TrioProgress], None], should_stop: Callable[[], bool]
    ) -> TrioOutcome:
        """See :meth:`trainers.job.Engine.train`."""
        with self._session(job) as session:
            watch = Watch(job, session.data, on_progress)
            done = [self._train_role(session, role, watch, should_stop) for role in job.roles]
            outcomes = dict(zip(job.roles, (one.outcome for one in done), strict=True))
            steps = [job.role_steps[role] for role in job.roles]
            workers = one_after_another([one.workers for one in done], steps)
            info = dataclasses.replace(self.info, workers=workers)
            return TrioOutcome(outcomes, sum(one.seconds for one in done), info)

    def train_whole(
        self,
        job: TrioJob,
        models_dir: Path,
        on_progress: Callable[[TrioProgress], None],
        should_stop: Callable[[], bool],
    ) -> WholeOutcome:
        """Train every weight of the base on the rows of all the job's roles together, at the first one's rate.

        Of the job its parents and adapters are not looked at. Raises as :meth:`trainers.job.Engine.train` does.
        """
        if len({job.train.lr_of(role) for role in job.roles}) > 1:
            raise LunaError("the whole base has one learning rate; give [train] lr as one number.")
        with self._session(job) as session:
            watch, folder = Watch(job, session.data, on_progress), Path(job.run_dir) / "whole"
            with self._placed(lambda: whole(self.base, self._own_dtype()), session, job.roles, folder) as run:
                seconds = self._to_the_end(run, session, folder, watch, should_stop)
                masters = run.placement.masters()
                base = session.world.of_lead(lambda: publish_whole(models_dir, masters, self.base))
            info = dataclasses.replace(self.info, workers=run.workers)
            return WholeOutcome(base, run.steps, run.losses, seconds, info)

    def _own_dtype(self) -> torch.dtype:
        """Of weights that are all trained: DeepSpeed keeps float32 copies of its own, the others train them as such."""
        return self.dtype if self.settings.sharded.strategy.startswith("zero") else torch.float32

    def generator(self, adapters: AdapterSet) -> PeftGenerator:
        """See :meth:`trainers.job.Engine.generator`."""

        @contextlib.contextmanager
        def voiced(voice: Voice) -> Iterator[Any]:
            model = self._speaking()
            if voice == BASE:
                yield model
                return
            if voice not in adapters.shas:
                raise LunaError(f"there is no adapter of {voice!r} here; those there are: {', '.join(adapters.shas)}.")
            with with_adapter(model, adapters.path(voice), self.lora) as adapted_model:
                yield adapted_model.eval()

        return PeftGenerator(voiced, self.tokenizer, self.device)

    def blended(self, parents: AdapterSet, children: AdapterSet, alpha: float, into: Path) -> AdapterSet:
        """See :meth:`trainers.job.Engine.blended`."""
        return blend_files(parents, children, alpha, into)

    def _speaking(self) -> Any:
        """The base as it answers: where one device has no room for it, accelerate spreads it over all and memory."""
        if self._answering is None:
            from accelerate import dispatch_model, infer_auto_device_map

            model, _ = load_base(self.base.path, self.dtype, None)
            where = infer_auto_device_map(model, no_split_module_classes=model._no_split_modules)
            self._answering = dispatch_model(model, where)
        return self._answering

    @contextlib.contextmanager
    def _session(self, job: TrioJob) -> Iterator[_Session]:
        """What all learners of a job share; the answering model makes room first."""
        _refuse_online_health(job)
        self._answering = None
        runtime.pin_threads(self.threads)
        world = group_of(self.device)
        with launcher_environment(world, self.device, self.threads):
            data = world.together(lambda: read_role_data(job))
            yield _Session(job, data, world, world.of_lead(lambda: fingerprint(job, self.info)))

    def _train_role(self, session: _Session, role: Role, watch: Watch, should_stop: Callable[[], bool]) -> _Done:
        """One role to its end, or what it came to before an interruption."""
        job, world, folder = session.job, session.world, Path(session.job.run_dir) / role
        if (done := world.of_lead(lambda: _finished(folder, session.mark))) is not None:
            watch.reached([role], job.role_steps[role])
            return done
        with self._placed(lambda: self._adapter_model(job, role), session, [role], folder) as run:
            seconds = self._to_the_end(run, session, folder, watch, should_stop)
            masters = run.placement.masters()

            def publish() -> _Done:
                sha = publish_adapter(Path(job.adapters_dir), masters, job.lora, self.base.loadable)
                skipped = {"learned": run.learned} if run.learned else {}
                rows = len(session.data.examples[role])
                outcome = RoleOutcome.of(job, role, sha, rows, run.losses, skipped)
                return _finish(folder, session.mark, _Done(outcome, seconds, run.workers))

            return world.of_lead(publish)

    def _adapter_model(self, job: TrioJob, role: Role) -> Any:
        model, parent = adapted(self.base, self.dtype, job.lora), job.parents[role]
        if parent is None:
            begin_adapter(model, role, job.seed)
        else:
            take_adapter(model, Path(job.adapters_dir) / parent, job.lora)
        return model

    @contextlib.contextmanager
    def _placed(self, load: Loader, session: _Session, roles: Sequence[Role], folder: Path) -> Iterator[ShardedRun]:
        """A learner at the start, or at its last checkpoint."""
        job, world = session.job, session.world
        plan = Plan(world, self.device, self.dtype, job.train)

        def model() -> Any:
            found = load()
            if job.train.gradient_checkpointing:
                keep_no_states(found)
            return found

        with placed(model, plan) as placement:
            runtime.pin_threads(self.threads)  # accelerate sets its own number
            run = ShardedRun(placement, plan, job, roles, session.data, self.tokenizer)
            found = load_checkpoint(folder, session.mark) if world.leads else None
            if (record := world.of_lead(lambda: None if found is None else found[1])) is not None:
                run.load_state_dict(tensors_of_lead(world, found[0] if found else {}), record)
            yield run
        del placement
        gc.collect()  # the strategies' hooks hold on to the model in circles
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _to_the_end(
        self, run: ShardedRun, session: _Session, folder: Path, watch: Watch, should_stop: Callable[[], bool]
    ) -> float:
        """All steps that are left; returns the seconds of training over all parts of the run."""
        start, world, every = time.perf_counter(), session.world, session.job.train.checkpoint_every_steps

        def save() -> None:
            tensors, record = run.state_dict(session.mark, time.perf_counter() - start)
            world.of_lead(lambda: save_checkpoint(folder, run.step, tensors, record))

        watch.reached(run.roles, run.step)
        with _curves(world, folder, run) as curves:
            while run.step < run.steps:
                if world.any(should_stop()):
                    save()
                    raise Paused(
                        f"training of {', '.join(run.roles)} stopped at step {run.step} of {run.steps}; "
                        "the next run goes on there."
                    )
                found = run.advance()
                if curves is not None:
                    total = dict.fromkeys(run.roles, found.total)
                    channels = {name: dict.fromkeys(run.roles, loss) for name, loss in found.channels.items()}
                    curves.add(run.step, total, channels)
                    watch.step(run.roles, run.step, found)
                if run.step % every == 0 and run.step < run.steps:
                    save()
        return run.seconds + time.perf_counter() - start


@dataclass(frozen=True)
class _Session:
    """A job under way, as every learner of it sees it."""

    job: TrioJob
    data: RoleData
    world: World
    mark: str
    """Fingerprint that its checkpoints carry."""


@dataclass(frozen=True)
class _Done:
    """A role that was trained."""

    outcome: RoleOutcome
    seconds: float
    workers: Workers


def one_after_another(workers: Sequence[Workers], steps: Sequence[int]) -> Workers:
    """How many workers there were from which step on, of learners that were trained one after another."""
    found: list[tuple[int, int]] = []
    before = 0
    for own, taken in zip(workers, steps, strict=True):
        for first, size in own:
            if not found or found[-1][1] != size:
                found.append((before + first, size))
        before += taken
    return tuple(found)


def _curves(world: World, folder: Path, run: ShardedRun) -> AbstractContextManager[LossCurves | None]:
    """The learner's curves, where this process writes them."""
    return LossCurves(folder / "tensorboard", run.roles, run.step) if world.leads else nullcontext()


def _finished(folder: Path, mark: str) -> _Done | None:
    """What a role came to, if it was trained to its end in this job."""
    record = folder / "role.json"
    found: Mapping[str, Any] = json.loads(record.read_text()) if record.exists() else {}
    if found.get("fingerprint") != mark:
        return None
    workers = tuple((int(first), int(size)) for first, size in found["workers"])
    return _Done(RoleOutcome(**found["outcome"]), found["seconds"], workers)


def _finish(folder: Path, mark: str, done: _Done) -> _Done:
    outcome = {**dataclasses.asdict(done.outcome)}
    record = {"fingerprint": mark, "outcome": outcome, "seconds": done.seconds, "workers": done.workers}
    write_atomic(folder / "role.json", json.dumps(record))
    return done


def _refuse_online_health(job: TrioJob) -> None:
    """The online gate asks for gradients that the lean forward alone gives."""
    if job.channels.mode == "dual" and job.rewards_file and job.health.online_every:
        raise LunaError(
            "the sharded engine has no online health gate. `luna generation abandon`, set [health] online_every = 0 in "
            "luna.toml, and run again; the reward health index is measured after training all the same where the base "
            "has a lean forward."
        )
