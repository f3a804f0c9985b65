"""Single values of a record, of whatever type they turn out to be."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from typing import Any

from curriculum.importing.found import Note
from ledger.errors import LunaError

_KINDS = {"dict": "an object", "list": "a list", "str": "a string", "NoneType": "null", "bool": "true or false"}


def kind_of(value: object) -> str:
    """What a value is, in the words of JSON."""
    return _KINDS.get(type(value).__name__, f"a {type(value).__name__}")


def text_of(record: Mapping[str, Any], key: str, default: str = "") -> str:
    """The string under a key; the default where it is missing or null."""
    value = record.get(key)
    if value is None:
        return default
    if not isinstance(value, str):
        raise LunaError(f"{key!r} must be a string, found {kind_of(value)}")
    return value


def weight_of(record: Mapping[str, Any], key: str = "weight") -> float:
    """The finite number of at least 0 under a key; 1 where it is missing or null."""
    value = record.get(key)
    if value is None:
        return 1.0
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise LunaError(f"{key!r} must be a number of at least 0, found {kind_of(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not 0 <= number < math.inf:
        raise LunaError(f"{key!r} is {number!r}; it must be a finite number of at least 0")
    return number


def utc_of(value: object) -> str:
    """An ISO-8601 time with its zone, as UTC to the second; empty stays empty."""
    if value is None or value == "":
        return ""
    shown = repr(value)[:60]
    if isinstance(value, dt.datetime):
        value = value.isoformat()
    if not isinstance(value, str):
        raise LunaError(f"'created_at' is {shown}; write an ISO-8601 time such as 2026-01-31T12:00:00Z")
    try:
        time = dt.datetime.fromisoformat(value)
        if time.tzinfo is None:
            raise LunaError(f"'created_at' is {shown}, without a time zone; add Z or an offset such as +02:00")
        time = time.astimezone(dt.UTC)
    except (ValueError, OverflowError):
        raise LunaError(f"'created_at' is {shown}; write an ISO-8601 time such as 2026-01-31T12:00:00Z") from None
    if time.year < 1000:
        raise LunaError(f"'created_at' is {shown}, a year that no data is from; leave it out")
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def time_of_export(value: object, note: Note) -> str:
    """The time of another program's record: ISO-8601, or seconds or milliseconds since 1970. One that is neither is
    left out, and noted."""
    try:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return utc_of(value)
        seconds = float(value)
        seconds = seconds / 1000 if seconds > 1e11 else seconds
        return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if seconds > 0 else ""
    except (LunaError, ValueError, OverflowError, OSError):
        note("times that are none")
        return ""


def content_of(content: object, note: Note) -> str:
    """The text of a message: a string, null, or a list of parts of which those without text are left out."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content.strip()
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, Sequence):
        raise LunaError(f"a message's content must be a string or a list of parts, found {kind_of(content)}")
    return "\n".join(filter(None, (_part(part, note) for part in content)))


def _part(part: object, note: Note) -> str:
    if isinstance(part, str):
        return part.strip()
    if isinstance(part, Mapping) and part.get("type", "text") in ("text", "input_text", "output_text"):
        text = part.get("text")
        if isinstance(text, str):
            return text.strip()
    note("parts that are no text, such as pictures and files")
    return ""
