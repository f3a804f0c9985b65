"""The log-probability of tokens among the whole vocabulary, without ever holding all logits.

Goes through the vocabulary in slices with a running maximum and sum (Milakov and Gimelshein, 2018, "Online
normalizer calculation for softmax"). As the output layer is frozen, its gradient with respect to the hidden state,
`W[target] - E[W]` under the softmax, is one more running sum, so that a backward multiplies no logits again (the idea
of fused linear cross-entropy: Hsu et al., 2024, "Liger Kernel").
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
    highest = torch.full((len(hidden),), float("-inf"), device=hidden.device)
    total, own = torch.zeros_like(highest), torch.zeros_like(highest)
    width = _SLICE_CPU if hidden.device.type == "cpu" else _SLICE
    for number, weights in enumerate(output.split(width)):
        logits = F.linear(hidden, weights).float()
        place = targets - number * width
        inside = (place >= 0) & (place < len(weights))
        own = torch.where(inside, logits.gather(1, place.clamp(0, len(weights) - 1)[:, None])[:, 0], own)
        higher = torch.maximum(highest, logits.amax(-1))
        total.mul_((highest - higher).exp_()).add_(logits.sub_(higher[:, None]).exp_().sum(-1))
        highest = higher
    return own - highest - total.log(), own >= highest


class _TokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, output: Tensor, targets: Tensor) -> Tensor:
        wants_gradient, width = ctx.needs_input_grad[0], _SLICE_CPU if hidden.device.type == "cpu" else _SLICE
        highest = torch.full((len(hidden), 1), float("-inf"), device=hidden.device)
        total, own = torch.zeros_like(highest), torch.zeros_like(highest)
        expected = torch.zeros(hidden.shape, device=hidden.device)  # sum of W weighted by exp(logit - highest)
        for number, weights in enumerate(output.split(width)):
            logits = F.linear(hidden, weights).float()
            place = targets[:, None] - number * width
            inside = (place >= 0) & (place < len(weights))
            own = torch.where(inside, logits.gather(1, place.clamp(0, len(weights) - 1)), own)
            higher = torch.maximum(highest, logits.amax(-1, keepdim=True))
            shares, rescale = logits.sub_(higher).exp_(), (highest - higher).exp_()
            total.mul_(rescale).add_(shares.sum(-1, keepdim=True))
            highest = higher
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
