"""OpenAI's `messages`: a conversation, with or without tools. ShareGPT's `conversations` is the same in other words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from curriculum.importing.formats.turns import turns_of
from curriculum.importing.formats.values import text_of, utc_of, weight_of
from curriculum.importing.found import Found, Note, Talk, Turn

NAME = "messages"


def matches(record: Mapping[str, Any]) -> bool:
    return "messages" in record


def read(record: Mapping[str, Any], note: Note) -> list[Found]:
    """One talk; what else stands in the record, such as `tools`, is not read."""
    return [talk_of(record, "messages", note)]


def talk_of(record: Mapping[str, Any], key: str, note: Note) -> Talk:
    """The talk under a key, with the record's weight, time, and system text."""
    turns = turns_of(record[key], note, key)
    system = text_of(record, "system").strip()
    return Talk(
        turns=(Turn("system", system), *turns) if system else turns,
        group=text_of(record, "group"),
        weight=weight_of(record),
        created_at=utc_of(record.get("created_at")),
    )
