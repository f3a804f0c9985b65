"""What the parent says of a run's data, measured once before the first step, each worker a share of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from trainers.fused.pairs import PairRows, margins, pack_pairs
from trainers.lean.packing import Likeliest, Row
from trainers.parallel import World
from trainers.sharded.passes import Forward, answer_logits, listed_log_probs, target_log_probs
from trainers.sharded.ranks import gathered

_AT_ONCE = 8
"""Rows in one forward, which keeps no states."""

Item = TypeVar("Item")
Found = TypeVar("Found")


def reference_margins(forward: Forward, world: World, device: torch.device, pairs: Sequence[PairRows]) -> list[float]:
    """The margin of each pair, in order."""

    def measure(chunk: Sequence[PairRows]) -> list[float]:
        batch = pack_pairs(chunk, device)
        rows = [row for pair in chunk for row in (pair.chosen, pair.rejected)]
        logits = answer_logits(forward, rows, device)
        found: list[float] = margins(target_log_probs(logits, batch.rows.targets), batch).tolist()
        return found

    return _shared_out(world, pairs, lambda pair: pair.tokens, measure)


def expectations(
    forward: Forward, world: World, device: torch.device, rows: Sequence[Row], count: int
) -> list[Likeliest]:
    """What the parent expects at each token of each row's answer, in order: the `count` likeliest."""

    def measure(chunk: Sequence[Row]) -> list[Likeliest]:
        logits = answer_logits(forward, chunk, device)
        ids = logits.topk(min(count, logits.shape[1] - 1)).indices
        lengths = [len(row.tokens) - row.prompt_len for row in chunk]
        parts = zip(ids.split(lengths), listed_log_probs(logits, ids).split(lengths), strict=True)
        return [Likeliest(own.cpu(), values.cpu()) for own, values in parts]

    return _shared_out(world, rows, lambda row: len(row.tokens), measure)


def _shared_out(
    world: World, items: Sequence[Item], length: Callable[[Item], int], measure: Callable[[Sequence[Item]], list[Found]]
) -> list[Found]:
    """What `measure` finds of each item, in order; items of like length together, every worker as many times."""
    order = sorted(range(len(items)), key=lambda i: (length(items[i]), i))
    chunks = [order[start : start + _AT_ONCE] for start in range(0, len(order), _AT_ONCE)]
    own: list[tuple[int, Found]] = []
    for turn in range(0, len(chunks), world.size):
        chunk = chunks[min(turn + world.rank, len(chunks) - 1)]  # at the end some measure the last one with others
        with torch.no_grad():
            own += zip(chunk, measure([items[i] for i in chunk]), strict=True)
    found = dict(pair for part in gathered(world, own) for pair in part)
    return [found[i] for i in range(len(items))]
