"""LoRA on vLLM's CPU build: one matrix product an adapter instead of a copy of its weights for every token.

vLLM 0.32's own operations gather `weights[index of each token]`, all of an adapter's matrices once for each token of
the batch, and take index -1, a token without adapter, for the last adapter. Here tokens are grouped by adapter once a
step.

vLLM's worker imports this module because it is named as `worker_extension_cls`; that puts `GroupedLora` in the place of
the platform's own class.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms.cpu import CpuPlatform

Group = tuple[int, Tensor]
"""An adapter's slot and the rows of the batch that use it."""


def by_adapter(indices: Tensor) -> list[Group]:
    """Rows by slot; (T,) slots, -1 for none. Rows without adapter are in no group."""
    slots = torch.unique(indices).tolist()
    return [(slot, (indices == slot).nonzero().squeeze(1)) for slot in slots if slot >= 0]


def add_lora(
    y: Tensor, x: Tensor, a: tuple[Tensor, ...], b: tuple[Tensor, ...], scale: float, groups: list[Group]
) -> None:
    """Add each row's adapter to the base's product: y += scale * (x A^T) B^T, slice after slice, in place.

    Args:
        y: (T, O), O the sum of the slices' widths.
        x: (T, I); more rows than are in any group are padding and left alone.
        a: for each slice (slots, 1, R, I).
        b: for each slice (slots, 1, O of the slice, R).
    """
    for slot, rows in groups:
        everything = len(rows) == len(x)
        own = (x if everything else x[rows]).float()
        start = 0
        for down, up in zip(a, b, strict=True):
            # As vLLM does it: the narrow middle in float32, the way back in the type of the result.
            middle = (own @ down[slot, 0].float().t() * scale).to(y.dtype)
            change = middle @ up[slot, 0].to(y.dtype).t()
            part = y[:, start : start + change.shape[1]]
            if everything:
                part += change
            else:
                part.index_add_(0, rows, change)
            start += change.shape[1]


class GroupedLora(PunicaWrapperCPU):
    """vLLM's bookkeeping of which token uses which adapter, with our product."""

    def update_metadata(self, *arguments: Any, **named: Any) -> None:
        super().update_metadata(*arguments, **named)
        self.groups = by_adapter(self.token_lora_indices)

    def add_lora_linear(
        self,
        y: Tensor,
        x: Tensor,
        lora_a_stacked: tuple[Tensor, ...],
        lora_b_stacked: tuple[Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        *,
        buffer: tuple[Tensor, ...] | None = None,
        **_: Any,
    ) -> None:
        add_lora(y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1]), lora_a_stacked, lora_b_stacked, scale, self.groups)

    def add_lora_logits(self, *_: Any, **__: Any) -> None:
        """Nothing: no served adapter changes the output layer (`serving.engines.validate`).

        vLLM's own gathers vocabulary-sized matrices of zeros here for every token, and ends the engine where a request
        asks for log-probabilities of its prompt: it has indices for the tokens that are sampled only.
        """


CpuPlatform.get_punica_wrapper = classmethod(lambda _: f"{__name__}.{GroupedLora.__name__}")


class WorkerExtension:
    """What vLLM mixes into its worker; nothing but the import of this module is wanted."""
