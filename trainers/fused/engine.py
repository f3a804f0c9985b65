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
from pathlib import Path

import torch

from ledger.roles import Role
from trainers import runtime
from trainers.checkpoint import load_checkpoint, save_checkpoint
from trainers.config import LoraSettings, TrainSettings
from trainers.curves import LossCurves
from trainers.data import read_role_data
from trainers.fused.graph import GraphStep, step_for
from trainers.fused.run import FusedRun
from trainers.job import EngineInfo, Paused, RoleOutcome, TrioJob, TrioOutcome, TrioProgress
from trainers.lean.base import LeanBase
from trainers.lean.generator import LeanGenerator
from trainers.lean.lanes import Lanes
from trainers.lean.model import LeanModel
from trainers.models.adapter_set import AdapterSet
from trainers.models.adapters import blend, initial_adapter, lean_generator, read_adapter, write_adapter
from trainers.models.frozen import Base, load_base


class FusedEngine:
    """See :class:`trainers.job.Engine`."""

    name = "fused"

    def __init__(self, base: Base, train: TrainSettings, lora: LoraSettings, device: torch.device):
        runtime.keep_freed_memory()
        self.base, self.device = base, device
        self.threads = runtime.pin_threads(train.threads)
        hf_model, tokenizer = load_base(base.path, runtime.resolve_dtype(train.dtype, device), device)
        self.lean = LeanBase(LeanModel(hf_model), tokenizer, Lanes(self.threads, device), lora)

    @property
    def info(self) -> EngineInfo:
        """See :attr:`trainers.job.Engine.info`."""
        return EngineInfo(
            engine="fused",
            device=self.device.type,
            dtype=str(self.lean.model.dtype).removeprefix("torch."),
            threads=self.threads,
            versions={"torch": torch.__version__, "machine": platform.machine()},
            graphs=step_for(self.lean.model, self.lean.lora.rank) is GraphStep,
            card=runtime.card_of(self.device),
        )

    def train(
        self, job: TrioJob, on_progress: Callable[[TrioProgress], None], should_stop: Callable[[], bool]
    ) -> TrioOutcome:
        """See :meth:`trainers.job.Engine.train`."""
        start, run_dir = time.perf_counter(), Path(job.run_dir)
        run = self._begin(job)
        first = run.step
        with LossCurves(run_dir / "tensorboard", job.roles, first) as curves:
            while run.step < job.steps:
                if should_stop():
                    save_checkpoint(run_dir, run.step, *run.state_dict(time.perf_counter() - start))
                    raise Paused(f"training stopped at step {run.step} of {job.steps}; the next run goes on there.")
                report = run.advance()
                curves.add(run.step, report.total, report.channels, report.partials)
                on_progress(run.progress(first, time.perf_counter() - start))
                if run.step % job.train.checkpoint_every_steps == 0 and run.step < job.steps:
                    save_checkpoint(run_dir, run.step, *run.state_dict(time.perf_counter() - start))
        return TrioOutcome(self._publish(run), run.seconds + time.perf_counter() - start, self.info)

    def generator(self, adapters: AdapterSet) -> LeanGenerator:
        """See :meth:`trainers.job.Engine.generator`."""
        return lean_generator(self.lean, adapters)

    def blended(self, parents: AdapterSet, children: AdapterSet, alpha: float, into: Path) -> AdapterSet:
        """See :meth:`trainers.job.Engine.blended`."""
        lora, shapes = self.lean.lora, self.lean.model.module_shapes
        shas: dict[Role, str] = {}
        for role in children.shas:
            parent = read_adapter(parents.path(role), lora, shapes) if role in parents.shas else None
            child = read_adapter(children.path(role), lora, shapes)
            shas[role] = write_adapter(into, blend(parent, child, alpha), lora, self.base.loadable)
        return AdapterSet(into, shas)

    def _begin(self, job: TrioJob) -> FusedRun:
        """Adapters from the parents or the seed, then the checkpoint over them if one is there."""
        lean = dataclasses.replace(self.lean, lora=job.lora)
        bank, shapes = lean.empty_bank(len(job.roles), trainable=True), lean.model.module_shapes
        for slot, role in enumerate(job.roles):
            parent = job.parents[role]
            if parent is None:
                bank.load_state_dict(slot, initial_adapter(shapes, job.lora.rank, job.seed, role))
            else:
                bank.load_state_dict(slot, read_adapter(Path(job.adapters_dir) / parent, job.lora, shapes))
        run = FusedRun(lean, job, bank, read_role_data(job), self.info)
        if (checkpoint := load_checkpoint(Path(job.run_dir), run.fingerprint)) is not None:
            run.load_state_dict(*checkpoint)
        return run

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
