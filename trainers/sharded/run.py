"""One learner of a job in training: an adapter of one role, or the whole base on the rows of all.

Every worker knows each step's rows, and so what the losses are divided by; it passes its own share of them through the
model, and the gradients come to the whole step's. The losses are the fused engine's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from curriculum.example import Example
from curriculum.preferences.pairs import Preference
from ledger.roles import Role
from trainers.data import RoleData, channel_shares, tokenise, tokenise_pair
from trainers.fused.losses import kl_losses, sft_losses
from trainers.fused.pairs import PairRows, pack_pairs, preference_losses
from trainers.job import Channel, NonFiniteError, TrioJob
from trainers.lean.packing import Row
from trainers.schedule import learning_rate, share_of_step, slice_of_step
from trainers.sharded.passes import answer_logits, listed_log_probs, packed, target_log_probs
from trainers.sharded.placement import Placement, Plan
from trainers.sharded.reference import expectations, reference_margins
from trainers.sharded.shares import share_of_rank


@dataclass(frozen=True)
class StepFound:
    """What one step found."""

    total: float
    """What is minimised: all channels, each times its share."""
    channels: dict[Channel, float]
    """With several channels those that the step learned from."""


class ShardedRun:
    """The state of one learner's training.

    Made with the parent's values in the model: the reference of the preference channel, and what the parent expects of
    the rows that are replayed, are measured here, before a checkpoint may put later ones in their place.
    """

    def __init__(
        self, placement: Placement, plan: Plan, job: TrioJob, roles: Sequence[Role], data: RoleData, tokenizer: Any
    ):
        self.placement, self.plan, self.job, self.roles, self.data = placement, plan, job, tuple(roles), data
        self.tokenizer = tokenizer
        self.step, self.seconds = 0, 0.0
        self.steps = max(job.role_steps[role] for role in roles)
        self.workers: tuple[tuple[int, int], ...] = ((0, plan.world.size),)
        """As of :class:`trainers.job.EngineInfo`."""
        self.losses: list[float] = []
        self.learned = 0
        """Steps that moved nothing, since their loss was no more than the settings' least."""
        self._shares = self._channel_shares()
        self._rows = self._tokenised_rows()
        self._pairs = self._tokenised_pairs()

    def advance(self) -> StepFound:
        """One optimizer step.

        Raises:
            NonFiniteError: naming its examples; nothing was moved.
        """
        rows, pairs = self.rows_of(self.step), self.pairs_of(self.step)
        losses = torch.zeros(3, device=self.plan.device)
        self.placement.add_gradients(self._parts(rows, pairs, losses))
        found = self.plan.world.sum_(losses).tolist()
        total = sum(share * loss for share, loss in zip(self._shares, found, strict=True))
        least, train = self.job.train.least_loss, self.job.train
        learned = least is not None and total <= least
        rate = learning_rate(self.step, self.steps, train.lr_of(self.roles[0]), train.warmup_steps)
        finite = abs(total) < float("inf")
        norm = self.placement.move(rate if finite and not learned else None)
        if not (finite and norm < float("inf")):
            raise NonFiniteError(self._not_finite(total, norm))
        self.learned += learned
        self.losses.append(total)
        self.step += 1
        return StepFound(total, self._channels(found, rows, pairs))

    def _parts(self, rows: list[Row], pairs: list[PairRows], losses: Tensor) -> list[Callable[[], Tensor]]:
        """What this worker passes through the model in a step: each makes its loss, and adds to `losses` of (3,)."""
        plan, device = self.plan, self.plan.device
        sft_share, dpo_share, kl_share = self._shares
        tokens = sum(row.weight * (len(row.tokens) - row.prompt_len) for row in rows)
        held = sum(row.weight * (len(row.tokens) - row.prompt_len) for row in rows if row.parent is not None)
        whole = sum(pair.weight for pair in pairs)
        parts_most = max(self.job.train.gradient_accumulation_steps, self.job.least_parts(self.step))

        def examples(part: Sequence[Row]) -> Tensor:
            batch, logits = packed(part, device), answer_logits(self.placement, part, device)
            sft = sft_losses(target_log_probs(logits, batch.targets), batch, 1, torch.tensor([tokens], device=device))
            losses[0] += sft[0].detach()
            loss = sft_share * sft[0]
            if batch.parent is not None:
                child = listed_log_probs(logits[batch.parent_at], batch.parent.ids)
                kl = kl_losses(child, batch, 1, torch.tensor([held], device=device))
                losses[2] += kl[0].detach()
                loss = loss + kl_share * kl[0]
            return loss * plan.world.size  # the strategies average over the workers

        def preferences(part: Sequence[PairRows]) -> Tensor:
            logits = answer_logits(
                self.placement, [row for pair in part for row in (pair.chosen, pair.rejected)], device
            )
            batch = pack_pairs(part, device)
            log_probs = target_log_probs(logits, batch.rows.targets)
            weight = torch.tensor([whole], dtype=torch.float64, device=device)
            dpo = preference_losses(log_probs, batch, 1, weight, self.job.channels.beta)
            losses[1] += dpo[0].detach()
            return dpo_share * dpo[0] * plan.world.size

        rank, size = plan.world.rank, plan.world.size
        own_rows = share_of_rank(rows, rank, size, parts_most, lambda row: dataclasses.replace(row, weight=0.0))
        own_pairs = share_of_rank(pairs, rank, size, parts_most, lambda pair: dataclasses.replace(pair, weight=0.0))
        return [
            *((lambda part=part: examples(part)) for part in own_rows),
            *((lambda part=part: preferences(part)) for part in own_pairs),
        ]

    def _channels(self, found: list[float], rows: list[Row], pairs: list[PairRows]) -> dict[Channel, float]:
        """The loss of each channel that the step had something of, where the run has several."""
        held = any(row.parent is not None for row in self._rows.values())
        sft, dpo, kl = found
        channels: dict[Channel, float] = {}
        if rows and (self._pairs or held):
            channels["sft"] = sft
        if pairs:
            channels["dpo"] = dpo
        if any(row.parent is not None for row in rows):
            channels["kl"] = kl
        return channels

    def rows_of(self, step: int) -> list[Row]:
        """The examples of a step (0-based), tokenised."""
        return [self._rows[example.id] for example in self._examples_of(step)]

    def pairs_of(self, step: int) -> list[PairRows]:
        """The pairs of a step (0-based), tokenised, with the parent's margins."""
        return [self._pairs[pair.id] for pair in self._preferences_of(step)]

    def _examples_of(self, step: int) -> list[Example]:
        own, size = self.data.examples, self.job.train.batch_size_of
        return [example for role in self.roles for example in slice_of_step(own[role], step, size(role))]

    def _preferences_of(self, step: int) -> list[Preference]:
        own, size, steps = self.data.pairs, self.job.channels.pairs_of, self.job.role_steps
        return [pair for role in self.roles for pair in share_of_step(own[role], step, steps[role], size(role))]

    def _channel_shares(self) -> tuple[float, float, float]:
        """What the SFT, DPO and KL loss are multiplied by; of one role those that its data give."""
        channels, dual = self.job.channels, self.job.channels.mode == "dual"
        has_sft = any(self.data.examples[role] for role in self.roles)
        has_pref = any(self.data.pairs[role] for role in self.roles)
        w_sft, w_pref = (channels.w_sft, channels.w_pref) if dual else (1.0, 0.0)
        return (*channel_shares(w_sft, w_pref, has_sft, has_pref), self.job.train.kl_weight)

    def _tokenised_rows(self) -> dict[str, Row]:
        """By id every row; of one that is replayed, with what the parent expects."""
        examples = {example.id: example for role in self.roles for example in self.data.examples[role]}
        rows = {name: tokenise(self.tokenizer, example, self.job.text) for name, example in examples.items()}
        held = [name for name in rows if name in self.data.replayed]
        top, plan = self.job.train.kl_top, self.plan
        found = expectations(self.placement, plan.world, plan.device, [rows[name] for name in held], top)
        return rows | {
            name: dataclasses.replace(rows[name], parent=parent) for name, parent in zip(held, found, strict=True)
        }

    def _tokenised_pairs(self) -> dict[str, PairRows]:
        """By id every pair that the run takes, with the parent's margin."""
        taken = {pair.id: pair for step in range(self.steps) for pair in self._preferences_of(step)}
        pairs = [
            PairRows(0, *tokenise_pair(self.tokenizer, pair, self.job.text), pair.weight) for pair in taken.values()
        ]
        margins = reference_margins(self.placement, self.plan.world, self.plan.device, pairs)
        return {
            name: dataclasses.replace(pair, reference=margin)
            for name, pair, margin in zip(taken, pairs, margins, strict=True)
        }

    def _not_finite(self, total: float, norm: float) -> str:
        items: list[tuple[str, Sequence[Example] | Sequence[Preference]]] = [
            ("examples", self._examples_of(self.step)),
            ("preference pairs", self._preferences_of(self.step)),
        ]
        named = [f"{what} {', '.join(item.id[:12] for item in own)}" for what, own in items if own]
        return (
            f"the loss of {', '.join(self.roles)} is {total} (gradient norm {norm}) at step {self.step + 1} in the "
            f"batch of {' and '.join(named)}; nothing was changed by this step. Look at these, or lower [train] lr."
        )

    def state_dict(self, mark: str, seconds: float) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint holds, for any number of workers and any strategy; `seconds` as trained by this process."""
        record = {"fingerprint": mark, "losses": self.losses, "learned": self.learned, "workers": self.workers}
        return self.placement.state_dict(), record | {"seconds": self.seconds + seconds}

    def load_state_dict(self, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave and a checkpoint kept."""
        self.placement.load_state_dict(tensors)
        self.step, self.seconds = record["step"], record["seconds"]
        self.losses, self.learned = list(record["losses"]), record["learned"]
        self.workers = tuple((int(first), int(size)) for first, size in record["workers"])
        if self.workers[-1][1] != self.plan.world.size:
            self.workers += ((self.step, self.plan.world.size),)
