"""Frozen weights held in four bits: NormalFloat of blocks of 64 numbers (Dettmers et al., 2023, "QLoRA").

bitsandbytes rounds and widens them; the products are plain ones with the widened weight, forward and backward, so that
a training is exact for the base that the four bits describe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ledger.errors import LunaError


@dataclass(frozen=True)
class Nf4Linear:
    """As :class:`trainers.lean.ops.FusedLinear`, its weight in four bits."""

    packed: Tensor  # (out * in / 2, 1) uint8
    state: Any  # bitsandbytes' QuantState: a float32 scale for each block, shape, dtype
    bias: Tensor | None
    held_by: Nf4

    @property
    def weight(self) -> Tensor:
        """(out, in) widened; on a GPU valid until the next one is widened, of whatever layer."""
        return self.held_by.widened(self)


class Nf4:
    """Rounds weights to four bits on `device`, and widens each into one buffer for its product.

    What is asked of a GPU runs in order, so one buffer serves all layers. A CPU's products of several threads run side
    by side: there a widened weight has memory of its own for as long as its product takes.
    """

    def __init__(self, device: torch.device):
        try:
            from bitsandbytes import functional
        except ImportError as error:
            raise LunaError(
                'a base in four bits needs bitsandbytes, which is not installed here; run `make setup`, or set [train] '
                'quantize = "none".'
            ) from error
        self._functional, self.device = functional, device
        self._buffer = torch.empty(0, device=device)

    def __call__(self, weight: Tensor, bias: Tensor | None) -> Nf4Linear:
        """A layer's weights in four bits, on the device."""
        packed, state = self._functional.quantize_4bit(weight.to(self.device).contiguous(), quant_type="nf4")
        if self.device.type == "cuda" and weight.numel() > self._buffer.numel():
            self._buffer = torch.empty(weight.numel(), dtype=weight.dtype, device=self.device)
        return Nf4Linear(packed, state, None if bias is None else bias.to(self.device), self)

    def widened(self, linear: Nf4Linear) -> Tensor:
        """See :attr:`Nf4Linear.weight`."""
        if self.device.type != "cuda":  # bitsandbytes writes into a given buffer on accelerators only
            found: Tensor = self._functional.dequantize_4bit(linear.packed, linear.state)
            return found
        shape = linear.state.shape
        into = self._buffer[: shape.numel()].view(shape)
        self._functional.dequantize_4bit(linear.packed, linear.state, out=into)
        return into


def version() -> str:
    """bitsandbytes' own."""
    import bitsandbytes

    found: str = bitsandbytes.__version__
    return found
