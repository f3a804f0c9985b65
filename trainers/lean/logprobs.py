"""The log-probability of tokens among the whole vocabulary, without ever holding all logits.

Goes through the vocabulary in slices with a running maximum and sum (Milakov and Gimelshein, 2018, "Online
normalizer calculation for softmax"). As the output layer is frozen, its gradient with respect to the hidden state,
`W[target] - E[W]` under the softmax, is one more running sum, so that a backward multiplies no logits again (the idea
of fused linear cross-entropy: Hsu et al., 2024, "Liger Kernel").

T states, D model width, V tokens of the vocabulary, k listed tokens of each state.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

_SLICE_CPU = 2048
"""Tokens of the vocabulary at a time. 512 states at this width are 4 MiB, which a core's caches nearly hold: 512 tokens
of SmolLM2 took 0.76 s forward and backward on one core, all logits at once 1.19 s."""

_SLICE = 16_384
"""On an accelerator, where a launch costs more than a cache miss."""


def token_log_probs(hidden: Tensor, output: Tensor, targets: Tensor) -> Tensor:
    """(T,) float32 log-probability of each target token.

    Args:
        hidden: (T, D) normed states; gradients flow to them.
        output: (V, D) frozen weights of the output layer, in the dtype of `hidden`.
        targets: (T,) token ids.
    """
    return cast(Tensor, _TokenLogProbs.apply(hidden, output, targets))


@torch.no_grad()
def judged_log_probs(hidden: Tensor, output: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The same without gradients, and (T,) whether the target is the likeliest token; of equal ones all are."""
    highest = torch.full((len(hidden), 1), float("-inf"), device=hidden.device)
    total, own = torch.zeros_like(highest), torch.zeros_like(highest)
    width = _slice_width(hidden)
    for number, weights in enumerate(output.split(width)):
        logits = F.linear(hidden, weights).float()
        own, _ = _picked(logits, targets[:, None] - number * width, own)
        highest, _, _ = _taken_in(logits, highest, total)
    return (own - highest - total.log())[:, 0], (own >= highest)[:, 0]


def listed_log_probs(hidden: Tensor, output: Tensor, targets: Tensor, listed: Tensor) -> Tensor:
    """(T, k + 2) float32 log-probabilities: of the target, of each listed token, and of all others together.

    What is left for the others is summed up itself and not taken from 1, so that neither it nor its gradient is lost to
    rounding where nearly everything lies on the listed ones.

    Args:
        hidden, output, targets: as in :func:`token_log_probs`.
        listed: (T, k) token ids, those of a row all different and fewer than the vocabulary.
    """
    return cast(Tensor, _ListedLogProbs.apply(hidden, output, targets, listed))


@torch.no_grad()
def likeliest_tokens(hidden: Tensor, output: Tensor, count: int) -> Tensor:
    """(T, count) ids of the likeliest tokens, the likeliest first; `count` is at most V."""
    width = _slice_width(hidden)
    best = torch.full((len(hidden), 0), float("-inf"), device=hidden.device)
    ids = torch.zeros((len(hidden), 0), dtype=torch.long, device=hidden.device)
    for number, weights in enumerate(output.split(width)):
        logits, places = F.linear(hidden, weights).float().topk(min(count, len(weights)))
        best, order = torch.cat((best, logits), 1).sort(dim=1, descending=True, stable=True)
        ids = torch.cat((ids, places + number * width), 1).gather(1, order)[:, :count]
        best = best[:, :count]
    return ids


def _slice_width(hidden: Tensor) -> int:
    return _SLICE_CPU if hidden.device.type == "cpu" else _SLICE


def _picked(logits: Tensor, places: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """The logits at the (T, m) places of a slice, `own` where a place lies outside it; and which lie inside."""
    inside = (places >= 0) & (places < logits.shape[1])
    return torch.where(inside, logits.gather(1, places.clamp(0, logits.shape[1] - 1)), own), inside


def _taken_in(logits: Tensor, highest: Tensor, total: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Take a slice's logits, which are overwritten, into the running maximum and sum, both (T, 1).

    Returns:
        The new maximum; the exponentials of the slice under it; what is multiplied to sums under the old one.
    """
    higher = torch.maximum(highest, logits.amax(-1, keepdim=True))
    shares, rescale = logits.sub_(higher).exp_(), (highest - higher).exp_()
    total.mul_(rescale).add_(shares.sum(-1, keepdim=True))
    return higher, shares, rescale


class _TokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, output: Tensor, targets: Tensor) -> Tensor:
        wants_gradient, width = ctx.needs_input_grad[0], _slice_width(hidden)
        highest = torch.full((len(hidden), 1), float("-inf"), device=hidden.device)
        total, own = torch.zeros_like(highest), torch.zeros_like(highest)
        expected = torch.zeros(hidden.shape, device=hidden.device)  # sum of W weighted by exp(logit - highest)
        for number, weights in enumerate(output.split(width)):
            logits = F.linear(hidden, weights).float()
            own, _ = _picked(logits, targets[:, None] - number * width, own)
            highest, shares, rescale = _taken_in(logits, highest, total)
            if wants_gradient:
                expected.mul_(rescale).add_(shares.to(weights.dtype) @ weights)
        if wants_gradient:
            ctx.save_for_backward(output[targets] - expected / total)
            ctx.dtype = hidden.dtype
        return (own - highest - total.log())[:, 0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return (gradient[:, None] * slope).to(ctx.dtype), None, None


class _ListedLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, output: Tensor, targets: Tensor, listed: Tensor) -> Tensor:
        wants_gradient, width = ctx.needs_input_grad[0], _slice_width(hidden)
        named = torch.cat((targets[:, None], listed), 1)
        own = torch.zeros(named.shape, device=hidden.device)
        # Of the others alone. The lowest number stands for nothing yet: minus infinity less itself is no number.
        highest = torch.full((len(hidden), 1), torch.finfo(torch.float32).min, device=hidden.device)
        total = torch.zeros_like(highest)
        expected = torch.zeros(hidden.shape, device=hidden.device)
        for number, weights in enumerate(output.split(width)):
            logits = F.linear(hidden, weights).float()
            places = named - number * width
            own, inside = _picked(logits, places, own)
            rows, columns = inside[:, 1:].nonzero(as_tuple=True)
            logits[rows, places[rows, columns + 1]] = float("-inf")
            highest, shares, rescale = _taken_in(logits, highest, total)
            if wants_gradient:
                expected.mul_(rescale).add_(shares.to(weights.dtype) @ weights)
        whole = torch.cat((own, highest + total.log()), 1)
        found = whole - whole[:, 1:].logsumexp(1, keepdim=True)
        if wants_gradient:
            ctx.save_for_backward(found, named, output, expected / total)
            ctx.dtype = hidden.dtype
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """`d log p(i) = W[i] - E[W]`, and E[W] is the sum over the listed and the others of their shares."""
        found, named, output, others = ctx.saved_tensors
        slopes = gradient.clone()
        slopes[:, 1:] -= gradient.sum(1, keepdim=True) * found[:, 1:].exp()
        to_hidden = slopes[:, -1:] * others
        for column in range(named.shape[1]):
            to_hidden += slopes[:, column, None] * output[named[:, column]]
        return to_hidden.to(ctx.dtype), None, None, None
