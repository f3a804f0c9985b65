"""One training job of the fused engine in progress: adapters, optimizers, step count, losses so far."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from curriculum.example import Example, unique
from curriculum.preferences.pairs import Preference
from curriculum.reward.scores import read_scores
from ledger.roles import Role
from trainers.checkpoint import fingerprint
from trainers.data import RoleData, tokenise, tokenise_pair
from trainers.fused.graph import step_for
from trainers.fused.pairs import PairRows, cut_pairs, pack_pairs
from trainers.fused.reference import expectations, reference_margins
from trainers.fused.step import StepLosses, StepParts
from trainers.health.gate import Action
from trainers.health.online import OnlineHealth, Probe, scored_examples
from trainers.job import Channel, EngineInfo, NonFiniteError, TrioJob, TrioProgress
from trainers.lean.adapter_bank import AdapterBank
from trainers.lean.base import LeanBase
from trainers.lean.packing import Group, Row, cut, token_count
from trainers.parallel import World
from trainers.schedule import learning_rate, share_of_step, slice_of_step

_BEFORE = "before."
"""Prefix, in a checkpoint, of the state before the latest update."""


@dataclass(frozen=True)
class StepReport:
    """What one step found by role, for roles that took it."""

    total: dict[Role, float]
    channels: dict[Channel, dict[Role, float]]
    """With several channels the loss of each, for roles that learn from it."""
    partials: dict[Role, float]
    """DCS + GVS of the roles that the online health gate measured."""


class FusedRun:
    """The state of one training job.

    Made with the parents' adapters in the bank: the reference of the preference channel, and what the parents expect of
    the rows that are replayed, are measured here, before a checkpoint may put later ones in their place.

    Of several processes each has the whole state and passes its share of a step's rows.
    """

    def __init__(
        self,
        lean: LeanBase,
        job: TrioJob,
        bank: AdapterBank,
        data: RoleData,
        info: EngineInfo,
        world: World = World.alone(),
    ):
        self.lean, self.job, self.bank, self.data, self.world = lean, job, bank, data, world
        model = lean.model.recomputing() if job.train.gradient_checkpointing else lean.model
        kind = step_for(lean.model, bank.rank)
        self.trio = kind(model, bank, lean.lanes, job.train.weight_decay, job.train.adam_beta2, world)
        self.step = 0
        self.workers = info.workers
        """See :attr:`trainers.job.EngineInfo.workers`."""
        self.seconds = 0.0
        """Of training before this process's part, up to the checkpoint that it goes on from."""
        self.losses: dict[Role, list[float]] = {role: [] for role in job.roles}
        self.fingerprint = fingerprint(job, info)
        self.learned: Counter[str] = Counter()
        """Steps of each role that moved nothing, since their loss was no more than the settings' least."""
        self._channels: dict[Channel, dict[Role, float]] = {}
        shares = [(*data.shares[role], job.train.kl_weight) for role in job.roles]
        self._shares = torch.tensor(shares, device=lean.model.device).t()
        self._rows: dict[str, Row] = self._replayed_with_parents()  # of what this process passes
        self._pairs = self._pairs_with_reference()
        self.health = self._online_health()
        self._ahead: tuple[int, StepParts] | None = None
        """A step and its parts, packed while the device was busy with the one before."""

    def advance(self) -> StepReport:
        """One optimizer step of every role that has steps left."""
        parts = self._ahead[1] if self._ahead and self._ahead[0] == self.step else self._parts(self.step)
        found = self.trio.channel_gradients(parts)
        # A guarded update skips itself, so that its losses can be read while the next step is packed; but what the
        # health gate may undo is undone for good.
        waits = not self.trio.guarded or bool(self.health.probes)
        if waits:
            self._stop_if_not_finite(found.on_host())
        actions, partials = self.health.decide(self.lean, self.bank, self.step, self._active_roles())
        self._move(found, actions)
        if not waits:
            self._ahead = self.step + 1, self._parts(self.step + 1)
        read = found.on_host()
        if not waits:
            self._stop_if_not_finite(read)
        if (least := self.job.train.least_loss) is not None:
            losses = dict(zip(self.job.roles, (read.total <= least).tolist(), strict=True))
            self.learned.update(role for role in self._active_roles() if losses[role] and role not in actions)
        return self._count(read, partials)

    def _move(self, found: StepLosses, actions: Mapping[Role, Action]) -> None:
        """Make the updates that the health gate lets through, and take back those that it wants undone."""
        if undone := [slot for slot, role in enumerate(self.job.roles) if actions.get(role) == "roll_back"]:
            self.trio.load_state_dict(self.health.before or {}, undone)
        due = self.health.is_due(self.step + 1)
        self.health.before = {name: value.clone() for name, value in self.trio.state_dict().items()} if due else None
        rates = [None if role in actions else self._rate(role) for role in self.job.roles]
        least = self.job.train.least_loss
        learned = None if least is None else found.total <= least
        self.trio.move(rates, self.job.train.max_grad_norm, found.norms, learned)

    def _count(self, found: StepLosses, partials: dict[Role, float]) -> StepReport:
        """Note the losses of the roles that took this step, and go on to the next."""
        active, shares = self._active_roles(), self.data.shares

        def of(losses: Tensor, roles: Sequence[Role]) -> dict[Role, float]:
            by_role = dict(zip(self.job.roles, losses.tolist(), strict=True))
            return {role: by_role[role] for role in roles}

        channels: dict[Channel, dict[Role, float]] = {}
        has_pairs = any(self.data.pairs.values())
        if has_pairs or self.data.replayed:
            channels["sft"] = of(found.sft, [role for role in active if shares[role][0]])
        if has_pairs:
            channels["dpo"] = of(found.dpo, [role for role in active if shares[role][1]])
        if self.data.replayed:
            channels["kl"] = of(found.kl, [role for role in active if self._replays(role)])
        report = StepReport(of(found.total, active), channels, partials)
        for role, loss in report.total.items():
            self.losses[role].append(loss)
        for channel, own in channels.items():
            self._channels[channel] = {**self._channels.get(channel, {}), **own}
        self.step += 1
        return report

    def _active_roles(self) -> list[Role]:
        """The roles that take the present step."""
        return [role for role in self.job.roles if self.step < self.job.role_steps[role]]

    def _replays(self, role: Role) -> bool:
        """Whether some of the role's rows of the present step are replayed."""
        return any(example.id in self.data.replayed for example in self._batch_examples(role, self.step))

    def _rate(self, role: Role) -> float | None:
        """The learning rate of the role's present step; None when it has taken all of its steps."""
        train, steps = self.job.train, self.job.role_steps[role]
        return learning_rate(self.step, steps, train.lr_of(role), train.warmup_steps) if self.step < steps else None

    def _parts(self, step: int) -> StepParts:
        """This process's rows and pairs of a step, packed, in as many parts as micro-batches and lanes ask for."""
        chosen = [[self._row(e) for e in self._own_examples(slot, step)] for slot in range(len(self.job.roles))]
        groups = [Group(slot, rows) for slot, rows in enumerate(chosen) if rows]
        pairs = [self._pairs[pair.id] for slot in range(len(self.job.roles)) for pair in self._own_pairs(slot, step)]
        device = self.lean.model.device
        parts = self.trio.parts(token_count(groups), self.job.train.gradient_accumulation_steps)
        lanes = self.lean.lanes.lanes_for((sum(map(len, chosen)) + len(pairs)) // parts)
        pieces = cut(groups, parts * lanes)
        return StepParts(
            sft=self.trio.pack(pieces),
            kl=self.trio.kl_parts(pieces),
            pairs=[pack_pairs(part, device) for part in cut_pairs(pairs, parts * lanes)],
            shares=self._shares,
            beta=self.job.channels.beta,
            lanes=lanes,
        )

    def _batch_examples(self, role: Role, step: int) -> Sequence[Example]:
        """The role's examples of a step; none when it has taken all of its steps."""
        return slice_of_step(self.data.examples[role], step, self.job.train.batch_size_of(role))

    def _batch_pairs(self, role: Role, step: int) -> list[Preference]:
        """The role's pairs of a step; with more than its steps have room for they are thinned evenly."""
        return share_of_step(self.data.pairs[role], step, self.job.role_steps[role], self.job.channels.pairs_of(role))

    def _own_examples(self, slot: int, step: int) -> Sequence[Example]:
        """This process's share of a role's examples of a step; of what is over, each role's begins elsewhere."""
        return self.world.share(self._batch_examples(self.job.roles[slot], step), slot)

    def _own_pairs(self, slot: int, step: int) -> Sequence[Preference]:
        """This process's share of a role's pairs of a step."""
        return self.world.share(self._batch_pairs(self.job.roles[slot], step), slot)

    def _row(self, example: Example) -> Row:
        if example.id not in self._rows:
            self._rows[example.id] = tokenise(self.lean.tokenizer, example, self.job.text)
        return self._rows[example.id]

    def _replayed_with_parents(self) -> dict[str, Row]:
        """By id every row that this process holds to its parent, tokenised, with what the parent expects."""
        lean, replayed = self.lean, self.data.replayed
        found = {
            example.id: (slot, tokenise(lean.tokenizer, example, self.job.text))
            for slot, role in enumerate(self.job.roles)
            for step in range(self.job.role_steps[role] if replayed else 0)
            for example in self._own_examples(slot, step)
            if example.id in replayed
        }
        expected = expectations(lean.model, self.bank, lean.lanes, list(found.values()), self.job.train.kl_top)
        return {
            name: dataclasses.replace(row, parent=parent)
            for (name, (_, row)), parent in zip(found.items(), expected, strict=True)
        }

    def _pairs_with_reference(self) -> dict[str, PairRows]:
        """By id every pair that this process takes, tokenised, with the parent's margin."""
        job, lean = self.job, self.lean
        scheduled = {
            pair.id: (slot, pair)
            for slot, role in enumerate(job.roles)
            for step in range(job.role_steps[role])
            for pair in self._own_pairs(slot, step)
        }
        found = [
            PairRows(slot, *tokenise_pair(lean.tokenizer, pair, job.text), pair.weight)
            for slot, pair in scheduled.values()
        ]
        margins = reference_margins(lean.model, self.bank, lean.lanes, found)
        return {
            name: dataclasses.replace(pair, reference=margin)
            for name, pair, margin in zip(scheduled, found, margins, strict=True)
        }

    def _online_health(self) -> OnlineHealth:
        """The gate over the roles' scored examples; one over nothing without a reward model's scores."""
        job, probes = self.job, dict[Role, Probe]()
        if job.channels.mode == "dual" and job.rewards_file and job.health.online_every:
            scores = read_scores(job.rewards_file)
            for slot, role in enumerate(job.roles):
                found = scored_examples(unique(self.data.examples[role]), scores, job.health.online_rows)
                if found is not None:
                    probes[role] = Probe(slot, [self._row(example) for example in found[0]], found[1])
        return OnlineHealth(job.health, probes, self.world)

    def skipped_updates(self, role: Role) -> dict[str, int]:
        """Updates of a role that were not made, by why."""
        learned = {"learned": self.learned[role]} if self.learned[role] else {}
        return {**self.health.skipped_updates.get(role, {}), **learned}

    def _stop_if_not_finite(self, found: StepLosses) -> None:
        for slot, role in enumerate(self.job.roles):
            if not (torch.isfinite(found.total[slot]) and torch.isfinite(found.norms[slot])):
                named = [
                    *_named("examples", self._batch_examples(role, self.step)),
                    *_named("preference pairs", self._batch_pairs(role, self.step)),
                ]
                raise NonFiniteError(
                    f"the loss of {role} is {found.total[slot].item()} (gradient norm {found.norms[slot].item()}) at "
                    f"step {self.step + 1} in the batch of {' and '.join(named)}; the adapters were not changed by "
                    "this step. Look at these, or lower [train] lr."
                )

    def progress(self, first: int, seconds: float) -> TrioProgress:
        """Where the run stands, `seconds` after it was at step `first`."""
        job = self.job
        done, left = self._items(first, self.step), self._items(self.step, job.steps)
        return TrioProgress(
            step=self.step,
            steps=job.steps,
            losses={role: losses[-1] for role, losses in self.losses.items()},
            channels=dict(self._channels),
            examples_per_s=done / seconds,
            seconds_left=seconds / done * left,
            role_steps={role: min(self.step, steps) for role, steps in job.role_steps.items()},
            role_totals=dict(job.role_steps),
        )

    def _items(self, first: int, end: int) -> int:
        """Examples that all roles take from one step on, up to another; of a role without any, its pairs."""
        job, count = self.job, 0
        for role in job.roles:
            rows, batch_size = len(self.data.examples[role]), job.train.batch_size_of(role)
            if not rows:
                batch_size = job.channels.pairs_of(role)
                rows = job.role_steps[role] * batch_size
            count += min(end * batch_size, rows) - min(first * batch_size, rows)
        return count

    def state_dict(self, seconds: float) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint holds: masters and both Adam moments; losses and what the health gate remembers.

        `seconds` is how long this process has trained.
        """
        before = {f"{_BEFORE}{name}": value for name, value in (self.health.before or {}).items()}
        record: dict[str, Any] = {"fingerprint": self.fingerprint, "losses": self.losses, "workers": self.workers}
        record |= {"health": self.health.state_dict(), "seconds": self.seconds + seconds, "learned": dict(self.learned)}
        return {**self.trio.state_dict(), **before}, record

    def load_state_dict(self, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave and a checkpoint kept."""
        self.trio.load_state_dict(tensors)
        self.health.load_state_dict(record["health"])
        self.health.before = {
            name.removeprefix(_BEFORE): value for name, value in tensors.items() if name.startswith(_BEFORE)
        } or None
        self.learned = Counter(record["learned"])
        self.step, self.seconds = record["step"], record["seconds"]
        self.losses = {role: record["losses"][role] for role in self.job.roles}
        before = tuple((step, size) for step, size in record.get("workers", [(0, 1)]))
        same = before[-1][1] == self.world.size
        self.workers = before if same else (*before, (self.step, self.world.size))


def _named(what: str, items: Sequence[Example] | Sequence[Preference]) -> list[str]:
    """`examples a, b`, by the first characters of their ids; nothing if there are none."""
    return [f"{what} {', '.join(item.id[:12] for item in items)}"] if items else []
