"""Forward and backward of the lean decoder over segments, written out, with the adapters of all slots as one batch.

The same function as :meth:`trainers.lean.LeanModel.log_probs` and its gradient. Autograd has no part in it: with the
backward written as a sequence, a pass is some fifty launches a layer, all of fixed shapes, none of which waits for the
host, so that the whole of it can be captured in a CUDA graph.

Shapes: R segments of L tokens, N = R L, D model width, T scored positions; r rank, S sites of a group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.bank import GROUPS, AdapterBank, BatchedViews
from trainers.gpu_ops import Ops, Places, Shape
from trainers.lean import LeanModel
from trainers.lean_ops import FrozenGroup
from trainers.segments import Bucket, SegmentViews


class _Kept(NamedTuple):
    """What a layer's backward needs of its forward."""

    x: Tensor  # (N, D) before attention
    x_scale: Tensor
    normed: Tensor
    qkv: Tensor
    mixed: Tensor  # attention's output
    lse: Tensor
    middle: Tensor  # (N, D) before the gated layer
    middle_scale: Tensor
    normed_middle: Tensor
    gate_up: Tensor
    active: Tensor
    downs: tuple[Tensor, Tensor, Tensor, Tensor]  # of each group, (R, L, S r)


@dataclass(frozen=True)
class SegmentPass:
    """Passes of one bank over one model. Made once; holds nothing of a batch."""

    model: LeanModel
    bank: AdapterBank
    ops: Ops
    rotary: tuple[Tensor, Tensor]
    """cos and sin of every position, (positions, d / 2)."""
    views: list[BatchedViews]

    @classmethod
    def over(cls, model: LeanModel, bank: AdapterBank, ops: Ops, positions: int) -> SegmentPass:
        """For rows of up to so many tokens."""
        cos, sin = model.rotary(torch.arange(positions, device=model.device))
        return cls(model, bank, ops, (cos[:, 0].contiguous(), sin[:, 0].contiguous()), bank.batched())

    def __call__(self, batch: SegmentViews, bucket: Bucket, channel_shares: Tensor, fresh: bool) -> Tensor:
        """Losses of the slots, (R,), in nats; gradients go to the bank.

        Args:
            channel_shares: (R,) what the gradient of each slot's loss is multiplied by.
            fresh: write the gradients instead of adding to what is there.
        """
        shape = Shape(bucket.slots, bucket.length, self.model.heads, self.model.key_heads, self.model.head_width)
        places = Places(shape, batch.positions, batch.start, batch.stop, batch.prefix, *self.rotary)
        kept: list[_Kept] = []
        x, onto = F.embedding(batch.ids, self.model.embedding), None
        for number in range(len(self.model.layers)):
            x, onto = self._forward(number, x, onto, places, kept)
        assert onto is not None  # a model has layers
        losses, grad = self._losses(x + onto, batch, channel_shares)
        for number in reversed(range(len(self.model.layers))):
            grad = self._backward(number, grad, kept.pop(), places, fresh)
        return losses

    def _forward(
        self, number: int, x: Tensor, onto: Tensor | None, places: Places, kept: list[_Kept]
    ) -> tuple[Tensor, Tensor]:
        """A block of x + onto (N, D): the residual stream before its gated layer, and what that adds."""
        layer, ops, eps = self.model.layers[number], self.ops, self.model.eps
        x, normed, x_scale = ops.norm(x, onto, layer.attention_norm, eps)
        qkv, down_qkv = self._linear(number, 0, normed)
        ops.rotate_(qkv, places)
        mixed, lse = ops.attend(qkv, places)
        attended, down_out = self._linear(number, 1, mixed)
        middle, normed_middle, middle_scale = ops.norm(x, attended, layer.mlp_norm, eps)
        gate_up, down_gate_up = self._linear(number, 2, normed_middle)
        active = ops.swiglu(gate_up)
        out, down_active = self._linear(number, 3, active)
        downs = down_qkv, down_out, down_gate_up, down_active
        kept.append(
            _Kept(x, x_scale, normed, qkv, mixed, lse, middle, middle_scale, normed_middle, gate_up, active, downs)
        )
        return middle, out

    def _backward(self, number: int, grad: Tensor, kept: _Kept, places: Places, fresh: bool) -> Tensor:
        """Gradient of a block's output (N, D) -> of its input; the adapters' goes to the bank."""
        layer, ops = self.model.layers[number], self.ops
        on_active = self._linear_backward(number, 3, grad, (kept.active, kept.downs[3]), fresh)
        on_gate_up = ops.swiglu_backward(on_active, kept.gate_up)
        on_normed = self._linear_backward(number, 2, on_gate_up, (kept.normed_middle, kept.downs[2]), fresh)
        grad = ops.norm_backward(on_normed, kept.middle, kept.middle_scale, layer.mlp_norm, grad)
        on_mixed = self._linear_backward(number, 1, grad, (kept.mixed, kept.downs[1]), fresh)
        on_qkv = ops.attend_backward(on_mixed, kept.qkv, kept.mixed, kept.lse, places)
        on_normed = self._linear_backward(number, 0, on_qkv, (kept.normed, kept.downs[0]), fresh)
        return ops.norm_backward(on_normed, kept.x, kept.x_scale, layer.attention_norm, grad)

    def _losses(self, x: Tensor, batch: SegmentViews, channel_shares: Tensor) -> tuple[Tensor, Tensor]:
        """Losses (R,) of the states after the last block, and the gradient of what they come to (N, D)."""
        model, ops = self.model, self.ops
        scored = x.index_select(0, batch.score_at)
        _, hidden, scale = ops.norm(scored, None, model.final_norm, model.eps)
        logits = hidden @ model.output.t()
        coefficients = (batch.shares * channel_shares[:, None]).sum(0)
        losses = (batch.shares * ops.token_losses_(logits, batch.targets, coefficients)).sum(1)
        on_hidden = wide_mm(logits, model.output).to(x.dtype)
        on_scored = ops.norm_backward(on_hidden, scored, scale, model.final_norm, None)
        # A position that is not scored takes the gradient of the last one here, which is padding's: zero.
        return losses, on_scored.index_select(0, batch.scored_of)

    def _linear(self, number: int, group: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """A group's outputs (N, out) for x (N, in), adapters included, and what the A matrices gave, (R, L, S r)."""
        frozen: FrozenGroup = self.model.layers[number].groups[group]
        views = self.views[number * len(GROUPS) + group]
        weight = frozen.weight.t()
        y = x @ weight if frozen.bias is None else torch.addmm(frozen.bias, x, weight)
        slots = self.bank.slots
        down = torch.bmm(x.view(slots, -1, x.shape[1]), views.a.transpose(1, 2))
        by_slot = y.view(slots, -1, y.shape[1])
        by_slot.baddbmm_(down, views.b.transpose(1, 2), alpha=self.bank.scale)
        return y, down

    def _linear_backward(
        self, number: int, group: int, grad: Tensor, kept: tuple[Tensor, Tensor], fresh: bool
    ) -> Tensor:
        """Gradient of a group's outputs (N, out) -> of its input (N, in); the adapters' goes to the bank."""
        views, (x, down), bank = self.views[number * len(GROUPS) + group], kept, self.bank
        by_slot = grad.view(bank.slots, -1, grad.shape[1])
        on_down = torch.bmm(by_slot, views.b)
        for j, (rows, to_b) in enumerate(zip(views.rows, views.grad_b, strict=True)):
            own = down[..., j * bank.rank : (j + 1) * bank.rank]
            wide_baddbmm_(to_b, by_slot[..., rows].transpose(1, 2), own, bank.scale, fresh)
        own = x.view(bank.slots, -1, x.shape[1])
        wide_baddbmm_(views.grad_a, on_down.transpose(1, 2), own, bank.scale, fresh)
        on_x = grad @ self.model.layers[number].groups[group].weight
        on_x.view(bank.slots, -1, on_x.shape[1]).baddbmm_(on_down, views.a, alpha=bank.scale)
        return on_x


def wide_baddbmm_(to: Tensor, a: Tensor, b: Tensor, alpha: float, fresh: bool) -> None:
    """to = alpha a @ b, or to += alpha a @ b, for float32 `to` and a and b of any type, with sums in float32."""
    beta = 0 if fresh else 1
    if a.dtype == to.dtype:
        torch.baddbmm(to, a, b, beta=beta, alpha=alpha, out=to)
    elif a.is_cuda:
        torch.baddbmm(to, a, b, beta=beta, alpha=alpha, out_dtype=to.dtype, out=to)
    else:  # a CPU has no product that widens
        to.mul_(beta).add_(torch.bmm(a.float(), b.float()), alpha=alpha)


def wide_mm(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in float32, also of narrower factors: a sum over the vocabulary is too long to be rounded on its way."""
    if a.dtype == torch.float32:
        return a @ b
    return torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda else a.float() @ b.float()
