"""One JSON object to examples: our own record form, or OpenAI's `messages` form, told apart by its keys."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from curriculum.example import Example, make_example
from curriculum.transcript import Exchange, keep_recent, render_talk
from ledger.errors import LunaError
from ledger.roles import Role

RECORD_KEYS = frozenset(
    {
        "id",
        "role",
        "stage",
        "category",
        "kind",
        "input",
        "output",
        "context",
        "source",
        "group",
        "weight",
        "created_at",
    }
)
MESSAGES_KEYS = frozenset({"messages", "weight", "created_at"})
_TEXT_KEYS = RECORD_KEYS - {"weight"}


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a record gets where it says nothing itself."""

    role: Role
    source: str
    created_at: str = ""


def examples_of(record: object, defaults: Defaults) -> list[Example]:
    """The examples in one JSON object. Raises `LunaError` with the reason if it is neither form or a value is
    wrong."""
    if not isinstance(record, Mapping):
        raise LunaError(f"expected a JSON object, found {_kind_of(record)}")
    if "messages" in record:
        return _from_messages(record, defaults)
    if "input" in record or "output" in record:
        return [_from_record(record, defaults)]
    raise LunaError(
        f"found the keys {', '.join(map(str, record)) or 'none'}; needed: 'input' and 'output', or 'messages'"
    )


def _from_record(record: Mapping[str, Any], defaults: Defaults) -> Example:
    _refuse_unknown(record, RECORD_KEYS)
    for key in ("input", "output"):
        if key not in record:
            raise LunaError(f"the key {key!r} is missing")
    for key in _TEXT_KEYS & record.keys():
        if not isinstance(record[key], str):
            raise LunaError(f"{key!r} must be a string, found {_kind_of(record[key])}")
    example = make_example(
        role=record.get("role", defaults.role),
        stage=record.get("stage", "conversations"),
        category=record.get("category", "imported"),
        kind=record.get("kind", "hybrid"),
        input=record["input"],
        output=record["output"],
        context=record.get("context", ""),
        source=record.get("source") or defaults.source,
        group=record.get("group", ""),
        weight=_weight(record.get("weight", 1.0)),
        created_at=_utc(record.get("created_at") or defaults.created_at),
    )
    if record.get("id", example.id) != example.id:
        raise LunaError(f"'id' is {record['id'][:12]}, the content's hash is {example.id[:12]}; leave the id out")
    return example


def _from_messages(record: Mapping[str, Any], defaults: Defaults) -> list[Example]:
    """One example for every assistant message; system text and all that was said before become its context.

    An assistant message with weight 0 is only context, as in OpenAI's format.
    """
    _refuse_unknown(record, MESSAGES_KEYS)
    messages = record["messages"]
    if not isinstance(messages, list):
        raise LunaError(f"'messages' must be a list, found {_kind_of(messages)}")
    weight, created_at = (
        _weight(record.get("weight", 1.0)),
        _utc(record.get("created_at") or defaults.created_at),
    )
    examples, question = [], ""
    system: list[str] = []
    said: list[Exchange] = []
    for number, message in enumerate(messages, start=1):
        speaker, text = _message(message, number)
        if speaker in ("system", "developer"):
            system.append(text)
        elif speaker == "user":
            question = f"{question}\n{text}" if question else text
        elif speaker == "assistant":
            if not question:
                raise LunaError(f"message {number} is an answer without a question before it")
            if message.get("weight", 1) != 0:
                examples.append(
                    make_example(
                        role=defaults.role,
                        stage="conversations",
                        category="imported",
                        kind="hybrid",
                        input=question,
                        output=text,
                        context=render_talk(keep_recent(said), "\n".join(system)),
                        source=defaults.source,
                        weight=weight,
                        created_at=created_at,
                    )
                )
            said.append(Exchange(question, text))
            question = ""
    if not examples:
        raise LunaError("'messages' holds no assistant answer to learn from")
    return examples


def _message(message: object, number: int) -> tuple[str, str]:
    if not isinstance(message, Mapping):
        raise LunaError(f"message {number} must be an object with 'role' and 'content', found {_kind_of(message)}")
    speaker, content = message.get("role"), message.get("content")
    if speaker not in ("system", "developer", "user", "assistant"):
        raise LunaError(f"message {number} has the role {speaker!r}; use system, user or assistant")
    if isinstance(content, list):  # OpenAI's list of parts
        parts: list[Any] = [
            part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None for part in content
        ]
        content = "\n".join(parts) if all(isinstance(part, str) for part in parts) else None
    if not isinstance(content, str) or not content.strip():
        raise LunaError(f"message {number} ({speaker}) has no text content")
    return str(speaker), content.strip()


def _refuse_unknown(record: Mapping[str, Any], known: frozenset[str]) -> None:
    unknown = sorted(map(str, record.keys() - known))
    if unknown:
        raise LunaError(f"unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}")


def _weight(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise LunaError(f"'weight' must be a number of at least 0, found {_kind_of(value)}")
    return float(value)


def _utc(value: object) -> str:
    """An ISO-8601 time with its zone, as UTC to the second; empty stays empty."""
    if value == "":
        return ""
    try:
        time = dt.datetime.fromisoformat(str(value))
    except ValueError:
        raise LunaError(f"'created_at' is {value!r}; write an ISO-8601 time such as 2026-01-31T12:00:00Z") from None
    if time.tzinfo is None:
        raise LunaError(f"'created_at' is {value!r}, without a time zone; add Z or an offset such as +02:00")
    return time.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _kind_of(value: object) -> str:
    names = {
        "dict": "an object",
        "list": "a list",
        "str": "a string",
        "NoneType": "null",
        "bool": "true or false",
    }
    return names.get(type(value).__name__, f"a {type(value).__name__}")
