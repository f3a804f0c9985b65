"""What each step takes: its learning rate, and which rows of a role's data.

The training file holds every row of every step in order, so a step's examples are a slice of it. Preference pairs are
kept as a set, of which the steps take as many as they have room for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Linear rise over `warmup` steps, then linear fall to 0 at `steps` (Hugging Face's `linear`). `step` from 0."""
    warmup = warmup_of(steps, warmup)
    if step < warmup:
        return peak * step / max(1, warmup)
    return peak * max(0.0, (steps - step) / max(1, steps - warmup))


def warmup_of(steps: int, warmup: int) -> int:
    """Steps of rise that a run of `steps` has room for: at most half, so that a short one comes to its peak too."""
    return min(warmup, steps // 2)


def steps_for(rows: int, batch_size: int) -> int:
    """Steps that take all rows; the last one may be short."""
    return -(-rows // batch_size)


def slice_of_step(rows: Sequence[Item], step: int, batch_size: int) -> Sequence[Item]:
    """The rows of one step (0-based); none once all are taken."""
    return rows[step * batch_size : (step + 1) * batch_size]


def places_of_step(step: int, steps: int, batch_size: int, available: int) -> list[int]:
    """Indices into an ordered set for one step (0-based).

    With more items than the steps have room for, they are thinned evenly; with fewer, the order starts over.
    """
    room = steps * batch_size
    places = range(step * batch_size, (step + 1) * batch_size)
    if available > room:
        return [place * available // room for place in places]
    return [place % available for place in places]


def share_of_step(items: Sequence[Item], step: int, steps: int, batch_size: int) -> list[Item]:
    """The items of an ordered set that one step (0-based) takes; none once all steps are taken."""
    if step >= steps or not items:
        return []
    return [items[i] for i in places_of_step(step, steps, batch_size, len(items))]
