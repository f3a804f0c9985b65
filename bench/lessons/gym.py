"""Families of reasoning-gym (Apache-2.0): puzzles with short prompts and short exact answers, made from a seed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from bench.lessons.lesson import Asking, Lesson, Material, Size, share_out
from ledger.errors import LunaError

FAMILIES: dict[str, dict[str, Any]] = {
    "needle_haystack": {"min_num_statements": 3, "max_num_statements": 3},
    "family_relationships": {"min_family_size": 4, "max_family_size": 4},
    "simple_equations": {
        "min_terms": 2,
        "max_terms": 2,
        "min_value": 1,
        "max_value": 20,
        "operators": ("+",),
        "operators_weights": (1.0,),
    },
    "syllogism": {"invalid_ratio": 0.5},
    "complex_arithmetic": {
        "min_real": -5, "max_real": 5, "min_imag": -5, "max_imag": 5, "operations_weights": (0.5, 0.5, 0.0, 0.0),
    },
    "number_sequence": {"max_complexity": 2},
}  # fmt: skip
"""Their settings. Families whose questions are one long frame around two numbers (gcd, leg_counting) are none of them:
near copies of each other, they would all be trained on and none held out."""


def gym_lesson(family: str) -> Lesson:
    """A family as a closed lesson."""
    return Lesson(family, "closed", partial(_material, family))


def _material(family: str, size: Size, seed: int) -> Material:
    return share_out(_drawn(family, seed), size, "closed")


def _drawn(family: str, seed: int) -> Iterator[Asking]:
    try:
        import reasoning_gym
    except ImportError as error:
        raise LunaError(f"this bench needs packages of its own ({error}); `make bench-setup` installs them.") from None
    puzzles = reasoning_gym.create_dataset(family, size=100_000, seed=seed, **FAMILIES[family])
    for number in range(len(puzzles)):
        puzzle = puzzles[number]
        # Their blank lines say nothing, and cost a token each.
        lines = (line.strip() for line in puzzle["question"].splitlines())
        yield Asking("\n".join(line for line in lines if line), str(puzzle["answer"]), f"gym/{family}")
