"""Sets that grow until their verdict is certain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from ledger.rules.certainty import is_certain
from trainers.evals.settings import EvalSettings

Item = TypeVar("Item")
Marked = TypeVar("Marked")


def ask_until_certain(
    items: Sequence[Item],
    ask: Callable[[Sequence[Item]], Sequence[Marked]],
    passed: Callable[[Marked], bool],
    bound: float,
    settings: EvalSettings,
    least: int = 1,
    clear: Callable[[Sequence[Marked]], bool] = lambda found: True,
) -> list[Marked]:
    """What `ask` found of the first items, a block at a time.

    Stops when the share that `passed` is certainly below `bound`, or certainly above it and what was found is `clear`
    otherwise too, but not before `least` are asked, with fewer of which no gate is passed; when `settings.items` are
    asked; or at the last item.
    """
    found: list[Marked] = []
    most = min(len(items), settings.items)
    while len(found) < most:
        found += ask(items[len(found) : min(len(found) + settings.block, most)])
        share = sum(map(passed, found))
        if len(found) < least:
            continue
        if is_certain(share, len(found), bound) and (share <= bound * len(found) or clear(found)):
            break
    return found
