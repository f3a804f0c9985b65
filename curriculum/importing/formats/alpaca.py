"""Alpaca: `instruction`, perhaps with an `input`, and `output`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from curriculum.importing.formats.values import text_of, utc_of, weight_of
from curriculum.importing.found import Found, Note, Talk, Turn

NAME = "Alpaca"


def matches(record: Mapping[str, Any]) -> bool:
    return "instruction" in record and ("output" in record or "response" in record)


def read(record: Mapping[str, Any], note: Note) -> list[Found]:
    """One question: the instruction, and below it the input (Dolly's `context`); `history` holds earlier exchanges."""
    asked = "\n".join(filter(None, (text_of(record, key).strip() for key in ("instruction", "input", "context"))))
    answer = (text_of(record, "output") or text_of(record, "response")).strip()
    turns = [Turn("system", system)] if (system := text_of(record, "system").strip()) else []
    history = record.get("history") or []
    for past in history if isinstance(history, list) else [history]:
        if isinstance(past, list) and len(past) == 2 and all(isinstance(text, str) for text in past):
            turns += [Turn("user", past[0].strip()), Turn("luna", past[1].strip(), 0.0)]
        else:
            note("earlier exchanges that are none")
    return [
        Talk(
            (*turns, Turn("user", asked), Turn("luna", answer)),
            weight=weight_of(record),
            created_at=utc_of(record.get("created_at")),
        )
    ]
