"""The parts of a decoder block with their backward written out: what autograd would do in a dozen steps, in a few.

With the two hundred tokens of a step an operation takes less time than its dispatch, so their number is what counts.
Each is checked against autograd in tests. Nothing here computes a gradient for a frozen weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from trainers.lean.adapter_bank import AdapterBank, FusedViews

Slices = Sequence[tuple[int, int, int]]


class FrozenLinear(Protocol):
    """A frozen linear layer, however its weight is held."""

    @property
    def weight(self) -> Tensor:
        """(out, in), for the product that follows."""
        ...

    @property
    def bias(self) -> Tensor | None: ...


@dataclass(frozen=True)
class FusedLinear:
    """Frozen weights (out, in) of modules that share an input, stacked, with their biases where the family has them."""

    weight: Tensor
    bias: Tensor | None


def linear(
    x: Tensor, frozen: FrozenLinear, views: FusedViews | None, slices: Slices, bank: AdapterBank | None
) -> Tensor:
    """(n, in) -> (n, out): y = x W^T + b, and for each slice (slot, start, end) its adapter's s (x A^T) B^T on top."""
    return cast(Tensor, _SlicedLoRA.apply(x, frozen, views, slices, bank))


class _SlicedLoRA(torch.autograd.Function):
    """Writes the adapters' gradients straight into the bank's buffers.

    Autograd never sees them, so there is one gradient buffer, no accumulation copies, and nothing is ever computed for
    the frozen base.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, frozen: FrozenLinear, views: FusedViews | None, slices: Slices, bank: AdapterBank | None
    ) -> Tensor:
        y = x @ frozen.weight.t() if frozen.bias is None else torch.addmm(frozen.bias, x, frozen.weight.t())
        adapted: list[tuple[int, int, int]] = []
        xas: list[Tensor] = []
        if views is not None and bank is not None:
            adapted = [(slot, start, end) for slot, start, end in slices if slot >= 0]
            for slot, start, end in adapted:
                xas.append(x[start:end] @ views.a[slot].t())
                y[start:end].addmm_(xas[-1], views.b[slot].t(), alpha=bank.scale)
        ctx.save_for_backward(x, *xas)
        ctx.frozen, ctx.views, ctx.adapted, ctx.bank = frozen, views, adapted, bank
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (x, *xas) = grads, ctx.saved_tensors
        views: FusedViews = ctx.views
        bank: AdapterBank = ctx.bank
        grad_x = grad @ ctx.frozen.weight
        for (slot, start, end), xa in zip(ctx.adapted, xas, strict=True):
            own = grad[start:end]
            grad_xa = own @ views.b[slot]
            # The product gives each module's B a gradient from every module's columns; only its own exist.
            grad_b = own.t() @ xa
            for j, part in enumerate(views.grad_b[slot]):
                at, columns = views.rows[j], slice(j * bank.rank, (j + 1) * bank.rank)
                part.add_(grad_b[at, columns], alpha=bank.scale)
            views.grad_a[slot].add_(grad_xa.t() @ x[start:end], alpha=bank.scale)
            grad_x[start:end].addmm_(grad_xa, views.a[slot], alpha=bank.scale)
        return grad_x, None, None, None, None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm in float32, as in the Hugging Face Llama (Zhang and Sennrich, 2019)."""
    return cast(Tensor, _RmsNorm.apply(x, weight, eps))


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        scale = torch.rsqrt(norm.square_().div_(x.shape[-1]).add_(eps))
        normed = wide.mul(scale)
        ctx.save_for_backward(normed, scale, weight)
        return weight * normed.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (normed, scale, weight) = grads, ctx.saved_tensors
        wide = (grad * weight).float()
        along = (wide * normed).mean(-1, keepdim=True)
        return wide.addcmul_(normed, along, value=-1).mul_(scale).to(grad.dtype), None, None


def rotate(x: Tensor, cos: Tensor, sin: Tensor, heads: int) -> Tensor:
    """Rotary position embedding of the first `heads` of (n, all heads, d); the others stay as they are.

    `cos` and `sin` are (n, 1, d / 2). Halves convention (Su et al., 2021, as in Llama).
    """
    return cast(Tensor, _Rotate.apply(x, cos, sin, heads))


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, heads: int) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.heads = heads
        return _turned(x, cos, sin, heads, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _turned(grads[0], cos, sin, ctx.heads, -1), None, None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, heads: int, direction: int) -> Tensor:
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    (first, second), (to_first, to_second) = x[:, :heads].chunk(2, -1), out[:, :heads].chunk(2, -1)
    torch.mul(first, cos, out=to_first)
    to_first.addcmul_(second, sin, value=-direction)
    torch.mul(second, cos, out=to_second)
    to_second.addcmul_(first, sin, value=direction)
    out[:, heads:] = x[:, heads:]
    return out


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of (n, 2 * width), gates first -> (n, width) (Shazeer, 2020)."""
    return cast(Tensor, _SwiGlu.apply(gate_up))


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, -1)
        active = F.silu(gate)
        ctx.save_for_backward(gate_up, active)
        return active * up

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (gate_up, active) = grads, ctx.saved_tensors
        out = torch.empty_like(gate_up)
        (gate, up), (to_gate, to_up) = gate_up.chunk(2, -1), out.chunk(2, -1)
        torch.mul(grad, active, out=to_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=to_gate)
        return (out,)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Grouped-query attention by plain products: q (b, H, s, d), k and v (b, K, t, d), additive mask -> (b, H, s, d).

    For the few dozen tokens of an example, the CPU's fused attention is several times slower in its backward.
    """
    return cast(Tensor, _Attend.apply(q, k, v, mask))


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        (b, heads, s, d), (key_heads, t) = q.shape, k.shape[1:3]
        q = q.reshape(b * key_heads, heads // key_heads * s, d)
        k, v = k.reshape(b * key_heads, t, d), v.reshape(b * key_heads, t, d)
        scores = torch.bmm(q, k.transpose(1, 2)).view(b, heads, s, t).float().mul_(d**-0.5)
        weights = torch.softmax(scores if mask is None else scores.add_(mask), -1)
        rounded = weights.to(q.dtype).view(q.shape[0], q.shape[1], t)
        ctx.save_for_backward(q, k, v, weights, rounded)
        return torch.bmm(rounded, v).view(b, heads, s, d)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (q, k, v, weights, rounded) = grads, ctx.saved_tensors
        (b, heads, s, t), d = weights.shape, q.shape[-1]
        own = grad.reshape(q.shape)
        on_weights = torch.bmm(own, v.transpose(1, 2)).view(weights.shape)
        on_scores = torch.ops.aten._softmax_backward_data(on_weights.float(), weights, -1, torch.float32)
        on_scores = on_scores.mul_(d**-0.5).to(q.dtype).view(rounded.shape)
        grad_q = torch.bmm(on_scores, k).view(b, heads, s, d)
        grad_k = torch.bmm(on_scores.transpose(1, 2), q).view(b, -1, t, d)
        return grad_q, grad_k, torch.bmm(rounded.transpose(1, 2), own).view(b, -1, t, d), None


def take(x: Tensor, at: Tensor) -> Tensor:
    """x[at] for distinct positions; the backward is a plain copy, where autograd's own would accumulate."""
    return cast(Tensor, _Take.apply(x, at))


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, at: Tensor) -> Tensor:
        ctx.at, ctx.length = at, x.shape[0]
        return x.index_select(0, at)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        return grad.new_zeros((ctx.length, *grad.shape[1:])).index_copy_(0, ctx.at, grad), None


def put(x: Tensor, at: Tensor, length: int) -> Tensor:
    """Zeros of `length` rows with x at distinct positions: the reverse of :func:`take`."""
    return cast(Tensor, _Put.apply(x, at, length))


class _Put(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, at: Tensor, length: int) -> Tensor:
        ctx.at = at
        return x.new_zeros((length, *x.shape[1:])).index_copy_(0, at, x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        return grad.index_select(0, ctx.at), None, None
