"""ShareGPT: `conversations`, a list of `from` and `value`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from curriculum.importing.formats.messages import talk_of
from curriculum.importing.found import Found, Note

NAME = "ShareGPT"
_KEYS = ("conversations", "conversation")


def matches(record: Mapping[str, Any]) -> bool:
    return any(isinstance(record.get(key), list) for key in _KEYS)


def read(record: Mapping[str, Any], note: Note) -> list[Found]:
    """One talk."""
    key = next(key for key in _KEYS if isinstance(record.get(key), list))
    return [talk_of(record, key, note)]
