"""What each worker takes of a step, as pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

Item = TypeVar("Item")


def share_of_rank(
    items: Sequence[Item], rank: int, size: int, parts: int, blank: Callable[[Item], Item]
) -> list[list[Item]]:
    """The items that worker `rank` of `size` takes of a step, in up to `parts` parts of about equal count.

    Every worker gets as many parts, and in each as many items, as every other, since in each pass through a model that
    lies in parts all must take part: one that has an item less takes `blank` of the step's first, which must weigh
    nothing.
    """
    if not items:
        return []
    each = -(-len(items) // size)
    own = list(items[rank::size])
    own += [blank(items[0])] * (each - len(own))
    parts = min(parts, each)
    bounds = [each * part // parts for part in range(parts + 1)]
    return [own[start:end] for start, end in pairwise(bounds)]
