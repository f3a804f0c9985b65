"""Prompt and completion, as texts or, in TRL's conversational form, as lists of messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from curriculum.importing.formats.turns import turns_of
from curriculum.importing.formats.values import text_of, utc_of, weight_of
from curriculum.importing.found import Found, Note, Speaker, Talk, Turn
from ledger.errors import LunaError

NAME = "prompt and completion"
_ASKED = ("prompt", "question", "query")
_ANSWERED = ("completion", "response", "answer")


def matches(record: Mapping[str, Any]) -> bool:
    return _key(record, _ASKED) is not None and _key(record, _ANSWERED) is not None


def read(record: Mapping[str, Any], note: Note) -> list[Found]:
    """One exchange, with what `system` and `context` hold before it. Where `label` says that the completion is not
    wanted, it is not learned."""
    asked, answered = _key(record, _ASKED), _key(record, _ANSWERED)
    if asked is None or answered is None:
        raise LunaError("a prompt or its completion is missing")
    if record.get("label") is False:
        note("completions that are labelled as not wanted")
        return []
    if record.get("history"):
        note("earlier exchanges beside a prompt")
    turns = [*said(record, asked, "user", note), *said(record, answered, "luna", note)]
    before = (text_of(record, key).strip() for key in ("system", "context"))
    turns = [*(Turn("system", text) for text in before if text), *turns]
    return [Talk(tuple(turns), weight=weight_of(record), created_at=utc_of(record.get("created_at")))]


def said(record: Mapping[str, Any], key: str, speaker: Speaker, note: Note) -> tuple[Turn, ...]:
    """What stands under a key: a list of messages, or a text that this speaker says."""
    if isinstance(record.get(key), list):
        return turns_of(record[key], note, key)
    text = text_of(record, key).strip()
    return (Turn(speaker, text),) if text else ()


def _key(record: Mapping[str, Any], keys: tuple[str, ...]) -> str | None:
    return next((key for key in keys if key in record), None)
