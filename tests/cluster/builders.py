"""Data that the cluster tests share."""

from __future__ import annotations

from collections.abc import Sequence

from curriculum.example import Example, make_example
from ledger.records import EvalRecord
from ledger.roles import ROLES, Role


def even_numbers(start: int, count: int) -> list[Example]:
    return [
        make_example(
            role=role, stage="fundamentals", category="agl/comparison", kind="pure", input=f"{i} even?",
            output="●" if i % 2 == 0 else "⊥", source="test",
        )
        for role in ROLES
        for i in range(start, start + count)
    ]  # fmt: skip


def answered(answers: Sequence[str], count: int = 60, category: str = "imported") -> list[Example]:
    """Items of every role whose answers take turns."""
    return [
        make_example(
            role=role, stage="conversations", category=category, kind="hybrid", input=f"{category} review {n}?",
            output=answers[n % len(answers)], source="file/x",
        )
        for role in ROLES
        for n in range(count)
    ]  # fmt: skip


def gate_scores(role: Role, right: int, before: int = 0, n: int = 100, gen_id: int = 1) -> list[EvalRecord]:
    """A role's scores: so many of `n` closed questions right, `before` by its parent; nothing corporate."""
    closed = {"n": n, "child": right, "parent": before, "won": max(0, right - before), "lost": max(0, before - right)}
    fresh = {"n": 0, "better": 0, "gain": 0.0, "low": None, "high": None}
    passed = [True] * right + [False] * (n - right)
    details = {"closed": closed, "open": fresh, "by_category": {}}
    return [
        EvalRecord.of_share(gen_id, role, "recall", "exact", [True] * n),
        EvalRecord.of_share(gen_id, role, "generalization", "exact", passed, details),
        EvalRecord.of_share(gen_id, role, "style_drift", "phrases", [False] * 40, {"found": []}),
    ]
