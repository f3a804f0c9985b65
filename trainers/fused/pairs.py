"""The preference channel of a step: pairs of answers in packed rows, their margins, and the reference's.

A pair's loss depends on both of its answers at once, so both rows go through the model in one part. Parts of a step
hold whole pairs, and the gradients of the parts add up to the whole step's, exactly, without a second pass. Pairs are
packed apart from examples: their answers are often several times longer, and attention pads all rows of a part to the
longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainers.fused.losses import dpo_losses
from trainers.lean.packing import Group, Packed, Row, balanced_pieces, pack, shared_prefix_len


@dataclass(frozen=True)
class PairRows:
    """A tokenised pair for the adapter in `slot`; both rows begin with the same prompt."""

    slot: int
    chosen: Row
    rejected: Row
    weight: float
    reference: float = 0.0
    """The reference's margin: log-likelihood of the chosen answer less that of the rejected one, in nats."""

    @property
    def tokens(self) -> int:
        """Tokens that the pair takes in a packed sequence, the prompt counted once."""
        rows = (self.chosen, self.rejected)
        return sum(len(row.tokens) for row in rows) - shared_prefix_len(rows)


@dataclass(frozen=True)
class PackedPairs:
    """n packed pairs: rows 2i and 2i + 1 of `rows` are the chosen and the rejected answer of pair i."""

    rows: Packed
    lengths: tuple[int, ...]  # answer tokens of each of the 2n rows
    slots: Tensor  # (n,) int64
    weights: Tensor  # (n,) float64
    reference: Tensor  # (n,) float64, the reference's margins
    slot_weights: dict[int, float]  # sum of the weights of each slot's pairs


def cut_pairs(pairs: Sequence[PairRows], parts: int) -> list[list[PairRows]]:
    """The pairs, each whole, in up to `parts` pieces of about equal length in tokens, none empty, in their order."""
    pieces: list[list[PairRows]] = [[] for _ in range(parts)]
    for pair, piece in zip(pairs, balanced_pieces([pair.tokens for pair in pairs], parts), strict=True):
        pieces[piece].append(pair)
    return [piece for piece in pieces if piece]


def pack_pairs(pairs: Sequence[PairRows], device: torch.device) -> PackedPairs:
    """Lay pairs into one sequence, each prompt once. There must be at least one."""

    def doubles(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=device)

    rows = [row for pair in pairs for row in (pair.chosen, pair.rejected)]
    slot_weights: dict[int, float] = {}
    for pair in pairs:
        slot_weights[pair.slot] = slot_weights.get(pair.slot, 0.0) + pair.weight
    return PackedPairs(
        rows=pack([Group(pair.slot, [pair.chosen, pair.rejected]) for pair in pairs], device),
        lengths=tuple(len(row.tokens) - row.prompt_len for row in rows),
        slots=torch.tensor([pair.slot for pair in pairs], device=device),
        weights=doubles([pair.weight for pair in pairs]),
        reference=doubles([pair.reference for pair in pairs]),
        slot_weights=slot_weights,
    )


def margins(log_probs: Tensor, batch: PackedPairs) -> Tensor:
    """(n,) float64: log-likelihood of each chosen answer less that of its rejected one; `log_probs` is (T,).

    In float64, since both sums run to hundreds of nats and their difference is what is learned from; row by row, since
    a GPU's scattered sums have no fixed order.
    """
    sums = torch.stack([row.sum() for row in log_probs.double().split(batch.lengths)]).view(-1, 2)
    return sums[:, 0] - sums[:, 1]


def preference_losses(log_probs: Tensor, batch: PackedPairs, slots: int, slot_weight: Tensor, beta: float) -> Tensor:
    """Weighted DPO loss a slot, (slots,), in nats a pair.

    `slot_weight` is (slots,): the sum of the weights of a slot's pairs over all parts of the step, so that the parts
    add up to the whole step's weighted mean.
    """
    weighted = dpo_losses(margins(log_probs, batch), batch.reference, beta) * batch.weights
    sums = torch.zeros(slots, dtype=torch.float64, device=log_probs.device).index_add(0, batch.slots, weighted)
    return (sums / slot_weight.clamp_min(torch.finfo(torch.float64).tiny)).float()


def pair_weight(batches: Sequence[PackedPairs], slots: int, device: torch.device) -> Tensor:
    """(slots,) float64: sum of the weights of each slot's pairs in all batches."""
    sums = [sum(batch.slot_weights.get(slot, 0.0) for batch in batches) for slot in range(slots)]
    return torch.tensor(sums, dtype=torch.float64, device=device)
