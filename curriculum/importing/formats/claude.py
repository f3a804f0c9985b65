"""A conversation of Claude's export: `chat_messages`, each of a `sender`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from curriculum.importing.formats.turns import turns_of
from curriculum.importing.formats.values import text_of, time_of_export
from curriculum.importing.found import Found, Note, Talk

NAME = "Claude export"


def matches(record: Mapping[str, Any]) -> bool:
    return "chat_messages" in record


def read(record: Mapping[str, Any], note: Note) -> list[Found]:
    """One talk. A message's content parts stand before its `text`, which has placeholders where a tool was used."""
    messages = record["chat_messages"]
    if isinstance(messages, list):
        messages = [_plain(message, note) for message in messages]
    name = text_of(record, "uuid")
    return [
        Talk(
            turns_of(messages, note, "chat_messages"),
            group=f"conversation/{name}" if name else "",
            created_at=time_of_export(record.get("created_at"), note),
        )
    ]


def _plain(message: object, note: Note) -> object:
    if not isinstance(message, Mapping):
        return message
    if message.get("attachments") or message.get("files"):
        note("files that were attached")
    parts = message.get("content")
    return {"sender": message.get("sender"), "content": parts or message.get("text")}
