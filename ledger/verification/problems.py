"""What ``luna ledger verify`` reports."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One fault, and what to do about it."""

    what: str
    """Kind of problem in a few words."""
    where: str
    """File or entry, with generation and role."""
    expected: str
    found: str
    hint: str
    """What to do."""

    def __str__(self) -> str:
        return f"{self.what}: {self.where}: expected {self.expected}, found {self.found}; {self.hint}"
