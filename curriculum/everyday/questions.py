"""The pool of everyday questions with the words that a right answer holds."""

import functools
from dataclasses import dataclass
from pathlib import Path

from ledger.files import read_toml, sha256_bytes

DATA = Path(__file__).parent.parent / "data" / "everyday"


FORMS = ("Question: {}", "Please answer: {}")
"""Other ways to ask: an answer that the base gives in one form only is luck, and lost by any training."""


@dataclass(frozen=True, slots=True)
class EverydayQuestion:
    """One question. An answer is right if it holds one of the accepted words or phrases (`is_right`)."""

    id: str
    """The beginning of the question's SHA-256."""
    question: str
    accepted: tuple[str, ...]


@functools.cache
def questions() -> tuple[EverydayQuestion, ...]:
    """All questions, those first that a small base gets right in most roles' prompts; always in the same order."""
    table: dict[str, str | list[str]] = read_toml(DATA / "questions.toml")["accepted"]
    return tuple(
        EverydayQuestion(
            sha256_bytes(question.encode())[:16], question, (words,) if isinstance(words, str) else tuple(words)
        )
        for question, words in table.items()
    )
