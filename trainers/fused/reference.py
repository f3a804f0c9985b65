"""What the parent says of a run's data, measured once before the first step under the adapters that lie in the bank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from trainers.fused.pairs import PairRows, margins, pack_pairs
from trainers.lean.adapter_bank import AdapterBank
from trainers.lean.lanes import Lanes
from trainers.lean.model import LeanModel
from trainers.lean.packing import Group, Likeliest, Row, pack

_PAIRS_AT_ONCE = 8
"""Pairs in one forward, which keeps no states: bounds the memory of the attention's grids."""

_ROWS_AT_ONCE = 16

Item = TypeVar("Item")
Found = TypeVar("Found")


def reference_margins(model: LeanModel, bank: AdapterBank, lanes: Lanes, pairs: Sequence[PairRows]) -> list[float]:
    """The margin of each pair, in order."""

    def measure(chunk: list[PairRows]) -> list[float]:
        batch = pack_pairs(chunk, model.device)
        found: list[float] = margins(model.log_probs(batch.rows, bank), batch).tolist()
        return found

    return _in_chunks(lanes, pairs, lambda pair: pair.tokens, _PAIRS_AT_ONCE, measure)


def expectations(
    model: LeanModel, bank: AdapterBank, lanes: Lanes, rows: Sequence[tuple[int, Row]], count: int
) -> list[Likeliest]:
    """What the adapter in its slot expects at each token of each row's answer, in order: the `count` likeliest."""

    def measure(chunk: list[tuple[int, Row]]) -> list[Likeliest]:
        groups = [Group(slot, [row]) for slot, row in chunk]
        return model.likeliest(pack(groups, model.device), bank, count)

    return _in_chunks(lanes, rows, lambda item: len(item[1].tokens), _ROWS_AT_ONCE, measure)


def _in_chunks(
    lanes: Lanes,
    items: Sequence[Item],
    length: Callable[[Item], int],
    at_once: int,
    measure: Callable[[list[Item]], list[Found]],
) -> list[Found]:
    """What `measure` finds of each item, in order; items of like length are measured together."""
    order = sorted(range(len(items)), key=lambda i: (length(items[i]), i))
    chunks = [order[start : start + at_once] for start in range(0, len(order), at_once)]

    @torch.no_grad()
    def of_chunk(chunk: list[int]) -> list[tuple[int, Found]]:
        return list(zip(chunk, measure([items[i] for i in chunk]), strict=True))

    found = dict(pair for part in lanes.map(of_chunk, chunks) for pair in part)
    return [found[i] for i in range(len(items))]
