"""What the lean forward says of rows under one adapter: gradients as sketches, losses, states of prompts."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trainers.generator import prompt_ids
from trainers.health.settings import HealthSettings
from trainers.lean.adapter_bank import AdapterBank
from trainers.lean.base import LeanBase
from trainers.lean.model import LeanModel, PackedAttention
from trainers.lean.packing import Group, Row, pack

_ROWS_AT_ONCE = 4
"""Answers whose gradients are taken in one backward, each in a slot of its own: more costs memory, fewer time."""


class Sketch:
    """Gradients of `size` numbers reduced to `width`, keeping inner products on average: signs drawn by the seed, then
    a sum over every `width`-th place (a count sketch; Charikar et al., 2002)."""

    def __init__(self, size: int, width: int, seed: int, device: torch.device):
        generator = torch.Generator().manual_seed(seed)
        self.width, self.size = width, size
        self.signs = (torch.randint(0, 2, (size,), generator=generator, dtype=torch.int8) * 2 - 1).to(device)

    def __call__(self, gradients: Tensor) -> Tensor:
        """(rows, size) to (rows, width), float32 on the CPU."""
        signed = torch.nn.functional.pad(gradients * self.signs, (0, -self.size % self.width))
        return signed.view(len(gradients), -1, self.width).sum(1).cpu()


def row_gradients(
    lean: LeanBase, adapter: Mapping[str, Tensor], rows: Sequence[Row], settings: HealthSettings
) -> tuple[Tensor, Tensor]:
    """Sketches (M, sketch) of the gradients of each row's mean loss by the adapter's numbers, and the losses (M,)."""
    at_once = min(_ROWS_AT_ONCE, len(rows))
    bank = lean.empty_bank(at_once, trainable=True)
    for slot in range(at_once):
        bank.load_state_dict(slot, adapter)
    sketch = Sketch(bank.master.shape[1], settings.sketch, settings.seed, lean.model.device)
    chunks = [rows[start : start + at_once] for start in range(0, len(rows), at_once)]
    lanes = lean.lanes.count if len(chunks) > 1 else 1
    banks = [bank, *(bank.with_own_gradients() for _ in range(lanes - 1))]

    def lane(number: int) -> list[tuple[Tensor, Tensor]]:
        return [_chunk_gradients(lean.model, banks[number], chunk, sketch) for chunk in chunks[number::lanes]]

    found = lean.lanes.map(lane, range(lanes))
    in_order = [found[number % lanes][number // lanes] for number in range(len(chunks))]
    return torch.cat([sketches for sketches, _ in in_order]), torch.cat([losses for _, losses in in_order])


def _chunk_gradients(model: LeanModel, bank: AdapterBank, rows: Sequence[Row], sketch: Sketch) -> tuple[Tensor, Tensor]:
    """Each row in a slot of its own, with the same adapter, so that one backward keeps their gradients apart."""
    bank.grad.zero_()
    batch = pack([Group(slot, [row]) for slot, row in enumerate(rows)], model.device)
    with torch.enable_grad():
        losses = -_row_means(model.log_probs(batch, bank), batch.target_row, len(rows))
        losses.sum().backward()
    return sketch(bank.grad[: len(rows)]), losses.detach().cpu()


def _row_means(log_probs: Tensor, target_row: Tensor, rows: int) -> Tensor:
    sums = torch.zeros(rows, device=log_probs.device).index_add(0, target_row, log_probs)
    return sums / torch.bincount(target_row, minlength=rows).clamp_min(1)


def row_losses(lean: LeanBase, bank: AdapterBank, slot: int, rows: Sequence[Row]) -> Tensor:
    """(M,) mean negative log-likelihood of each row's answer under one adapter, nats a token."""

    @torch.no_grad()
    def part(own: Sequence[Row]) -> Tensor:
        batch = pack([Group(slot, own)], lean.model.device)
        return -_row_means(lean.model.log_probs(batch, bank), batch.target_row, len(own)).cpu()

    return torch.cat(lean.lanes.map(part, _parts(rows, lean.lanes.count)))


def prompt_states(lean: LeanBase, bank: AdapterBank, slot: int, prompts: Sequence[str], layer_share: float) -> Tensor:
    """(M, width): each prompt's state under one adapter, the mean over its tokens after the role's shared header."""
    model = lean.model
    shallow = copy.copy(model)
    shallow.layers = model.layers[: max(1, round(len(model.layers) * layer_share))]
    ids = [prompt_ids(lean.tokenizer, prompt) for prompt in prompts]

    @torch.no_grad()
    def part(own: Sequence[list[int]]) -> Tensor:
        batch = pack([Group(slot, [Row(tokens, len(tokens)) for tokens in own])], model.device)
        x = shallow.blocks(shallow.embed(batch.ids), PackedAttention(shallow, batch), bank, batch.slices).float()
        of_row = torch.arange(len(own), device=x.device).repeat_interleave(batch.suffix_lens)
        sums = x.new_zeros(len(own), x.shape[1]).index_add_(0, of_row, x[batch.suffix_at])
        return (sums / batch.suffix_lens[:, None]).cpu()

    return torch.cat(lean.lanes.map(part, _parts(ids, lean.lanes.count)))


def _parts(items: Sequence[Any], count: int) -> list[Sequence[Any]]:
    """The items in order, in up to `count` about equal parts of at least two (which share a header)."""
    parts, n = max(1, min(count, len(items) // 2)), len(items)
    return [items[n * i // parts : n * (i + 1) // parts] for i in range(parts)]
