"""The losses of the channels, as pure functions, each with its own normaliser."""

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
    return _sums(-log_probs, batch, slots) / _no_zero(slot_weight)


def completion_weight(batch: Packed, slots: int) -> Tensor:
    """(slots,): sum of row weights over each slot's completion tokens."""
    return _sums(torch.ones(len(batch.targets), device=batch.targets.device), batch, slots)


def kl_losses(log_probs: Tensor, batch: Packed, slots: int, slot_weight: Tensor) -> Tensor:
    """Weighted divergence from the parent a slot, (slots,), in nats a token of what is replayed.

    `log_probs` is (K, k + 1), the child's where the batch knows its parent's. `slot_weight` is (slots,):
    :func:`parent_weight` of all parts of the step, which so add up to the whole step's mean.
    """
    assert batch.parent is not None
    found = kl_divergences(log_probs, batch.parent.log_probs)
    return _sums_of_held(found, batch, slots) / _no_zero(slot_weight)


def parent_weight(batch: Packed, slots: int) -> Tensor:
    """(slots,): sum of row weights over the completion tokens whose parent is known."""
    return _sums_of_held(torch.ones(len(batch.parent_at), device=batch.targets.device), batch, slots)


def kl_divergences(child: Tensor, parent: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the child from the parent at each place, (n,), in nats; at least 0.

    Both are (n, m) log-probabilities of the same m events, of which one always happens. Summed over the events is
    `p log(p / q) - p + q`, which is what `p log(p / q)` comes to and has no term below 0 that rounding could leave.
    """
    p, q = parent.double().exp(), child.double().exp()
    return (p * (parent.double() - child.double()) - p + q).sum(1).float()


def _sums(values: Tensor, batch: Packed, slots: int) -> Tensor:
    """(slots,): sums of values (T,), one a completion token, times the weights of their rows."""
    slot_of_row = torch.tensor(batch.row_slots, device=values.device)
    weighted = values * batch.row_weights[batch.target_row]
    return torch.zeros(slots, device=values.device).index_add(0, slot_of_row[batch.target_row], weighted)


def _sums_of_held(values: Tensor, batch: Packed, slots: int) -> Tensor:
    """As :func:`_sums`, of values (K,), one where the parent is known.

    Slot by slot, since a GPU's scattered sums have no fixed order.
    """
    rows = batch.target_row[batch.parent_at]
    of_row, slot = torch.tensor(batch.row_slots, device=values.device), torch.arange(slots, device=values.device)
    own = of_row[rows] == slot[:, None]
    return torch.where(own, values * batch.row_weights[rows], 0.0).sum(1)


def _no_zero(weight: Tensor) -> Tensor:
    """A slot without data has the weight 0 and sums of 0."""
    return weight.clamp_min(torch.finfo(weight.dtype).tiny)


def dpo_losses(margins: Tensor, reference: Tensor, beta: float) -> Tensor:
    """DPO loss of each pair, (n,), in nats: `-log sigmoid(beta (margin - reference margin))`.

    A margin is the log-likelihood of the chosen answer less that of the rejected one, each the sum over its tokens:
    under the policy in `margins`, under the reference in `reference`, both (n,). `beta` is above 0. (Rafailov et al.,
    2023, "Direct Preference Optimization", equation 7.)
    """
    return -F.logsigmoid(beta * (margins - reference))
