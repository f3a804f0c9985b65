"""The fused trio engine: one frozen base, all roles of a device in one forward and backward a step.

Rows of all roles lie in one packed sequence (`packing`), the lean forward (`lean`) applies each role's adapter to its
own slice, and each role keeps its own optimizer, schedule, clip and step count. Against one role after another this
loads the base once and computes each role's prompt header once a step.
"""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from curriculum.example import Example
from curriculum.preferences import Preference
from curriculum.scores import read_scores
from ledger.roles import ROLES, Role
from trainers import runtime
from trainers.adapters import initial_adapter, interpolate, read_adapter, write_adapter
from trainers.bank import AdapterBank
from trainers.base import Base, load_base
from trainers.checkpoint import fingerprint, load_checkpoint, save_checkpoint
from trainers.config import LoraSettings, TrainSettings
from trainers.curves import LossCurves
from trainers.data import RoleData, read_role_data
from trainers.dual import PairRows, cut_pairs, pack_pairs, reference_margins
from trainers.generator import LeanGenerator
from trainers.graph import GraphStep, step_for
from trainers.health_gate import Action
from trainers.lanes import Lanes
from trainers.lean import LeanModel
from trainers.objective import learning_rate
from trainers.online_health import OnlineHealth, Probe, scored_examples
from trainers.packing import Group, Row, cut, token_count
from trainers.step import StepLosses, StepParts
from trainers.tokens import rows_of_step, tokenise, tokenise_pair
from trainers.trio import Channel, NonFiniteError, Paused, RoleOutcome, TrioJob, TrioOutcome, TrioProgress

Item = TypeVar("Item")


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
            **({"step": "graphs"} if step_for(self.model, self.lora.rank) is GraphStep else {}),
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
                latest = run.advance()
                curves.add(run.step, latest.total, latest.channels, run.partials)
                on_progress(_progress(run, first, time.perf_counter() - start))
                if run.step % job.train.checkpoint_every_steps == 0 and run.step < job.steps:
                    run.save()
        return TrioOutcome(run.publish(), time.perf_counter() - start, self.facts)

    def generator(self, adapters: Mapping[Role, str], adapters_dir: Path) -> LeanGenerator:
        """See :meth:`trainers.trio.Engine.generator`."""
        roles = [role for role in ROLES if role in adapters]
        if not roles:
            return LeanGenerator(self.model, self.tokenizer, None, {}, self.lanes)
        bank = self.bank(len(roles), self.lora, trainable=False)
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

    def bank(self, slots: int, lora: LoraSettings, trainable: bool) -> AdapterBank:
        """An empty bank over the base."""
        return AdapterBank(
            self.model.site_shapes, slots, lora.rank, lora.alpha, self.model.dtype, self.device, trainable
        )

    def _read(self, folder: Path, lora: LoraSettings) -> dict[str, Tensor]:
        return read_adapter(folder, lora.rank, self.model.site_shapes)

    def _begin(self, job: TrioJob) -> _Run:
        """Adapters from the parents or the seed, then the checkpoint over them if one is there."""
        bank = self.bank(len(job.roles), job.lora, trainable=True)
        for slot, role in enumerate(job.roles):
            parent = job.parents[role]
            if parent is None:
                bank.load(slot, initial_adapter(self.model.site_shapes, job.lora.rank, job.seed, role))
            else:
                bank.load(slot, self._read(Path(job.adapters_dir) / parent, job.lora))
        run = _Run(self, job, bank, read_role_data(job))
        run.resume()
        return run


_BEFORE = "before."
"""Prefix, in a checkpoint, of the state before the latest update."""


@dataclass(frozen=True)
class _Latest:
    """The losses of one step by role, for roles that took it."""

    total: dict[Role, float]
    channels: dict[Channel, dict[Role, float]]
    """With two channels the loss of each, for roles that learn from it."""


class _Run:
    """The state of one training job in progress: adapters, optimizers, step count, losses so far.

    Made with the parents' adapters in the bank: the reference of the preference channel is measured here, before a
    checkpoint may put later ones in their place.
    """

    def __init__(self, engine: FusedEngine, job: TrioJob, bank: AdapterBank, data: RoleData):
        self.engine, self.job, self.bank, self.data = engine, job, bank, data
        kind = step_for(engine.model, bank.rank)
        self.trio = kind(engine.model, bank, engine.lanes, job.train.weight_decay, job.train.beta2)
        self.step = 0
        self.losses: dict[Role, list[float]] = {role: [] for role in job.roles}
        self.channels: dict[Channel, dict[Role, float]] = {}
        self.rows: dict[str, Row] = {}
        self.shares = torch.tensor([data.shares[role] for role in job.roles], device=engine.device).t()
        self.pairs = self._pairs_with_reference()
        self.health = self._online_health()
        self.partials: dict[Role, float] = {}
        self.fingerprint = fingerprint(job, engine.facts)
        self.ahead: tuple[int, StepParts] | None = None
        """A step and its parts, packed while the device was busy with the one before."""

    def advance(self) -> _Latest:
        """One optimizer step of every role that has steps left; returns their losses."""
        parts = self.ahead[1] if self.ahead and self.ahead[0] == self.step else self._parts(self.step)
        found = self.trio.channel_gradients(parts)
        # A guarded update skips itself, so that its losses can be read while the next step is packed; but what the
        # health gate may undo is undone for good.
        waits = not self.trio.guarded or bool(self.health.probes)
        if waits:
            self._stop_if_not_finite(found.on_host())
        actions, self.partials = self.health.decide(self.engine, self.bank, self.step, self._alive())
        self._move(found, actions)
        if not waits:
            self.ahead = self.step + 1, self._parts(self.step + 1)
        read = found.on_host()
        if not waits:
            self._stop_if_not_finite(read)
        return self._count(read)

    def _move(self, found: StepLosses, actions: Mapping[Role, Action]) -> None:
        """Make the updates that the health gate lets through, and take back those that it wants undone."""
        if undone := [slot for slot, role in enumerate(self.job.roles) if actions.get(role) == "roll_back"]:
            self.trio.restore(self.health.before or {}, undone)
        due = self.health.is_due(self.step + 1)
        self.health.before = {name: value.clone() for name, value in self.trio.state().items()} if due else None
        rates = [None if role in actions else self._rate(role) for role in self.job.roles]
        self.trio.move(rates, self.job.train.clip, found.norms)

    def _count(self, found: StepLosses) -> _Latest:
        """Note the losses of the roles that took this step, and go on to the next."""
        alive = self._alive()

        def of(losses: Tensor, roles: Sequence[Role]) -> dict[Role, float]:
            by_role = dict(zip(self.job.roles, losses.tolist(), strict=True))
            return {role: by_role[role] for role in roles}

        channels: dict[Channel, dict[Role, float]] = {}
        if self.pairs:
            shares = self.data.shares
            channels["sft"] = of(found.sft, [role for role in alive if shares[role][0]])
            channels["dpo"] = of(found.dpo, [role for role in alive if shares[role][1]])
        latest = _Latest(of(found.total, alive), channels)
        for role, loss in latest.total.items():
            self.losses[role].append(loss)
        for channel, own in channels.items():
            self.channels[channel] = {**self.channels.get(channel, {}), **own}
        self.step += 1
        return latest

    def _alive(self) -> list[Role]:
        """The roles that take the present step."""
        return [role for role in self.job.roles if self.step < self.job.train.steps_of(role)]

    def _rate(self, role: Role) -> float | None:
        """The learning rate of the role's present step; None when it has taken all of its steps."""
        train, steps = self.job.train, self.job.train.steps_of(role)
        return learning_rate(self.step, steps, train.lr_of(role), train.warmup_steps) if self.step < steps else None

    def _parts(self, step: int) -> StepParts:
        """A step's rows and pairs of every role, packed, in as many parts as micro-batches and lanes ask for."""
        chosen = [[self._row(e) for e in self._examples(role, step)] for role in self.job.roles]
        groups = [Group(slot, rows) for slot, rows in enumerate(chosen) if rows]
        pairs = [self.pairs[pair.id] for role in self.job.roles for pair in self._pairs(role, step)]
        device = self.engine.device
        parts = self.trio.parts(token_count(groups), self.job.train.accumulation)
        lanes = self.engine.lanes.worth((token_count(groups) + sum(pair.tokens for pair in pairs)) // parts)
        return StepParts(
            sft=self.trio.pack(cut(groups, parts * lanes)),
            pairs=[pack_pairs(part, device) for part in cut_pairs(pairs, parts * lanes)],
            shares=self.shares,
            beta=self.job.channels.beta,
            lanes=lanes,
        )

    def _examples(self, role: Role, step: int) -> list[Example]:
        """The role's examples of a step; none when it has taken all of its steps."""
        return self._of_step(self.data.examples[role], role, self.job.train.rows_of(role), step)

    def _pairs(self, role: Role, step: int) -> list[Preference]:
        """The role's pairs of a step, chosen like its examples."""
        return self._of_step(self.data.pairs[role], role, self.job.channels.pairs_of(role), step)

    def _of_step(self, own: Sequence[Item], role: Role, count: int, step: int) -> list[Item]:
        steps = self.job.train.steps_of(role)
        if step >= steps or not own:
            return []
        return [own[i] for i in rows_of_step(step, steps, count, len(own))]

    def _row(self, example: Example) -> Row:
        if example.id not in self.rows:
            self.rows[example.id] = tokenise(self.engine.tokenizer, example, self.job.train.max_tokens)
        return self.rows[example.id]

    def _pairs_with_reference(self) -> dict[str, PairRows]:
        """By id every pair that the run takes, tokenised, with the parent's margin."""
        job, engine = self.job, self.engine
        found: dict[str, PairRows] = {}
        for slot, role in enumerate(job.roles):
            for step in range(job.train.steps_of(role)):
                for pair in self._of_step(self.data.pairs[role], role, job.channels.pairs_of(role), step):
                    if pair.id not in found:
                        rows = tokenise_pair(engine.tokenizer, pair, job.train.max_tokens)
                        found[pair.id] = PairRows(slot, *rows, pair.weight)
        margins = reference_margins(engine.model, self.bank, engine.lanes, list(found.values()))
        return {
            name: dataclasses.replace(pair, reference=margin)
            for (name, pair), margin in zip(found.items(), margins, strict=True)
        }

    def _online_health(self) -> OnlineHealth:
        """The gate over the roles' scored examples; one over nothing where no reward model had a say."""
        job, probes = self.job, dict[Role, Probe]()
        if job.channels.mode == "dual" and job.rewards_file and job.health.online_every:
            scores = read_scores(job.rewards_file)
            for slot, role in enumerate(job.roles):
                found = scored_examples(self.data.examples[role], scores, job.health.online_rows)
                if found is not None:
                    probes[role] = Probe(slot, [self._row(example) for example in found[0]], found[1])
        return OnlineHealth(job.health, probes)

    def _stop_if_not_finite(self, found: StepLosses) -> None:
        for slot, role in enumerate(self.job.roles):
            if not (torch.isfinite(found.total[slot]) and torch.isfinite(found.norms[slot])):
                named = _named("examples", self._examples(role, self.step)) + _named(
                    "preference pairs", self._pairs(role, self.step)
                )
                raise NonFiniteError(
                    f"the loss of {role} is {found.total[slot].item()} (gradient norm {found.norms[slot].item()}) at "
                    f"step {self.step + 1} in the batch of {' and '.join(named)}; the adapters were not changed by "
                    "this step. Look at these, or lower [train] lr."
                )

    def publish(self) -> dict[Role, RoleOutcome]:
        """Write each role's adapter and say what it learned from."""
        outcomes: dict[Role, RoleOutcome] = {}
        for slot, role in enumerate(self.job.roles):
            sha = write_adapter(
                Path(self.job.adapters_dir), self.bank.state(slot), self.job.lora, self.engine.base.source
            )
            outcomes[role] = RoleOutcome.of(
                self.job, role, sha, len(self.data.examples[role]), self.losses[role], self.health.held.get(role)
            )
        return outcomes

    def save(self) -> None:
        """Checkpoint: masters, both Adam moments, step, losses, what the health gate remembers."""
        record = {"fingerprint": self.fingerprint, "losses": self.losses, "health": self.health.record()}
        before = {f"{_BEFORE}{name}": value for name, value in (self.health.before or {}).items()}
        save_checkpoint(Path(self.job.run_dir), self.step, {**self.trio.state(), **before}, record)

    def resume(self) -> None:
        """Take over the newest checkpoint of this job, if there is one."""
        found = load_checkpoint(Path(self.job.run_dir), self.fingerprint)
        if found is None:
            return
        tensors, record = found
        before = {name.removeprefix(_BEFORE): tensors[name] for name in tensors if name.startswith(_BEFORE)}
        self.trio.restore(tensors)
        if "health" in record:
            self.health.restore(record["health"], before or None)
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
        channels=dict(run.channels),
        examples_per_s=done / seconds,
        seconds_left=seconds / done * left,
        role_steps={role: min(run.step, train.steps_of(role)) for role in job.roles},
        role_totals={role: train.steps_of(role) for role in job.roles},
    )


def _named(what: str, items: Sequence[Example] | Sequence[Preference]) -> list[str]:
    """`examples a, b`, by the first characters of their ids; nothing if there are none."""
    return [f"{what} {', '.join(item.id[:12] for item in items)}"] if items else []
