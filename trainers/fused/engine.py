"""The fused trio engine: one frozen base, all roles of a device in one forward and backward a step.

Rows of all roles lie in one packed sequence (`lean.packing`), the lean forward (`lean.model`) applies each role's
adapter to its own slice, and each role keeps its own optimizer, schedule, clip and step count (`fused.run`). Against
one role after another this loads the base once and computes each role's prompt header once a step.
"""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from ledger.errors import LunaError
from ledger.roles import Role
from trainers import runtime
from trainers.checkpoint import load_checkpoint, save_checkpoint
from trainers.config import LoraSettings, TrainSettings
from trainers.curves import LossCurves
from trainers.data import read_role_data
from trainers.fused.graph import GraphStep, step_for
from trainers.fused.run import FusedRun
from trainers.job import EngineInfo, Paused, RoleOutcome, TrioJob, TrioOutcome, TrioProgress
from trainers.lean import nf4
from trainers.lean.base import LeanBase
from trainers.lean.generator import LeanGenerator
from trainers.lean.lanes import Lanes
from trainers.lean.model import LeanModel
from trainers.models.adapter_set import AdapterSet
from trainers.models.adapters import blend, initial_adapter, lean_generator, read_adapter, write_adapter
from trainers.models.frozen import Base, load_base
from trainers.parallel import World


class FusedEngine:
    """See :class:`trainers.job.Engine`. Of several processes each has the base and passes its share of a step's rows;
    the leading one writes checkpoints and adapters."""

    name = "fused"

    def __init__(
        self,
        base: Base,
        train: TrainSettings,
        lora: LoraSettings,
        device: torch.device,
        world: World = World.alone(),
    ):
        runtime.keep_freed_memory()
        self.base, self.device, self.world = base, device, world
        self.threads = runtime.pin_threads(train.threads)
        model, tokenizer = _loaded(base, train, device)
        self.lean = LeanBase(model, tokenizer, Lanes(self.threads, device), lora)

    @property
    def info(self) -> EngineInfo:
        """See :attr:`trainers.job.Engine.info`."""
        return EngineInfo(
            engine="fused",
            device=self.device.type,
            dtype=str(self.lean.model.dtype).removeprefix("torch."),
            threads=self.threads,
            versions={"torch": torch.__version__, "machine": platform.machine(), **self._of_four_bits()},
            graphs=step_for(self.lean.model, self.lean.lora.rank) is GraphStep,
            workers=((0, self.world.size),),
        )

    def train(
        self, job: TrioJob, on_progress: Callable[[TrioProgress], None], should_stop: Callable[[], bool]
    ) -> TrioOutcome:
        """See :meth:`trainers.job.Engine.train`."""
        start = time.perf_counter()
        run = self._begin(job)
        first = run.step
        with self._curves(job, first) as curves:
            while run.step < job.steps:
                if self.world.any(should_stop()):
                    self._save(run, time.perf_counter() - start)
                    raise Paused(f"training stopped at step {run.step} of {job.steps}; the next run goes on there.")
                report = run.advance()
                if curves is not None:
                    curves.add(run.step, report.total, report.channels, report.partials)
                    on_progress(run.progress(first, time.perf_counter() - start))
                if run.step % job.train.checkpoint_every_steps == 0 and run.step < job.steps:
                    self._save(run, time.perf_counter() - start)
        self._refuse_apart(run)
        roles, info = self.world.of_lead(lambda: self._publish(run)), dataclasses.replace(self.info, workers=run.workers)
        return TrioOutcome(roles, run.seconds + time.perf_counter() - start, info)

    def generator(self, adapters: AdapterSet) -> LeanGenerator:
        """See :meth:`trainers.job.Engine.generator`."""
        return lean_generator(self.lean, adapters)

    def blended(self, parents: AdapterSet, children: AdapterSet, alpha: float, into: Path) -> AdapterSet:
        """See :meth:`trainers.job.Engine.blended`."""
        lora, shapes = self.lean.lora, self.lean.model.module_shapes
        shas: dict[Role, str] = {}
        for role in children.shas:
            parent, child = (read_adapter(one.path(role), lora, shapes) for one in (parents, children))
            shas[role] = write_adapter(into, blend(parent, child, alpha), lora, self.base.loadable)
        return AdapterSet(into, shas)

    def _of_four_bits(self) -> dict[str, str]:
        return {} if self.lean.model.whole else {"bitsandbytes": nf4.version()}

    def _begin(self, job: TrioJob) -> FusedRun:
        """Adapters from the parents or the seed, then the leading process's checkpoint over them if it has one."""
        run = self.world.together(lambda: self._new_run(job))
        checkpoint = self.world.of_lead(lambda: load_checkpoint(Path(job.run_dir), run.fingerprint))
        if checkpoint is not None:
            run.load_state_dict(*checkpoint)
        return run

    def _new_run(self, job: TrioJob) -> FusedRun:
        lean = dataclasses.replace(self.lean, lora=job.lora)
        bank, shapes = lean.empty_bank(len(job.roles), trainable=True), lean.model.module_shapes
        for slot, role in enumerate(job.roles):
            parent = job.parents[role]
            if parent is None:
                bank.load_state_dict(slot, initial_adapter(shapes, job.lora.rank, job.seed, role))
            else:
                bank.load_state_dict(slot, read_adapter(Path(job.adapters_dir) / parent, job.lora, shapes))
        return FusedRun(lean, job, bank, read_role_data(job), self.info, self.world)

    def _curves(self, job: TrioJob, first: int) -> AbstractContextManager[LossCurves | None]:
        """The job's curves, where this process writes them."""
        return LossCurves(Path(job.run_dir) / "tensorboard", job.roles, first) if self.world.leads else nullcontext()

    def _save(self, run: FusedRun, seconds: float) -> None:
        """A checkpoint of the run, `seconds` after this process began."""
        self._refuse_apart(run)
        self.world.of_lead(lambda: save_checkpoint(Path(run.job.run_dir), run.step, *run.state_dict(seconds)))

    def _refuse_apart(self, run: FusedRun) -> None:
        if not self.world.are_equal(run.bank.master):
            raise LunaError(
                f"the {self.world.size} processes of the training do not have the same adapters at step {run.step}; "
                "nothing of it is kept. Are their machines of one kind, with the same versions? Start it again from "
                "its last checkpoint, or with one worker."
            )

    def _publish(self, run: FusedRun) -> dict[Role, RoleOutcome]:
        """Write each role's adapter and say what it learned from."""
        job = run.job
        outcomes: dict[Role, RoleOutcome] = {}
        for slot, role in enumerate(job.roles):
            sha = write_adapter(Path(job.adapters_dir), run.bank.state_dict(slot), job.lora, self.base.loadable)
            outcomes[role] = RoleOutcome.of(
                job, role, sha, len(run.data.examples[role]), run.losses[role], run.skipped_updates(role)
            )
        return outcomes


def _loaded(base: Base, train: TrainSettings, device: torch.device) -> tuple[LeanModel, Any]:
    """(the base on the device, its tokenizer). What is held in four bits goes there layer by layer, never as a whole."""
    dtype = runtime.resolve_dtype(train.dtype, device)
    if train.quantize == "none":
        hf_model, tokenizer = load_base(base.path, dtype, device)
        return LeanModel(hf_model), tokenizer
    hf_model, tokenizer = load_base(base.path, dtype, torch.device("cpu"))
    return LeanModel(hf_model, nf4.Nf4(device), device), tokenizer
