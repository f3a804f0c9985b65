"""What a role is asked, and which models are compared on it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from curriculum.everyday import EverydayQuestion
from curriculum.example import Example
from ledger.roles import Role
from trainers.models.adapter_set import AdapterSet

Half = Literal["choose", "confirm"]


@dataclass(frozen=True)
class Recalled:
    """An example of earlier data."""

    example: Example
    gen_id: int
    """The generation that learned it."""


@dataclass(frozen=True)
class RolePlan:
    """What one role is asked, frozen before training. Recall and generalization stand in the order of a hash, so that
    whatever they begin with is a fair draw."""

    role: Role
    generalization: Sequence[Example]
    recall: Sequence[Recalled] | None = None
    """None: there is no earlier generation."""
    everyday: Sequence[EverydayQuestion] = ()
    """Those that the untouched base gets right."""
    extras: Mapping[str, Sequence[Example]] = field(default_factory=dict)
    """Further measured sets by name (`agl_accuracy`, ...); stored, never judged."""
    base_extras: tuple[str, ...] = ()
    """Extras that the untouched base is asked as well, stored as `base_<name>`."""
    closed: frozenset[str] = frozenset()
    """Categories whose answers must come whole; see :mod:`trainers.evals.closed`."""
    label_bytes: int = 0
    """Length of the longest answer among closed ones that are labels."""
    half: Half | None = None
    """Which half of the items this is; None is all of them."""

    def on(self, half: Half | None) -> RolePlan:
        """That half of recall, generalization and everyday questions, without extras; for None all of it."""
        if half is None:
            return self
        return replace(
            self,
            generalization=[item for item in self.generalization if half_of(item.id) == half],
            recall=None if self.recall is None else [one for one in self.recall if half_of(one.example.id) == half],
            everyday=tuple(question for question in self.everyday if half_of(question.id) == half),
            extras={},
            half=half,
        )


@dataclass(frozen=True)
class Compared:
    """The models of one judgement."""

    child: AdapterSet
    parent: AdapterSet | None
    """None: the untouched base stands in its place."""
    learned: Mapping[int, AdapterSet] = field(default_factory=dict)
    """The adapters of each generation that recall asks about."""

    def of(self, roles: Collection[Role]) -> Compared:
        """The same, of these roles only."""
        learned = {gen_id: adapters.of(roles) for gen_id, adapters in self.learned.items()}
        return Compared(self.child.of(roles), self.parent.of(roles) if self.parent else None, learned)


def half_of(item_id: str) -> Half:
    """Which half an item belongs to: the last bit of its id, a SHA-256 in hex."""
    return "confirm" if int(item_id[-1], 16) & 1 else "choose"
