"""The fused trio engine: one frozen base, all roles of a device in one forward and backward a step.

Rows of all roles lie in one packed sequence (`packing`), the lean forward (`lean`) applies each role's adapter to its
own slice, and each role keeps its own optimizer, schedule, clip and step count. Against one role after another this
loads the base once and computes each role's prompt header once a step.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from curriculum.example import Example
from curriculum.parquet import read_examples
from ledger.errors import LunaError
from ledger.roles import ROLES, Role
from trainers import runtime
from trainers.adapters import initial_adapter, interpolate, read_adapter, write_adapter
from trainers.bank import AdapterBank
from trainers.base import Base, load_base
from trainers.checkpoint import fingerprint, load_checkpoint, save_checkpoint
from trainers.config import LoraSettings, TrainSettings
from trainers.curves import LossCurves
from trainers.generator import LeanGenerator
from trainers.lanes import Lanes
from trainers.lean import LeanModel
from trainers.objective import learning_rate
from trainers.packing import Group, Packed, Row, cut, pack, token_count
from trainers.step import TrioStep
from trainers.tokens import rows_of_step, tokenise
from trainers.trio import NonFiniteError, Paused, RoleOutcome, TrioJob, TrioOutcome, TrioProgress


class FusedEngine:
    """See :class:`trainers.trio.Engine`."""

    name = "fused"

    def __init__(self, base: Base, train: TrainSettings, lora: LoraSettings, device: torch.device):
        runtime.keep_freed_memory()
        self.base, self.lora, self.device = base, lora, device
        self.threads = runtime.pin_threads(train.threads)
        self.lanes = Lanes(self.threads, device)
        hf_model, self.tokenizer = load_base(base.path, runtime.resolve_dtype(train.dtype, device), device)
        self.model = LeanModel(hf_model)

    @property
    def facts(self) -> dict[str, Any]:
        return {
            "engine": self.name,
            "device": self.device.type,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "threads": self.threads,
            "torch": torch.__version__,
            "machine": platform.machine(),
        }

    def train(
        self, job: TrioJob, on_progress: Callable[[TrioProgress], None], should_stop: Callable[[], bool]
    ) -> TrioOutcome:
        """See :meth:`trainers.trio.Engine.train`."""
        start = time.perf_counter()
        run = self._begin(job)
        first = run.step
        with LossCurves(Path(job.run_dir) / "tensorboard", job.roles, first) as curves:
            while run.step < job.steps:
                if should_stop():
                    run.save()
                    raise Paused(f"training stopped at step {run.step} of {job.steps}; the next run goes on there.")
                losses = run.advance()
                curves.add(run.step, losses)
                on_progress(_progress(run, first, time.perf_counter() - start))
                if run.step % job.train.checkpoint_every_steps == 0 and run.step < job.steps:
                    run.save()
        return TrioOutcome(run.publish(), time.perf_counter() - start, self.facts)

    def generator(self, adapters: Mapping[Role, str], adapters_dir: Path) -> LeanGenerator:
        """See :meth:`trainers.trio.Engine.generator`."""
        roles = [role for role in ROLES if role in adapters]
        if not roles:
            return LeanGenerator(self.model, self.tokenizer, None, {}, self.lanes)
        bank = self._bank(len(roles), self.lora, trainable=False)
        for slot, role in enumerate(roles):
            bank.load(slot, self._read(adapters_dir / adapters[role], self.lora))
        return LeanGenerator(self.model, self.tokenizer, bank, {r: slot for slot, r in enumerate(roles)}, self.lanes)

    def interpolated(
        self, parents: Mapping[Role, str], children: Mapping[Role, str], alpha: float, adapters_dir: Path, into: Path
    ) -> dict[Role, str]:
        """See :meth:`trainers.trio.Engine.interpolated`."""
        shas: dict[Role, str] = {}
        for role, child in children.items():
            parent = self._read(adapters_dir / parents[role], self.lora)
            tensors = interpolate(parent, self._read(adapters_dir / child, self.lora), alpha)
            shas[role] = write_adapter(into, tensors, self.lora, self.base.source)
        return shas

    def _bank(self, slots: int, lora: LoraSettings, trainable: bool) -> AdapterBank:
        return AdapterBank(
            self.model.site_shapes, slots, lora.rank, lora.alpha, self.model.dtype, self.device, trainable
        )

    def _read(self, folder: Path, lora: LoraSettings) -> dict[str, Tensor]:
        return read_adapter(folder, lora.rank, self.model.site_shapes)

    def _begin(self, job: TrioJob) -> _Run:
        """Adapters from the parents or the seed, then the checkpoint over them if one is there."""
        bank = self._bank(len(job.roles), job.lora, trainable=True)
        for slot, role in enumerate(job.roles):
            parent = job.parents[role]
            if parent is None:
                bank.load(slot, initial_adapter(self.model.site_shapes, job.lora.rank, job.seed, role))
            else:
                bank.load(slot, self._read(Path(job.adapters_dir) / parent, job.lora))
        run = _Run(self, job, bank, read_role_examples(job))
        run.resume()
        return run


def read_role_examples(job: TrioJob) -> dict[Role, list[Example]]:
    """The training file's examples by role, in file order; every role of the job needs at least one."""
    examples = read_examples(job.train_file)
    by_role: dict[Role, list[Example]] = {role: [e for e in examples if e.role == role] for role in job.roles}
    if empty := [role for role, own in by_role.items() if not own]:
        raise LunaError(f"{job.train_file} has no examples for {', '.join(empty)}; every role needs data to train on.")
    return by_role


class _Run:
    """The state of one training job in progress: adapters, optimizers, step count, losses so far."""

    def __init__(self, engine: FusedEngine, job: TrioJob, bank: AdapterBank, examples: dict[Role, list[Example]]):
        self.engine, self.job, self.bank, self.examples = engine, job, bank, examples
        self.trio = TrioStep(engine.model, bank, engine.lanes, job.train.weight_decay, job.train.beta2)
        self.step = 0
        self.losses: dict[Role, list[float]] = {role: [] for role in job.roles}
        self.rows: dict[str, Row] = {}
        self.fingerprint = fingerprint(job, engine.facts)

    def advance(self) -> dict[Role, float]:
        """One optimizer step of every role that has steps left; returns their losses."""
        train = self.job.train
        losses, norms = self.trio.gradients(*self._batches())
        self._stop_if_not_finite(losses, norms)
        self.trio.move([self._rate(role) for role in self.job.roles], train.clip, norms)
        found = zip(self.job.roles, losses.tolist(), strict=True)
        latest = {role: loss for role, loss in found if self.step < train.steps_of(role)}
        for role, loss in latest.items():
            self.losses[role].append(loss)
        self.step += 1
        return latest

    def _rate(self, role: Role) -> float | None:
        """The learning rate of the role's present step; None when it has taken all of its steps."""
        train, steps = self.job.train, self.job.train.steps_of(role)
        return learning_rate(self.step, steps, train.lr, train.warmup_steps) if self.step < steps else None

    def _batches(self) -> tuple[list[Packed], int]:
        """The step's rows of every role, packed, in as many parts as micro-batches and lanes ask for; and the lanes.

        Rows of weight 0 stay out, so that not even the order of sums depends on them.
        """
        chosen = [[self._row(e) for e in self.batch_examples(role) if e.weight] for role in self.job.roles]
        groups = [Group(slot, rows) for slot, rows in enumerate(chosen) if rows]
        parts = self.job.train.accumulation
        lanes = self.engine.lanes.worth(token_count(groups) // parts)
        return [pack(part, self.engine.device) for part in cut(groups, parts * lanes)], lanes

    def batch_examples(self, role: Role) -> list[Example]:
        """The role's examples of the present step; none when it has taken all of its steps."""
        own, steps = self.examples[role], self.job.train.steps_of(role)
        if self.step >= steps:
            return []
        return [own[i] for i in rows_of_step(self.step, steps, self.job.train.rows_of(role), len(own))]

    def _row(self, example: Example) -> Row:
        if example.id not in self.rows:
            self.rows[example.id] = tokenise(self.engine.tokenizer, example, self.job.train.max_tokens)
        return self.rows[example.id]

    def _stop_if_not_finite(self, losses: Tensor, norms: Tensor) -> None:
        for slot, role in enumerate(self.job.roles):
            if not (torch.isfinite(losses[slot]) and torch.isfinite(norms[slot])):
                ids = ", ".join(example.id[:12] for example in self.batch_examples(role))
                raise NonFiniteError(
                    f"the loss of {role} is {losses[slot].item()} (gradient norm {norms[slot].item()}) at step "
                    f"{self.step + 1} in the batch of examples {ids}; the adapters were not changed by this step. "
                    "Look at these examples, or lower [train] lr."
                )

    def publish(self) -> dict[Role, RoleOutcome]:
        """Write each role's adapter and say what it learned from."""
        outcomes: dict[Role, RoleOutcome] = {}
        for slot, role in enumerate(self.job.roles):
            sha = write_adapter(
                Path(self.job.adapters_dir), self.bank.state(slot), self.job.lora, self.engine.base.source
            )
            outcomes[role] = RoleOutcome.of(self.job, role, sha, len(self.examples[role]), self.losses[role])
        return outcomes

    def save(self) -> None:
        """Checkpoint: masters, both Adam moments, step, losses."""
        record = {"fingerprint": self.fingerprint, "losses": self.losses}
        save_checkpoint(Path(self.job.run_dir), self.step, self.trio.state(), record)

    def resume(self) -> None:
        """Take over the newest checkpoint of this job, if there is one."""
        found = load_checkpoint(Path(self.job.run_dir), self.fingerprint)
        if found is None:
            return
        tensors, record = found
        self.trio.restore(tensors)
        self.step = record["step"]
        self.losses = {role: record["losses"][role] for role in self.job.roles}


def _progress(run: _Run, first: int, seconds: float) -> TrioProgress:
    job, train = run.job, run.job.train
    done = job.examples_after(run.step) - job.examples_after(first)
    left = job.examples_after(job.steps) - job.examples_after(run.step)
    return TrioProgress(
        step=run.step,
        steps=job.steps,
        losses={role: losses[-1] for role, losses in run.losses.items()},
        examples_per_s=done / seconds,
        seconds_left=seconds / done * left,
        role_steps={role: min(run.step, train.steps_of(role)) for role in job.roles},
        role_totals={role: train.steps_of(role) for role in job.roles},
    )
