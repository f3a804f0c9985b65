"""What each step takes: its learning rate, and which rows of a role's ordered data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Linear rise over `warmup` steps, then linear fall to 0 at `steps` (Hugging Face's `linear`). `step` from 0."""
    if step < warmup:
        return peak * step / max(1, warmup)
    return peak * max(0.0, (steps - step) / max(1, steps - warmup))


def rows_of_step(step: int, steps: int, batch_size: int, available: int) -> list[int]:
    """Indices into a role's ordered training set for one step (0-based).

    With more examples than the run has room for, they are thinned evenly, so that every stage keeps its share; with
    fewer, the order starts over. The order itself is never changed.
    """
    room = steps * batch_size
    places = range(step * batch_size, (step + 1) * batch_size)
    if available > room:
        return [place * available // room for place in places]
    return [place % available for place in places]


def batch_of_step(items: Sequence[Item], step: int, steps: int, batch_size: int) -> list[Item]:
    """The items of one step (0-based); none once all steps are taken, or where there are no items."""
    if step >= steps or not items:
        return []
    return [items[i] for i in rows_of_step(step, steps, batch_size, len(items))]
