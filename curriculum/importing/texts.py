"""Text without what no reader sees and no file can hold: control characters and halves of characters."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from curriculum.importing.found import Lesson, Pair, Talk, Turn
from ledger.errors import LunaError

F = TypeVar("F", Talk, Lesson, Pair)

_ODD = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but line feed and tab, what reverses the direction of writing, and surrogates."""
_TERMINAL = re.compile("\x1b(?:\\[[0-?]*[ -/]*[@-~]|\\][^\x07\x1b]*(?:\x07|\x1b\\\\)?|[@-Z\\\\-_])")
_HALF = re.compile("[\ud800-\udfff]")
_UNSEEN = re.compile("[\\s\u200b-\u200f\u2060\ufeff\u00ad]+")

HALVES = "halves of characters (U+FFFD stands for each)"
CONTROLS = "control characters"


def cleaned(text: str, note: Callable[[str], None]) -> str:
    """The text without control characters and sequences, and with U+FFFD for each half of a character; tells `note`
    what was found."""
    if not _ODD.search(text):
        return text
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text, halves = _HALF.subn("\ufffd", text)
    text, sequences = _TERMINAL.subn("", text)
    text, controls = _ODD.subn("", text)
    if halves:
        note(HALVES)
    if sequences or controls:
        note(CONTROLS)
    return text


def is_blank(text: str) -> bool:
    """Whether a reader sees nothing."""
    return not _UNSEEN.sub("", text)


def with_texts(found: F, change: Callable[[str], str], plain: Callable[[str], str]) -> F:
    """What was found, each text changed: `change` is for what is learned, `plain` for names. Turns that are blank then
    are left out.

    Raises:
        LunaError: a prompt or an answer is blank.
    """
    if isinstance(found, Talk):
        return replace(found, turns=_turns(found.turns, change), group=plain(found.group))
    if isinstance(found, Pair):
        return replace(
            found,
            turns=_turns(found.turns, change),
            chosen=_seen("chosen", change(found.chosen)),
            rejected=_seen("rejected", change(found.rejected)),
            context=change(found.context),
        )
    return replace(
        found,
        input=_seen("input", change(found.input)),
        output=_seen("output", change(found.output)),
        context=change(found.context),
        category=plain(found.category),
        source=plain(found.source),
        group=plain(found.group),
    )


def _turns(turns: tuple[Turn, ...], change: Callable[[str], str]) -> tuple[Turn, ...]:
    changed = [replace(turn, text=change(turn.text)) for turn in turns]
    return tuple(turn for turn in changed if not is_blank(turn.text))


def _seen(name: str, text: str) -> str:
    if is_blank(text):
        raise LunaError(f"the {name} is empty; every prompt and every answer needs text that a reader sees")
    return text
