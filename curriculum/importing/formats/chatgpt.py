"""A conversation of ChatGPT's export (`conversations.json`): a tree, of which the branch last shown is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from curriculum.importing.formats.tree import branch, note_others
from curriculum.importing.formats.turns import speaker_of
from curriculum.importing.formats.values import content_of, text_of, time_of_export
from curriculum.importing.found import Found, Note, Talk, Turn

NAME = "ChatGPT export"
_TEXTS = ("text", "multimodal_text")


def matches(record: Mapping[str, Any]) -> bool:
    return isinstance(record.get("mapping"), Mapping)


def read(record: Mapping[str, Any], note: Note) -> list[Found]:
    """One talk: what the two said to each other. Hidden, system and tool messages, calls, thoughts and pictures are
    left out, and noted."""
    nodes = branch(record["mapping"], record.get("current_node"), "parent")
    note_others(record["mapping"], nodes, note)
    turns = [turn for node in nodes if (turn := _turn(node.get("message"), note)) is not None]
    name = text_of(record, "conversation_id") or text_of(record, "id")
    return [
        Talk(
            tuple(turns),
            group=f"conversation/{name}" if name else "",
            created_at=time_of_export(record.get("create_time"), note),
        )
    ]


def _turn(message: object, note: Note) -> Turn | None:
    if not isinstance(message, Mapping):
        return None  # the root has none
    about, author, content = (_object(message.get(key)) for key in ("metadata", "author", "content"))
    if about.get("is_visually_hidden_from_conversation") or message.get("weight") == 0:
        note("hidden messages")
        return None
    speaker = speaker_of(author.get("role"))
    if speaker is None or speaker == "system":
        note("messages of tools" if speaker is None else "system messages of the service")
        return None
    if message.get("recipient") not in (None, "all"):
        note("calls of tools")
        return None
    if content.get("content_type", "text") not in _TEXTS:
        note("thoughts, code that was run, and other messages that are no talk")
        return None
    text = content_of(content.get("parts"), note)
    if not text:
        note("messages without text")
        return None
    return Turn(speaker, text)


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
