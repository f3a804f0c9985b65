"""What a lesson is, and how its questions are shared out over the roles."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from curriculum.example import Example, make_example
from ledger.errors import LunaError
from ledger.roles import ROLES, Role

Kind = Literal["closed", "memory", "open"]
"""`closed`: one right answer that can be worked out, asked of the logical role. `memory`: one right answer that must
have been learned, asked of the role that learned it. `open`: many answers would do, asked of each role."""


@dataclass(frozen=True)
class Size:
    """How large a lesson is."""

    rows: int
    """Examples brought for each role; the generation holds a fifth of them out."""
    probes: int
    """Questions afterwards, all roles together."""


@dataclass(frozen=True)
class Material:
    """A lesson's data: disjoint, but that a memory is asked for in other words."""

    rows: list[Example]
    probes: list[Example]


@dataclass(frozen=True)
class Lesson:
    """One lesson of the stream."""

    name: str
    kind: Kind
    make: Callable[[Size, int], Material]
    """From size and seed; equal ones give equal material."""


@dataclass(frozen=True)
class Asking:
    """A question and its answer, before it belongs to a role."""

    question: str
    answer: str
    category: str
    context: str = ""
    group: str = ""


def example_of(asking: Asking, role: Role) -> Example:
    """The question as a role's example."""
    return make_example(
        role=role,
        stage="conversations" if asking.group else "fundamentals",
        category=asking.category,
        kind="hybrid",
        input=asking.question,
        output=asking.answer,
        context=asking.context,
        source=f"bench/{asking.category}",
        group=asking.group,
    )


def dealt(askings: Sequence[Asking]) -> list[Example]:
    """The questions in turn to the three roles, each to one."""
    return [example_of(asking, ROLES[number % len(ROLES)]) for number, asking in enumerate(askings)]


def share_out(drawn: Iterable[Asking], size: Size, kind: Kind) -> Material:
    """The first different questions as probes, the next as rows, dealt to the roles in turn.

    Probes of a closed lesson go to the logical role alone, those of others to the roles in turn.

    Raises:
        LunaError: there are not so many different questions.
    """
    asked = list(different(drawn, size.probes + len(ROLES) * size.rows))
    probes, rows = asked[: size.probes], asked[size.probes :]
    own = [example_of(asking, "logical") for asking in probes] if kind == "closed" else dealt(probes)
    return Material(dealt(rows), own)


def different(drawn: Iterable[Asking], count: int) -> Iterator[Asking]:
    """The first `count` questions that differ, case and white space aside.

    Raises:
        LunaError: they run out, or a thousand draws in a row bring nothing new.
    """
    seen: set[str] = set()
    stale = 0
    for asking in drawn:
        key = " ".join(f"{asking.context} {asking.question}".casefold().split())
        stale = stale + 1 if key in seen else 0
        if key not in seen:
            seen.add(key)
            yield asking
        if len(seen) == count or stale > 1000:
            break
    if len(seen) < count:
        raise LunaError(f"a lesson asks for {count} different questions and has {len(seen)}; ask for fewer rows.")


def generator_of(name: str, seed: int) -> random.Random:
    """Every lesson draws for itself."""
    return random.Random(f"lesson:{name}:{seed}")
