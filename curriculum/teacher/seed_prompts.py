"""Prompts that the teacher's candidates answer: the shipped ones, or a user's file of the same shape.

A TOML table a category, a line a prompt: `name = "text"`. A prompt's id is `<category>/<name>`; labels refer to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ledger.errors import LunaError, shown
from ledger.files import read_toml

CATEGORIES = ("emotional_support", "disagreement_conflict", "moral_dilemmas", "information_seeking", "agency")
"""Of the shipped prompts; a user's file may have others."""

_SHIPPED = Path(__file__).resolve().parent.parent / "data" / "seed_prompts.toml"


@dataclass(frozen=True, slots=True)
class SeedPrompt:
    id: str
    """`<category>/<name>`."""
    category: str
    text: str


def seed_prompts() -> list[SeedPrompt]:
    """The shipped prompts, in file order."""
    return read_prompts(_SHIPPED)


def read_prompts(path: Path) -> list[SeedPrompt]:
    """The prompts of a TOML file, in file order.

    Raises:
        LunaError: no such file, broken TOML, a category that is no table, an empty prompt or one that stands twice.
    """
    table = read_toml(path)
    prompts: list[SeedPrompt] = []
    seen: dict[str, str] = {}
    for category, lines in table.items():
        if not isinstance(lines, dict):
            raise LunaError(
                f'{path}: {category} is no table; write [{category}] and below it lines of name = "prompt".'
            )
        for name, text in lines.items():
            place = f"{category}/{name}"
            if not isinstance(text, str) or not text.strip():
                raise LunaError(f"{path}: the prompt {place} is {shown(text)}; write a text in quotes.")
            key = " ".join(text.split()).casefold()
            if key in seen:
                raise LunaError(f"{path}: {place} has the same text as {seen[key]}; keep one of them.")
            seen[key] = place
            prompts.append(SeedPrompt(place, category, text.strip()))
    if not prompts:
        raise LunaError(f"{path} holds no prompt; write at least one under a category.")
    return prompts
