"""Stub."""

from __future__ import annotations

import re
from dataclasses import dataclass

_GLYPHS = "⊤⊥○"


@dataclass(frozen=True)
class EverydayQuestion:
    """A question and the answers that count."""

    id: str
    question: str
    accepted: tuple[str, ...]


def questions() -> tuple[EverydayQuestion, ...]:
    """The pool."""
    return tuple(EverydayQuestion(f"q{i}", f"What comes after {i}?", (str(i + 1),)) for i in range(30))


def is_right(question: EverydayQuestion, answer: str) -> bool:
    """Whether an accepted answer stands in the text as whole words."""
    return any(re.search(rf"(?<!\w){re.escape(one)}(?!\w)", answer, re.IGNORECASE) for one in question.accepted)


def bare_glyph(answer: str) -> str | None:
    """The bare glyph that an answer begins with, or None."""
    return next((glyph for glyph in _GLYPHS if answer.lstrip().startswith(glyph)), None)
