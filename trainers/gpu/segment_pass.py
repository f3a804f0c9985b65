"""Forward and backward of the lean decoder over segments, written out, with the adapters of all slots as one batch.

The same function as :meth:`trainers.lean.LeanModel.log_probs` and its gradient. Autograd has no part in it: with the
backward written as a sequence, a pass is some fifty launches a layer, all of fixed shapes, none of which waits for the
host, so that the whole of it can be captured in a CUDA graph.

Shapes: R segments of L tokens, N = R L, D model width, T scored positions; r rank, S sites of a group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.gpu.ops import Adapter, Ops, Places, Shape
from trainers.lean.adapter_bank import FUSED_MODULES, AdapterBank, BatchedViews
from trainers.lean.model import LeanModel
from trainers.lean.ops import FrozenLinear
from trainers.lean.segments import Bucket, SegmentViews


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


class Beside:
    """A second stream of a GPU: what is called on it begins when all that was asked for before is done, and may run at
    the same time as what is asked for next. Without a device it runs in place."""

    def __init__(self, device: torch.device | None):
        self._stream = None if device is None else torch.cuda.Stream(device)
        self._kept: list[Any] = []
        self._before: tuple[torch.cuda.Event, list[Any]] | None = None

    def __call__(self, work: Callable[[], Tensor]) -> Tensor:
        """The result of `work`, which no one else may use before :meth:`join`."""
        if self._stream is None:
            return work()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            return work()

    def join(self) -> None:
        """Let what is asked for next begin when all that was called is done."""
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)

    def keep(self, *used: Any) -> None:
        """Hold tensors that calls read: their memory must not be given to anyone before those are done."""
        if self._stream is not None:
            self._kept += used

    def settle(self, *used: Any) -> None:
        """As :meth:`keep`; and let go of what was held at the last `settle`, once the calls up to there are done."""
        if self._stream is None:
            return
        if self._before is not None:
            torch.cuda.current_stream().wait_event(self._before[0])
        event = torch.cuda.Event()
        event.record(self._stream)
        self._before, self._kept = (event, [*self._kept, *used]), []

    def finish(self) -> None:
        """Join, and let go of everything."""
        self.join()
        self._before, self._kept = None, []


@dataclass(frozen=True)
class SegmentPass:
    """Passes of one bank over one model. Made once; holds nothing of a batch."""

    model: LeanModel
    bank: AdapterBank
    ops: Ops
    rotary: tuple[Tensor, Tensor]
    """cos and sin of every position, (positions, d / 2)."""
    views: list[BatchedViews]
    near: Beside
    """For the narrow products beside a wide one."""
    far: Beside
    """For the adapters' gradients, which nothing waits for before the step's end."""

    @classmethod
    def over(cls, model: LeanModel, bank: AdapterBank, ops: Ops, positions: int, beside: bool = True) -> SegmentPass:
        """For rows of up to so many tokens.

        Args:
            beside: use further streams, so that small products fill what large ones leave free of the GPU.
        """
        cos, sin = model.rotary(torch.arange(positions, device=model.device))
        near, far = (Beside(model.device if beside and model.device.type == "cuda" else None) for _ in range(2))
        return cls(model, bank, ops, (cos[:, 0].contiguous(), sin[:, 0].contiguous()), bank.batched(), near, far)

    def __call__(self, batch: SegmentViews, bucket: Bucket, channel_shares: Tensor, fresh: bool) -> Tensor:
        """Losses of the slots, (R,), in nats; gradients go to the bank.

        Args:
            channel_shares: (R,) what the gradient of each slot's loss is multiplied by.
            fresh: write the gradients instead of adding to what is there.
        """
        shape = Shape(bucket.slots, bucket.length, self.model.heads, self.model.key_heads, self.model.head_width)
        places = Places(shape, batch.positions, batch.start, batch.stop, batch.prefix, *self.rotary)
        kept: list[_Kept] = []
        begins: list[tuple[Tensor, Tensor | None]] = []  # of each block, to compute it again
        x, onto = F.embedding(batch.ids, self.model.embedding), None
        for number in range(len(self.model.layers)):
            if self.model.recomputes:
                begins.append((x, onto))
                kept.clear()
            x, onto = self._forward(number, x, onto, places, kept)
        assert onto is not None  # a model has layers
        losses, grad = self._losses(x + onto, batch, channel_shares)
        for number in reversed(range(len(self.model.layers))):
            if not kept:
                self._forward(number, *begins[number], places, kept)
            grad = self._backward(number, grad, kept.pop(), places, fresh)
        self.far.finish()
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
        gate_up, down_gate_up = self._base(number, 2, normed_middle)
        views = self.views[number * len(FUSED_MODULES) + 2]
        active = ops.swiglu(gate_up, Adapter(down_gate_up, views.b, self.bank.scale))
        out, down_active = self._linear(number, 3, active)
        downs = down_qkv, down_out, down_gate_up, down_active
        kept.append(
            _Kept(x, x_scale, normed, qkv, mixed, lse, middle, middle_scale, normed_middle, gate_up, active, downs)
        )
        return middle, out

    def _backward(self, number: int, grad: Tensor, kept: _Kept, places: Places, fresh: bool) -> Tensor:
        """Gradient of a block's output (N, D) -> of its input; the adapters' goes to the bank."""
        layer, ops, last = self.model.layers[number], self.ops, self.views[number * len(FUSED_MODULES) + 3]
        on_active, low = self._base_backward(number, 3, grad, (kept.active, kept.downs[3]), fresh)
        on_gate_up = ops.swiglu_backward(on_active, Adapter(low, last.a, self.bank.scale), kept.gate_up)
        on_normed = self._linear_backward(number, 2, on_gate_up, (kept.normed_middle, kept.downs[2]), fresh)
        on_middle = ops.norm_backward(on_normed, kept.middle, kept.middle_scale, layer.mlp_norm, grad)
        on_mixed = self._linear_backward(number, 1, on_middle, (kept.mixed, kept.downs[1]), fresh)
        on_qkv = ops.attend_backward(on_mixed, kept.qkv, kept.mixed, kept.lse, places)
        on_normed = self._linear_backward(number, 0, on_qkv, (kept.normed, kept.downs[0]), fresh)
        self.far.settle(kept, grad, on_gate_up, on_middle, on_qkv)
        return ops.norm_backward(on_normed, kept.x, kept.x_scale, layer.attention_norm, on_middle)

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

    def _base(self, number: int, group: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """A group's outputs (N, out) for x (N, in) without adapters, and what their A matrices give, (R, L, S r)."""
        frozen: FrozenLinear = self.model.layers[number].groups[group]
        a = self.views[number * len(FUSED_MODULES) + group].a
        down = self.near(lambda: torch.bmm(x.view(self.bank.slots, -1, x.shape[1]), a.transpose(1, 2)))
        y = x @ frozen.weight.t() if frozen.bias is None else torch.addmm(frozen.bias, x, frozen.weight.t())
        self.near.join()
        return y, down

    def _linear(self, number: int, group: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`_base`, with the adapters in the outputs."""
        y, down = self._base(number, group, x)
        b = self.views[number * len(FUSED_MODULES) + group].b
        y.view(self.bank.slots, -1, y.shape[1]).baddbmm_(down, b.transpose(1, 2), alpha=self.bank.scale)
        return y, down

    def _base_backward(
        self, number: int, group: int, grad: Tensor, kept: tuple[Tensor, Tensor], fresh: bool
    ) -> tuple[Tensor, Tensor]:
        """Gradient of a group's outputs (N, out) -> of its input (N, in) through the base, and of what the A matrices
        gave, (R, L, S r); the adapters' goes to the bank."""
        views, (x, down) = self.views[number * len(FUSED_MODULES) + group], kept
        by_slot = grad.view(self.bank.slots, -1, grad.shape[1])
        on_down = self.near(lambda: torch.bmm(by_slot, views.b))
        on_x = grad @ self.model.layers[number].groups[group].weight
        self.near.join()

        def adapters() -> Tensor:
            rank, scale = self.bank.rank, self.bank.scale
            for j, (rows, to_b) in enumerate(zip(views.rows, views.grad_b, strict=True)):
                own = down[..., j * rank : (j + 1) * rank]
                wide_baddbmm_(to_b, by_slot[..., rows].transpose(1, 2), own, scale, fresh)
            wide_baddbmm_(views.grad_a, on_down.transpose(1, 2), x.view(self.bank.slots, -1, x.shape[1]), scale, fresh)
            return on_down

        self.far.keep(self.far(adapters))
        return on_x, on_down

    def _linear_backward(
        self, number: int, group: int, grad: Tensor, kept: tuple[Tensor, Tensor], fresh: bool
    ) -> Tensor:
        """As :meth:`_base_backward`, with the way through the adapters in the input's gradient (N, in)."""
        on_x, on_down = self._base_backward(number, group, grad, kept, fresh)
        a = self.views[number * len(FUSED_MODULES) + group].a
        on_x.view(self.bank.slots, -1, on_x.shape[1]).baddbmm_(on_down, a, alpha=self.bank.scale)
        return on_x


def wide_baddbmm_(to: Tensor, a: Tensor, b: Tensor, alpha: float, fresh: bool) -> None:
    """to = alpha a @ b, or to += alpha a @ b, for float32 `to` and a and b of any type, with sums in float32."""
    beta = 0 if fresh else 1
    if a.dtype == to.dtype:
        torch.baddbmm(to, a, b, beta=beta, alpha=alpha, out=to)
    elif a.device.type != "cpu":
        torch.baddbmm(to, a, b, beta=beta, alpha=alpha, out_dtype=to.dtype, out=to)
    else:  # a CPU has no product that widens
        to.mul_(beta).add_(torch.bmm(a.float(), b.float()), alpha=alpha)


def wide_mm(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in float32, also of narrower factors: a sum over the vocabulary is too long to be rounded on its way."""
    if a.dtype == torch.float32:
        return a @ b
    return a.float() @ b.float() if a.device.type == "cpu" else torch.mm(a, b, out_dtype=torch.float32)
