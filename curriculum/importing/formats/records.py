"""Luna's own records: `input` and `output`, and the other fields of an example."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from curriculum.example import example_id
from curriculum.importing.formats.values import text_of, utc_of, weight_of
from curriculum.importing.found import Found, Lesson, Note
from ledger.errors import LunaError

NAME = "records"
_SHA = re.compile("[0-9a-f]{64}")
_TEXTS = ("role", "stage", "category", "kind", "input", "output", "context", "source", "group")
KEYS = frozenset({*_TEXTS, "id", "weight", "created_at"})
DEFAULTS = {"stage": "conversations", "category": "imported", "kind": "hybrid"}


def matches(record: Mapping[str, Any]) -> bool:
    return "input" in record or "output" in record


def read(record: Mapping[str, Any], note: Note) -> list[Found]:
    """The record as it is. A key that no example has is refused, so that typos are caught."""
    if unknown := sorted(map(str, record.keys() - KEYS)):
        raise LunaError(f"unknown key {unknown[0][:40]!r}; known are {', '.join(sorted(KEYS))}")
    for key in ("input", "output"):
        if key not in record:
            raise LunaError(f"the key {key!r} is missing")
        if record[key] is None:
            raise LunaError(f"{key!r} must be a string, found null")
    texts: dict[str, Any] = {key: text_of(record, key) or DEFAULTS.get(key, "") for key in _TEXTS}
    lesson = Lesson(**texts, weight=weight_of(record), created_at=utc_of(record.get("created_at")))
    if "id" in record:
        _check_id(record["id"], lesson, note)
    return [lesson]


def _check_id(given: object, lesson: Lesson, note: Note) -> None:
    """Refuse a hash of other content; an id that is no hash is another program's and says nothing."""
    if not isinstance(given, str) or not _SHA.fullmatch(given) or not lesson.role:
        note("ids of another program")
        return
    try:
        made = example_id(lesson.role, lesson.kind, lesson.context, lesson.input, lesson.output)
    except UnicodeEncodeError:
        made = "of a text with half a character"
    if given != made:
        raise LunaError(f"'id' is {given[:12]}, the content's hash is {made[:12]}; leave the id out")
