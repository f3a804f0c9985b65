"""Losses and the learning-rate schedule, as pure functions."""

from __future__ import annotations

import torch
from torch import Tensor

from trainers.packing import Packed


def sft_losses(log_probs: Tensor, batch: Packed, slots: int, slot_weight: Tensor) -> Tensor:
    """Weighted negative log-likelihood a slot, (slots,), in nats a token.

    `log_probs` is (T,). `slot_weight` is (slots,): the sum over a slot's completion tokens of their row's weight, over
    all micro-batches of the step, so that the parts of a step add up to the whole step's mean. A weight of 0 takes a
    row out altogether.
    """
    slot_of_row = torch.tensor(batch.row_slots, device=log_probs.device)
    weighted = -log_probs * batch.row_weights[batch.target_row]
    sums = torch.zeros(slots, device=log_probs.device).index_add(0, slot_of_row[batch.target_row], weighted)
    return sums / slot_weight.clamp_min(torch.finfo(torch.float32).tiny)


def completion_weight(batch: Packed, slots: int) -> Tensor:
    """(slots,): sum of row weights over each slot's completion tokens."""
    slot_of_row = torch.tensor(batch.row_slots, device=batch.targets.device)
    weights = batch.row_weights[batch.target_row]
    return torch.zeros(slots, device=weights.device).index_add_(0, slot_of_row[batch.target_row], weights)


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Linear rise over `warmup` steps, then linear fall to 0 at `steps` (Hugging Face's `linear`). `step` from 0."""
    if step < warmup:
        return peak * step / max(1, warmup)
    return peak * max(0.0, (steps - step) / max(1, steps - warmup))
