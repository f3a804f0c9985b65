"""Sets that grow until their verdict is certain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ledger.rules.certainty import is_certain

Item = TypeVar("Item")
Marked = TypeVar("Marked")


@dataclass(frozen=True)
class Sizes:
    """How a set grows, in items."""

    block: int
    most: int
    least: int = 1
    """With fewer no gate is passed."""


def ask_until_certain(
    items: Sequence[Item],
    ask: Callable[[Sequence[Item]], Sequence[Marked]],
    passed: Callable[[Marked], bool],
    bound: float,
    sizes: Sizes,
    clear: Callable[[Sequence[Marked]], bool] = lambda found: True,
) -> list[Marked]:
    """What `ask` found of the first items, a block at a time; it may leave some of them out.

    Stops when the share that `passed` is certainly below `bound`, or certainly above it and what was found is `clear`
    otherwise too, but not before the least are asked; when the most are asked; or at the last item.
    """
    found: list[Marked] = []
    most = min(len(items), sizes.most)
    for start in range(0, most, sizes.block):
        found += ask(items[start : min(start + sizes.block, most)])
        share = sum(map(passed, found))
        if len(found) < sizes.least:
            continue
        if is_certain(share, len(found), bound) and (share <= bound * len(found) or clear(found)):
            break
    return found
