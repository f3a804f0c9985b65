"""What the GPU pass computes between its matrix products: the interface, and the same by plain tensor operations.

`triton_ops.TritonOps` is what a GPU runs. `PlainOps` is its reference in tests and runs on any device. Each backward
is written out, for states the forward has kept; a frozen weight has none.

Shapes: R segments of L tokens, N = R L tokens in all, D model width, H query and K key heads of width d, I width of the
gated layer, T scored positions, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """The sizes of attention in one bucket: R segments of L tokens, H query heads, K key heads, d their width."""

    segments: int
    length: int
    heads: int
    key_heads: int
    width: int


@dataclass(frozen=True)
class Places:
    """Where each token of a batch stands and what it sees; int32 tensors on the device.

    A token sees, at and before itself, its segment's prefix and what begins at `start`.
    """

    shape: Shape
    positions: Tensor  # (N,) in its own row, for the rotary embedding
    start: Tensor  # (N,) place in its segment of its row's first token; a padding token's is its own
    stop: Tensor  # (N,) place in its segment after the last token that sees it
    prefix: Tensor  # (R,) tokens of each segment's shared prefix
    cos: Tensor  # (positions, d / 2) of the rotary embedding
    sin: Tensor  # (positions, d / 2)


@dataclass(frozen=True)
class Adapter:
    """The last product of an adapter that is still to be added: scale * low @ high a slot."""

    low: Tensor  # (R, L, S r)
    high: Tensor  # `views.b` of the gated layer, (R, 2 I, 2 r), or `views.a` of the one after it, (R, r, I)
    scale: float


class Ops(Protocol):
    """The steps of a decoder block that are no matrix products with weights, each with its backward."""

    def norm(self, x: Tensor, onto: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        """Add `onto` to x (n, D), then root-mean-square norm: the sum, the normed (n, D), its scale (n,) float32."""
        ...

    def norm_backward(self, grad: Tensor, x: Tensor, scale: Tensor, weight: Tensor, residual: Tensor | None) -> Tensor:
        """Gradient of the normed (n, D) -> of x, the sum that :meth:`norm` gave, plus `residual`."""
        ...

    def rotate_(self, qkv: Tensor, places: Places) -> None:
        """Rotary embedding of the queries and keys of (N, (H + 2K) d), in place."""
        ...

    def attend(self, qkv: Tensor, places: Places) -> tuple[Tensor, Tensor]:
        """Grouped-query attention: rotated (N, (H + 2K) d) -> (N, H d), and the scores' log-sum-exp (H, N) float32."""
        ...

    def attend_backward(self, grad: Tensor, qkv: Tensor, out: Tensor, lse: Tensor, places: Places) -> Tensor:
        """Gradient of :meth:`attend`'s output (N, H d) -> of queries, keys, values (N, (H + 2K) d) unrotated."""
        ...

    def swiglu(self, gate_up: Tensor, adapter: Adapter) -> Tensor:
        """silu(gate) * up of (n, 2 I), gates first, once low @ high^T is added to it in place -> (n, I)."""
        ...

    def swiglu_backward(self, grad: Tensor, adapter: Adapter, gate_up: Tensor) -> Tensor:
        """Gradient (n, I) of :meth:`swiglu`'s output, once low @ high is added to it -> (n, 2 I)."""
        ...

    def token_losses_(self, logits: Tensor, targets: Tensor, coefficients: Tensor) -> Tensor:
        """Negative log-likelihood (T,) float32 of each target in nats.

        `logits` (T, V) become the gradient of the sum of losses times `coefficients` (T,) float32.
        """
        ...


class PlainOps:
    """See :class:`Ops`."""

    def norm(self, x: Tensor, onto: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`Ops.norm`."""
        total = x if onto is None else x + onto
        wide = total.float()
        scale = torch.rsqrt(wide.square().mean(-1) + eps)
        return total, weight * (wide * scale[:, None]).to(x.dtype), scale

    def norm_backward(self, grad: Tensor, x: Tensor, scale: Tensor, weight: Tensor, residual: Tensor | None) -> Tensor:
        """See :meth:`Ops.norm_backward`."""
        wide, normed = (grad * weight).float(), x.float() * scale[:, None]
        slope = (wide - normed * (wide * normed).mean(-1, keepdim=True)) * scale[:, None]
        return (slope if residual is None else slope + residual.float()).to(grad.dtype)

    def rotate_(self, qkv: Tensor, places: Places) -> None:
        """See :meth:`Ops.rotate_`."""
        shape = places.shape
        _turn_(qkv.view(len(qkv), -1, shape.width)[:, : shape.heads + shape.key_heads], places, 1)

    def attend(self, qkv: Tensor, places: Places) -> tuple[Tensor, Tensor]:
        """See :meth:`Ops.attend`."""
        q, k, v = _per_segment(qkv, places.shape)
        scores = (q @ k.transpose(-1, -2)).float() * places.shape.width**-0.5 + _mask(places)
        lse = scores.logsumexp(-1)  # (R, H, L)
        out = (scores - lse[..., None]).exp().to(qkv.dtype) @ v
        return out.transpose(1, 2).reshape(len(qkv), -1), lse.transpose(0, 1).reshape(places.shape.heads, -1)

    def attend_backward(self, grad: Tensor, qkv: Tensor, out: Tensor, lse: Tensor, places: Places) -> Tensor:
        """See :meth:`Ops.attend_backward`."""
        shape, scale = places.shape, places.shape.width**-0.5
        q, k, v = _per_segment(qkv, shape)
        own, result = (t.view(*shape_of(shape), shape.width).transpose(1, 2) for t in (grad, out))
        sums = lse.view(shape.heads, shape.segments, shape.length).transpose(0, 1)
        shares = ((q @ k.transpose(-1, -2)).float() * scale + _mask(places) - sums[..., None]).exp()
        along = (own.float() * result.float()).sum(-1, keepdim=True)
        on_scores = (shares * ((own @ v.transpose(-1, -2)).float() - along) * scale).to(q.dtype)
        group = shape.heads // shape.key_heads
        to_k, to_v = (
            part.unflatten(1, (shape.key_heads, group)).sum(2)
            for part in (on_scores.transpose(-1, -2) @ q, shares.to(q.dtype).transpose(-1, -2) @ own)
        )
        to_qkv = torch.cat((on_scores @ k, to_k, to_v), 1).transpose(1, 2).reshape(qkv.shape)
        _turn_(to_qkv.view(len(qkv), -1, shape.width)[:, : shape.heads + shape.key_heads], places, -1)
        return to_qkv

    def swiglu(self, gate_up: Tensor, adapter: Adapter) -> Tensor:
        """See :meth:`Ops.swiglu`."""
        by_slot = gate_up.view(len(adapter.low), -1, gate_up.shape[1])
        by_slot.baddbmm_(adapter.low, adapter.high.transpose(1, 2), alpha=adapter.scale)
        gate, up = gate_up.chunk(2, -1)
        return F.silu(gate) * up

    def swiglu_backward(self, grad: Tensor, adapter: Adapter, gate_up: Tensor) -> Tensor:
        """See :meth:`Ops.swiglu_backward`."""
        by_slot = grad.view(len(adapter.low), -1, grad.shape[1])
        grad = torch.baddbmm(by_slot, adapter.low, adapter.high, alpha=adapter.scale).view(grad.shape)
        gate, up = gate_up.chunk(2, -1)
        return torch.cat((torch.ops.aten.silu_backward(grad * up, gate), grad * F.silu(gate)), -1)

    def token_losses_(self, logits: Tensor, targets: Tensor, coefficients: Tensor) -> Tensor:
        """See :meth:`Ops.token_losses_`."""
        wanted, log_probs = targets.long()[:, None], logits.float().log_softmax(-1)
        losses = -log_probs.gather(1, wanted)[:, 0]
        slopes = log_probs.exp_().scatter_add_(1, wanted, -torch.ones_like(log_probs[:, :1]))
        logits.copy_(slopes * coefficients[:, None])
        return losses


def shape_of(shape: Shape) -> tuple[int, int, int]:
    """(R, L, H)."""
    return shape.segments, shape.length, shape.heads


def _per_segment(qkv: Tensor, shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """(N, (H + 2K) d) -> queries, keys and values (R, H, L, d), each key head repeated for its queries."""
    by_head = qkv.view(shape.segments, shape.length, -1, shape.width).transpose(1, 2)
    q, k, v = by_head.split((shape.heads, shape.key_heads, shape.key_heads), 1)
    group = shape.heads // shape.key_heads
    return q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)


def _mask(places: Places) -> Tensor:
    """(R, 1, L, L) additive: 0 where the query of a row sees the key of a column, minus infinity elsewhere."""
    shape = places.shape
    at = torch.arange(shape.length, device=places.start.device)
    begin = places.start.view(shape.segments, shape.length, 1)
    own = (at < places.prefix[:, None, None]) | (at >= begin)
    seen = own & (at <= at[:, None])
    return torch.zeros(seen.shape, device=at.device).masked_fill_(~seen, float("-inf"))[:, None]


def _turn_(x: Tensor, places: Places, direction: int) -> None:
    """Rotate (N, heads, d) in place, back with direction -1."""
    at = places.positions.long()
    cos, sin = places.cos[at][:, None].float(), places.sin[at][:, None].float() * direction
    first, second = (half.float() for half in x.chunk(2, -1))
    x.copy_(torch.cat((first * cos - second * sin, second * cos + first * sin), -1))
