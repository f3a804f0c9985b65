"""Data that the cluster tests share."""

from __future__ import annotations

from curriculum.example import make_example
from ledger.roles import ROLES


def even_numbers(start, count):
    return [
        make_example(
            role=role, stage="fundamentals", category="agl/comparison", kind="pure", input=f"{i} even?",
            output="●" if i % 2 == 0 else "⊥", source="test",
        )
        for role in ROLES
        for i in range(start, start + count)
    ]  # fmt: skip
