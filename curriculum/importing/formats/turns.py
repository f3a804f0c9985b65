"""A list of messages, in the spellings of several programs, as turns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from curriculum.importing.formats.values import content_of, kind_of
from curriculum.importing.found import Note, Speaker, Turn
from ledger.errors import LunaError

_SPEAKERS: Mapping[str, Speaker] = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "luna", "gpt": "luna", "chatgpt": "luna", "model": "luna", "bot": "luna", "ai": "luna", "bing": "luna",
    "bard": "luna", "claude": "luna", "luna": "luna",
}  # fmt: skip
_TOOLS = frozenset({"tool", "function", "ipython", "observation", "function_call", "tool_call", "tool_response"})


def turns_of(messages: object, note: Note, name: str = "messages") -> tuple[Turn, ...]:
    """The turns of a list of messages: who speaks under `role`, `from` or `sender`, the text under `content`, `value`
    or `text`. Tools' messages, calls of tools and messages without text are left out, and noted.

    Raises:
        LunaError: it is no such list, a speaker is unknown, or a message has a weight other than 0 and 1.
    """
    if not isinstance(messages, list):
        raise LunaError(f"{name!r} must be a list, found {kind_of(messages)}")
    turns = []
    for number, message in enumerate(messages, start=1):
        turn = _turn(message, number, note)
        if turn is not None:
            turns.append(turn)
    return tuple(turns)


def speaker_of(name: object) -> Speaker | None:
    """Who is meant; None for a tool.

    Raises:
        LunaError: nobody that is known.
    """
    known = name.strip().casefold() if isinstance(name, str) else ""
    if known in _TOOLS:
        return None
    if known not in _SPEAKERS:
        raise LunaError(f"the role {str(name)[:40]!r} is unknown; use system, user or assistant")
    return _SPEAKERS[known]


def _turn(message: object, number: int, note: Note) -> Turn | None:
    if not isinstance(message, Mapping):
        raise LunaError(f"message {number} must be an object with 'role' and 'content', found {kind_of(message)}")
    try:
        speaker = speaker_of(_first(message, "role", "from", "sender"))
        weight = _weight(message.get("weight"))
        if speaker is None:
            note("messages of tools")
            return None
        text = content_of(_first(message, "content", "value", "text"), note)
    except LunaError as error:
        raise LunaError(f"message {number}: {error}") from None
    if text:
        return Turn(speaker, text, weight)
    calls = message.get("tool_calls") or message.get("function_call")
    note("calls of tools" if calls else "messages without text")
    return None


def _first(message: Mapping[str, Any], *keys: str) -> object:
    return next((message[key] for key in keys if message.get(key) is not None), None)


def _weight(value: object) -> float:
    """0 or 1, as OpenAI's fine-tuning format has it."""
    if value is None:
        return 1.0
    if isinstance(value, bool) or not isinstance(value, int | float) or value not in (0, 1):
        raise LunaError(f"its weight is {repr(value)[:20]}; a message is learned (1) or not (0)")
    return float(value)
