"""The operations of the GPU pass by Triton kernels: shapes, grids and memory for `trainers.gpu.kernels`."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from trainers.gpu import kernels
from trainers.gpu.ops import Adapter, Places
from trainers.lean.adapter_bank import AdapterBank

_SEEN = 64
"""Tokens of a block of queries and of keys in attention."""

_COLUMNS = 4096
"""Logits at a time; 8 KiB in bfloat16."""

_TILE = (32, 128)
"""Tokens and columns of a tile of the gated layer."""


class TritonOps:
    """See :class:`trainers.gpu.ops.Ops`."""

    def norm(self, x: Tensor, onto: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`trainers.gpu.ops.Ops.norm`."""
        rows, width = x.shape
        total = x if onto is None else torch.empty_like(x)
        normed, scale = torch.empty_like(x), torch.empty(rows, dtype=torch.float32, device=x.device)
        other = x if onto is None else onto
        block = triton.next_power_of_2(width)
        kernels.norm[(rows,)](x, other, total, weight, normed, scale, width, eps, ADDS=onto is not None, BLOCK=block)
        return total, normed, scale

    def norm_backward(self, grad: Tensor, x: Tensor, scale: Tensor, weight: Tensor, residual: Tensor | None) -> Tensor:
        """See :meth:`trainers.gpu.ops.Ops.norm_backward`."""
        rows, width = x.shape
        out = torch.empty_like(grad)
        other = grad if residual is None else residual
        block = triton.next_power_of_2(width)
        kernels.norm_backward[(rows,)](
            grad, x, scale, weight, other, out, width, ADDS=residual is not None, BLOCK=block
        )  # fmt: skip
        return out

    def rotate_(self, qkv: Tensor, places: Places) -> None:
        """See :meth:`trainers.gpu.ops.Ops.rotate_`."""
        shape = places.shape
        half, turned = shape.width // 2, shape.heads + shape.key_heads
        kernels.rotate[(len(qkv),)](
            qkv, places.cos, places.sin, places.positions, qkv.shape[1], turned, half,
            HEADS=triton.next_power_of_2(turned), HALF=triton.next_power_of_2(half),
        )  # fmt: skip

    def attend(self, qkv: Tensor, places: Places) -> tuple[Tensor, Tensor]:
        """See :meth:`trainers.gpu.ops.Ops.attend`."""
        shape, tokens = places.shape, len(qkv)
        out = torch.empty(tokens, shape.heads * shape.width, dtype=qkv.dtype, device=qkv.device)
        lse = torch.empty(shape.heads, tokens, dtype=torch.float32, device=qkv.device)
        grid = (triton.cdiv(shape.length, _SEEN), shape.heads, shape.segments)
        kernels.attend[grid](
            qkv, out, lse, places.start, places.prefix, shape.length, tokens, qkv.shape[1], shape.width**-0.5,
            **_head_constants(places),
        )  # fmt: skip
        return out, lse

    def attend_backward(self, grad: Tensor, qkv: Tensor, out: Tensor, lse: Tensor, places: Places) -> Tensor:
        """See :meth:`trainers.gpu.ops.Ops.attend_backward`."""
        shape, tokens = places.shape, len(qkv)
        delta, to_q = torch.empty_like(lse), torch.empty_like(out)
        to_k, to_v = torch.empty(2, *out.shape, dtype=torch.float32, device=out.device)
        grid = (triton.cdiv(shape.length, _SEEN), shape.heads, shape.segments)
        scale, constants = shape.width**-0.5, _head_constants(places)
        kernels.attend_to_q[grid](
            qkv, grad, out, lse, delta, to_q, places.start, places.prefix, shape.length, tokens, qkv.shape[1], scale,
            **constants,
        )  # fmt: skip
        kernels.attend_to_kv[grid](
            qkv, grad, lse, delta, to_k, to_v, places.start, places.stop, places.prefix, shape.length, tokens,
            qkv.shape[1], scale, **constants,
        )  # fmt: skip
        to_qkv = torch.empty_like(qkv)
        half = shape.width // 2
        kernels.gather_heads[(tokens,)](
            to_q, to_k, to_v, to_qkv, places.cos, places.sin, places.positions, shape.heads, shape.key_heads, half,
            GROUP=shape.heads // shape.key_heads, HEADS=triton.next_power_of_2(shape.heads),
            KEYS=triton.next_power_of_2(shape.key_heads), HALF=triton.next_power_of_2(half),
        )  # fmt: skip
        return to_qkv

    def swiglu(self, gate_up: Tensor, adapter: Adapter) -> Tensor:
        """See :meth:`trainers.gpu.ops.Ops.swiglu`."""
        rows, inner = len(gate_up), gate_up.shape[1] // 2
        out = torch.empty(rows, inner, dtype=gate_up.dtype, device=gate_up.device)
        segments, length, rank = *adapter.low.shape[:2], adapter.low.shape[2] // 2
        kernels.swiglu[_tiles(inner, length, segments)](
            gate_up, adapter.low, adapter.high, out, length, inner, rank, adapter.high.stride(0), adapter.scale,
            ROWS=_TILE[0], COLUMNS=_TILE[1], RANK=max(16, triton.next_power_of_2(rank)),
        )  # fmt: skip
        return out

    def swiglu_backward(self, grad: Tensor, adapter: Adapter, gate_up: Tensor) -> Tensor:
        """See :meth:`trainers.gpu.ops.Ops.swiglu_backward`."""
        inner, out = grad.shape[1], torch.empty_like(gate_up)
        segments, length, rank = adapter.low.shape
        kernels.swiglu_backward[_tiles(inner, length, segments)](
            grad, adapter.low, adapter.high, gate_up, out, length, inner, rank, adapter.high.stride(0), adapter.scale,
            ROWS=_TILE[0], COLUMNS=_TILE[1], RANK=max(16, triton.next_power_of_2(rank)),
        )  # fmt: skip
        return out

    def token_losses_(self, logits: Tensor, targets: Tensor, coefficients: Tensor) -> Tensor:
        """See :meth:`trainers.gpu.ops.Ops.token_losses_`."""
        rows, vocabulary = logits.shape
        losses, lse = torch.empty(2, rows, dtype=torch.float32, device=logits.device)
        kernels.token_losses[(rows,)](logits, targets, losses, lse, vocabulary, BLOCK=_COLUMNS, num_warps=8)
        grid = (rows, triton.cdiv(vocabulary, _COLUMNS))
        kernels.token_slopes[grid](logits, targets, lse, coefficients, vocabulary, BLOCK=_COLUMNS)
        return losses


def _tiles(columns: int, rows: int, segments: int) -> tuple[int, int, int]:
    return triton.cdiv(columns, _TILE[1]), triton.cdiv(rows, _TILE[0]), segments


class Rounding:
    """`AdapterBank.round_to_compute` in two launches, where it has one for each site of each layer."""

    def __init__(self, bank: AdapterBank):
        self.bank, self.table = bank, torch.tensor(bank.diagonal_table(), dtype=torch.int64, device=bank.master.device)
        self.longest = int(self.table[:, 1].max())

    def __call__(self) -> None:
        """Refresh the copies that the products use."""
        bank = self.bank
        if bank.compute is not bank.master:
            bank.compute.copy_(bank.master)
        grid = (len(self.table), triton.cdiv(self.longest, _COLUMNS), bank.slots)
        kernels.spread[grid](bank.compute, self.table, bank.compute.stride(0), bank.rank, BLOCK=_COLUMNS)


def _head_constants(places: Places) -> dict[str, int]:
    shape = places.shape
    return {
        "GROUP": shape.heads // shape.key_heads,
        "KEYS": shape.key_heads,
        "WIDTH": shape.width,
        "BLOCK": _SEEN,
        "WIDE": max(16, triton.next_power_of_2(shape.width)),
    }
