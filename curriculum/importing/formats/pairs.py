"""Preference pairs: `prompt`, `chosen`, `rejected`, as texts or, in TRL's conversational form, as lists of messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from curriculum.importing.formats.completion import said
from curriculum.importing.formats.values import text_of, weight_of
from curriculum.importing.found import Found, Note, Pair, Turn
from ledger.errors import LunaError

NAME = "preference pairs"
_MOST_MARGIN = 2.0


def matches(record: Mapping[str, Any]) -> bool:
    return "chosen" in record and "rejected" in record


def read(record: Mapping[str, Any], note: Note) -> list[Found]:
    """One pair. Without a `prompt`, it is what both conversations begin with."""
    prompt = said(record, "prompt", "user", note)
    chosen, rejected = said(record, "chosen", "luna", note), said(record, "rejected", "luna", note)
    if not prompt:
        same = _same(chosen, rejected)
        prompt, chosen, rejected = chosen[:same], chosen[same:], rejected[same:]
    elif chosen[: len(prompt)] == prompt and rejected[: len(prompt)] == prompt:
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        if not answer or any(turn.speaker != "luna" for turn in answer):
            raise LunaError(f"{name!r} holds no answer of the assistant that follows the prompt")
    if system := text_of(record, "system").strip():
        prompt = (Turn("system", system), *prompt)
    weight = weight_of(record)
    if weight > 1:
        raise LunaError(f"a pair's weight is {weight:g}; it must be in [0, 1]")
    margin = weight_of(record, "margin")
    return [
        Pair(
            turns=prompt,
            chosen="\n".join(turn.text for turn in chosen),
            rejected="\n".join(turn.text for turn in rejected),
            context=text_of(record, "context"),
            role=text_of(record, "role"),
            margin=min(margin, _MOST_MARGIN) or 1.0,
            weight=weight,
        )
    ]


def _same(one: tuple[Turn, ...], other: tuple[Turn, ...]) -> int:
    """How many turns both begin with."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
