"""The result of an import: what was read, what was left out, and why."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from curriculum.example import Example
from curriculum.importing.found import Before
from curriculum.jsonl import BadLine
from curriculum.preferences.pairs import Preference

SHOWN_PLACES = 3
_KEPT_PROBLEMS = 10_000
_KEPT_REASONS = 1_000
_DIFFERENT = re.compile(r"\d+|[0-9a-f]{8,}")


@dataclass
class Reason:
    """Why lines were left out."""

    text: str
    """Of the first of them."""
    count: int = 0
    places: list[str] = field(default_factory=list)
    """The first few, `file:line`."""


@dataclass(frozen=True, slots=True)
class Kept:
    """An example, without its context where that is still to be written out."""

    example: Example
    before: Before | None = None


@dataclass
class ImportReport:
    kept: list[Kept] = field(default_factory=list)
    """In file order, each content once."""
    pairs: list[Preference] = field(default_factory=list)
    problems: list[BadLine] = field(default_factory=list)
    """The lines that were not read, the first 10,000 of them."""
    records: Counter[str] = field(default_factory=Counter)
    """Records read, by form."""
    lessons: int = 0
    """Different prompts with their answers, each once, however many roles it is for."""
    duplicates: int = 0
    """Lessons and pairs that were left out because the same content came before."""
    reweighted: int = 0
    """Lessons and pairs that came again with another weight or margin: the last one stands."""
    left_out: Counter[str] = field(default_factory=Counter)
    """What was left out of records that were otherwise read, and files that were passed over."""
    repaired: Counter[str] = field(default_factory=Counter)
    """Texts that were changed, by what was taken out of them."""
    masked: Counter[str] = field(default_factory=Counter)
    """Secrets and personal data, by kind."""

    def whole(self) -> Iterator[Example]:
        """The examples with their contexts, one after another: all at once may not have room in memory."""
        before, context = None, ""
        for one in self.kept:
            if one.before is None:
                yield one.example
                continue
            if one.before is not before:  # the roles' examples of one answer follow each other
                before, context = one.before, one.before.text()
            yield replace(one.example, context=context)

    @property
    def examples(self) -> list[Example]:
        """All of `whole`."""
        return list(self.whole())

    reasons: dict[str, Reason] = field(default_factory=dict)
    """The problems, those that differ in numbers only as one."""

    def add_problem(self, problem: BadLine) -> None:
        """Count a line that was not read. Of very many only the first are kept whole."""
        if len(self.problems) < _KEPT_PROBLEMS:
            self.problems.append(problem)
        alike = _DIFFERENT.sub("#", problem.reason)
        if alike not in self.reasons and len(self.reasons) >= _KEPT_REASONS:
            alike = "other"
        reason = self.reasons.setdefault(alike, Reason(problem.reason))
        reason.count += 1
        if reason.count <= SHOWN_PLACES:
            reason.places.append(f"{problem.file}:{problem.line}")
