"""The losses of both channels, as pure functions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.lean.packing import Packed


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


def dpo_losses(margins: Tensor, reference: Tensor, beta: float) -> Tensor:
    """DPO loss of each pair, (n,), in nats: `-log sigmoid(beta (margin - reference margin))`.

    A margin is the log-likelihood of the chosen answer less that of the rejected one, each the sum over its tokens:
    under the policy in `margins`, under the reference in `reference`, both (n,). `beta` is above 0. (Rafailov et al.,
    2023, "Direct Preference Optimization", equation 7.)
    """
    return -F.logsigmoid(beta * (margins - reference))
