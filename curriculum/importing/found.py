"""What a format finds in one record, before it is cleaned, masked, and made into examples of a role."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from curriculum.transcript import Exchange, render_talk

Speaker = Literal["user", "luna", "system"]

Note = Callable[[str], None]
"""Tells what is left out of a record that is otherwise read, such as a tool's message."""


@dataclass(frozen=True, slots=True)
class Turn:
    speaker: Speaker
    text: str
    weight: float = 1.0
    """Of an answer: 0 keeps it as context only."""


@dataclass(frozen=True, slots=True)
class Talk:
    """A conversation: each of its answers is learned, with what was said before as its context."""

    turns: tuple[Turn, ...]
    group: str = ""
    """Empty: it is known by its first exchange."""
    weight: float = 1.0
    created_at: str = ""


@dataclass(frozen=True, slots=True)
class Before:
    """What was said before an answer. Written out only when it is needed: the contexts of a long talk together take
    many times the space of the talk."""

    exchanges: tuple[Exchange, ...]
    system: str = ""

    def text(self) -> str:
        return render_talk(self.exchanges, self.system)


@dataclass(frozen=True, slots=True)
class Lesson:
    """One prompt and its answer."""

    input: str
    output: str
    context: str = ""
    before: Before | None = None
    """Stands for the context of an answer of a talk."""
    role: str = ""
    """Empty: every role that was asked for."""
    stage: str = "conversations"
    category: str = "imported"
    kind: str = "hybrid"
    source: str = ""
    group: str = ""
    weight: float = 1.0
    created_at: str = ""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to the last of the turns, the better one first."""

    turns: tuple[Turn, ...]
    chosen: str
    rejected: str
    context: str = ""
    """Stands before what the turns hold beside the prompt."""
    role: str = ""
    margin: float = 1.0
    weight: float = 1.0


Found = Talk | Lesson | Pair
