"""From marks to scores: which items passed, and what they say together. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from curriculum.example import Example
from ledger.intervals import mean_interval
from ledger.records import EvalMethod
from trainers.evals.asking import Mark


@dataclass(frozen=True)
class Paired:
    """One item's marks of a model and of the one that it is compared with."""

    item: Example
    own: Mark
    other: Mark | None
    """None where nothing is compared."""

    @property
    def closed(self) -> bool:
        return self.own.right is not None

    @property
    def gain(self) -> float:
        """How much likelier the true answer became, in nats a token."""
        return self.own.mean - self.other.mean if self.other else 0.0

    @property
    def better(self) -> bool:
        """Whether new data is learned: a closed answer comes; an open one became likelier, or comes as well, as it can
        hardly become likelier then."""
        return self.own.right if self.own.right is not None else self.gain > 0 or self.own.greedy

    @property
    def was_learned(self) -> bool:
        """Whether the generation that was to learn an item of earlier data did: a closed answer that never came cannot
        be lost."""
        return not self.closed or self.other is None or bool(self.other.right)

    def kept(self, nats: float) -> bool:
        """Whether earlier data is kept: a closed answer comes, an open one lost at most so many nats a token."""
        return self.own.right if self.own.right is not None else self.gain >= -nats


def method_of(found: Sequence[Paired], of_open: EvalMethod) -> EvalMethod:
    """How a set was scored; `of_open` is how its open items are."""
    kinds = {one.closed for one in found}
    return "mixed" if len(kinds) == 2 else "exact" if True in kinds else of_open


def by_category(found: Sequence[Paired], passed: Sequence[bool]) -> dict[str, list[int]]:
    """[items passed, items asked] of each category."""
    shares: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for one, ok in zip(found, passed, strict=True):
        shares[one.item.category][0] += ok
        shares[one.item.category][1] += 1
    return dict(sorted(shares.items()))


def new_details(found: Sequence[Paired]) -> dict[str, Any]:
    """What child and parent make of the closed and of the open items of new data; one item has no interval. `known` are
    the open ones that the parent answers so already, word for word."""
    closed = [(bool(one.own.right), bool(one.other and one.other.right)) for one in found if one.closed]
    open_ = [one for one in found if not one.closed]
    gains = [one.gain for one in open_]
    mean, low, high = mean_interval(gains) if len(gains) > 1 else (sum(gains), None, None)
    return {
        "closed": {
            "n": len(closed),
            "child": sum(child for child, _ in closed),
            "parent": sum(parent for _, parent in closed),
            "won": sum(child and not parent for child, parent in closed),
            "lost": sum(parent and not child for child, parent in closed),
        },
        "open": {
            "n": len(gains),
            "known": sum(one.other is not None and one.other.greedy for one in open_),
            "better": sum(gain > 0 for gain in gains),
            "gain": mean,
            "low": low,
            "high": high,
        },
    }


def kept_details(found: Sequence[Paired], passed: Sequence[bool], asked: int) -> dict[str, Any]:
    """[items passed, items counted] of the closed and of the open items of earlier data; and how many of those `asked`
    are not counted, since the line never learned them."""
    pairs = list(zip(found, passed, strict=True))
    counts = {
        name: [sum(ok for one, ok in pairs if one.closed is closed), sum(one.closed is closed for one in found)]
        for name, closed in (("closed", True), ("kept", False))
    }
    return {**counts, "never_learned": asked - len(found)}
