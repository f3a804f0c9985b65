"""The adapters of several roles in flat buffers, one slot a role.

A slot's parameters are one fp32 vector (the master copy that the optimizer moves); layers see views of it. When the
base computes in bfloat16 a second buffer holds the rounded copy that the matrix products use.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainers.config import LoraSettings

TARGET_MODULES = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
"""The linear layers of a Llama or Qwen2 block, all of which carry an adapter."""

FUSED_MODULES: tuple[tuple[int, ...], ...] = ((0, 1, 2), (3,), (4, 5), (6,))
"""Target modules that share one input, so that their A matrices are one product."""


@dataclass
class FusedViews:
    """One fused linear of one layer, as views of the flat buffers; index 0 is the slot.

    `a[slot]` is (members * r, in): its modules' A matrices stacked. `b[slot]` is (all outs, members * r): their B
    matrices on a diagonal, zeros elsewhere, so that its adapters are two products. `rows[member]` are the rows of each.
    `grad_b[slot][member]` is (out, r), the gradient of the master.
    """

    a: list[Tensor]
    b: list[Tensor]
    rows: list[slice]
    grad_a: list[Tensor]
    grad_b: list[list[Tensor]]


@dataclass(frozen=True)
class BatchedViews:
    """One group of members in one layer, the adapters of all slots as one batch; see :class:`FusedViews`."""

    a: Tensor  # (slots, members * r, in)
    b: Tensor  # (slots, all outs, members * r)
    rows: list[slice]
    grad_a: Tensor  # (slots, members * r, in)
    grad_b: list[Tensor]  # of each member (slots, out, r)


class AdapterBank:
    """LoRA parameters of `slots` adapters of one rank over one base.

    Args:
        shapes: for each layer, (out, in) of each of the seven target modules.
        dtype: of the matrix products.
    """

    def __init__(
        self,
        shapes: Sequence[Sequence[tuple[int, int]]],
        slots: int,
        lora: LoraSettings,
        dtype: torch.dtype,
        device: torch.device,
        trainable: bool = True,
    ):
        rank = lora.rank
        self.slots, self.rank, self.scale = slots, rank, lora.alpha / rank
        self._shapes, self._layout = shapes, _layout(shapes, rank)
        size = sum(out * rank + in_features * rank for layer in shapes for out, in_features in layer)
        self.master = torch.zeros(slots, size, device=device)
        self.compute = self.master if dtype == torch.float32 else torch.zeros_like(self.master, dtype=dtype)
        self.grad = torch.zeros_like(self.master) if trainable else torch.empty(0)
        """A backward adds to it; whoever begins a step sets it to zero."""
        self._diagonals = [
            torch.zeros(slots, sum(place.outs), len(place.outs) * rank, dtype=dtype, device=device)
            for place in self._layout
        ]
        self.groups = [self._views(number) for number in range(len(self._layout))]

    def _views(self, number: int) -> FusedViews:
        place, rank = self._layout[number], self.rank

        def of(buffer: Tensor, offset: int, rows: int, columns: int) -> list[Tensor]:
            if not buffer.numel():
                return []
            return [buffer[i, offset : offset + rows * columns].view(rows, columns) for i in range(self.slots)]

        grad_b = [of(self.grad, offset, out, rank) for offset, out in zip(place.b_offsets, place.outs, strict=True)]
        ends = list(itertools.accumulate(place.outs))
        return FusedViews(
            a=of(self.compute, place.a_offset, len(place.outs) * rank, place.in_features),
            b=list(self._diagonals[number]),
            rows=[slice(end - out, end) for end, out in zip(ends, place.outs, strict=True)],
            grad_a=of(self.grad, place.a_offset, len(place.outs) * rank, place.in_features),
            grad_b=[list(own) for own in zip(*grad_b, strict=True)],
        )

    def batched(self) -> list[BatchedViews]:
        """The groups in the order of `groups`, as views of the same buffers."""

        def of(buffer: Tensor, offset: int, rows: int, columns: int) -> Tensor:
            return buffer[:, offset : offset + rows * columns].view(self.slots, rows, columns)

        rank, found = self.rank, []
        for place, diagonal, views in zip(self._layout, self._diagonals, self.groups, strict=True):
            stacked = place.a_offset, len(place.outs) * rank, place.in_features
            to_b = [of(self.grad, at, out, rank) for at, out in zip(place.b_offsets, place.outs, strict=True)]
            found.append(BatchedViews(of(self.compute, *stacked), diagonal, views.rows, of(self.grad, *stacked), to_b))
        return found

    def diagonal_table(self) -> list[list[int]]:
        """Of each member where its B lies and goes: offset and length in `compute`, address of its first element on the
        diagonal, and elements from one row and from one slot there to the next."""
        rows = []
        for place, diagonal, views in zip(self._layout, self._diagonals, self.groups, strict=True):
            for j, (offset, out, at) in enumerate(zip(place.b_offsets, place.outs, views.rows, strict=True)):
                first = diagonal[0, at.start, j * self.rank :].data_ptr()
                rows.append([offset, out * self.rank, first, diagonal.stride(1), diagonal.stride(0)])
        return rows

    def with_own_gradients(self) -> AdapterBank:
        """Another bank over the same parameters, with gradients of its own, for work that runs at the same time."""
        other = copy.copy(self)
        other.grad = torch.zeros_like(self.grad)
        other.groups = [other._views(number) for number in range(len(other._layout))]
        return other

    def round_to_compute(self) -> None:
        """Refresh the copies that the products use after the masters have moved."""
        if self.compute is not self.master:
            self.compute.copy_(self.master)
        for place, diagonal, views in zip(self._layout, self._diagonals, self.groups, strict=True):
            for j, (offset, out, at) in enumerate(zip(place.b_offsets, place.outs, views.rows, strict=True)):
                stacked = self.compute[:, offset : offset + out * self.rank].view(self.slots, out, self.rank)
                diagonal[:, at, j * self.rank : (j + 1) * self.rank] = stacked

    def load_state_dict(self, slot: int, tensors: Mapping[str, Tensor]) -> None:
        """Fill a slot from tensors named as in :meth:`state_dict`."""
        for name, view in self.state_dict(slot).items():
            view.copy_(tensors[name])
        self.round_to_compute()

    def state_dict(self, slot: int) -> dict[str, Tensor]:
        """fp32 views of a slot's masters under PEFT's names (`layers.0.self_attn.q_proj.lora_A`, ...)."""
        named: dict[str, Tensor] = {}
        for place in self._layout:
            for j, member in enumerate(place.members):
                prefix = f"layers.{place.layer}.{TARGET_MODULES[member]}"
                a_at = place.a_offset + j * self.rank * place.in_features
                b_at, out = place.b_offsets[j], place.outs[j]
                row = self.master[slot]
                named[f"{prefix}.lora_A"] = row[a_at : a_at + self.rank * place.in_features].view(
                    self.rank, place.in_features
                )
                named[f"{prefix}.lora_B"] = row[b_at : b_at + out * self.rank].view(out, self.rank)
        return named


@dataclass(frozen=True)
class _Place:
    """Where a fused linear's adapters lie in a slot's flat vector."""

    layer: int
    members: tuple[int, ...]
    in_features: int
    outs: tuple[int, ...]
    a_offset: int
    b_offsets: tuple[int, ...]


def _layout(shapes: Sequence[Sequence[tuple[int, int]]], rank: int) -> list[_Place]:
    places, offset = [], 0
    for number, layer in enumerate(shapes):
        for members in FUSED_MODULES:
            in_features = layer[members[0]][1]
            outs = tuple(layer[member][0] for member in members)
            a_offset = offset
            offset += len(members) * rank * in_features
            b_offsets = []
            for out in outs:
                b_offsets.append(offset)
                offset += out * rank
            places.append(_Place(number, members, in_features, outs, a_offset, tuple(b_offsets)))
    return places
