"""One object of a preference file as the fields of a pair: our own form, or TRL's, with lists of messages for texts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from curriculum.transcript import render_talk, talk_of
from ledger.errors import LunaError, shown
from ledger.files import canonical_json

Messages = list[tuple[str, str]]
"""(speaker, text)."""

_TEXTS = ("context", "role", "origin", "prompt", "chosen", "rejected")
_NUMBERS = ("margin", "weight")
KNOWN = (*_TEXTS, *_NUMBERS, "provenance")
_PASSED_OVER = frozenset({"id", "prompt_id", "messages", "score_chosen", "score_rejected", "tools"})
"""Fields of other programs' files that say nothing about the pair; scores are of whatever scale."""


def pair_fields(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says of a pair: texts as texts, numbers as numbers. What it leaves out or has as null is not there.

    Raises:
        LunaError: naming the field that is of another type, or unknown.
    """
    found = {name: value for name, value in record.items() if value is not None and name not in _PASSED_OVER}
    if unknown := sorted(found.keys() - set(KNOWN)):
        raise LunaError(f"unknown field {shown(unknown[0])}; a pair has {', '.join(KNOWN)}")
    if any(not isinstance(found.get(name, ""), str) for name in ("prompt", "chosen", "rejected")):
        found |= _of_messages(found)
    for name in ("prompt", "chosen", "rejected"):
        if name not in found:
            raise LunaError(f"{name!r} is missing")
    for name in found.keys() & set(_TEXTS):
        if not isinstance(found[name], str):
            raise LunaError(f"{name!r} must be a text, found {shown(found[name])}")
    for name in found.keys() & set(_NUMBERS):
        found[name] = _number(name, found[name])
    if "provenance" in found:
        found["provenance"] = _provenance(found["provenance"])
    return found


def _of_messages(record: Mapping[str, Any]) -> dict[str, str]:
    """Prompt, answers and what was said before the prompt, of TRL's conversational form.

    Without a `prompt`, it is what both conversations begin with.
    """
    prompt, chosen, rejected = (
        _messages(name, record.get(name), speaker)
        for name, speaker in (("prompt", "user"), ("chosen", "assistant"), ("rejected", "assistant"))
    )
    if not prompt:
        same = next((n for n, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), 0)
        prompt, chosen, rejected = chosen[:same], chosen[same:], rejected[same:]
    elif chosen[: len(prompt)] == rejected[: len(prompt)] == prompt:
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        if not answer or any(speaker != "assistant" for speaker, _ in answer):
            raise LunaError(f"{name!r} must hold the assistant's answer to the prompt, and nothing else")
    talk = talk_of(prompt)
    if not talk.question:
        raise LunaError("'prompt' must end with a message of the user")
    before = render_talk(talk.exchanges, talk.system)
    own = record.get("context", "")
    if own and before:
        raise LunaError("'context' stands beside a prompt of several messages; leave it out, they are the context")
    return {
        "prompt": talk.question,
        "chosen": "\n".join(text for _, text in chosen),
        "rejected": "\n".join(text for _, text in rejected),
        **({"context": before} if before else {}),
    }


def _messages(name: str, value: object, speaker: str) -> Messages:
    """A text, a message, or a list of messages, as messages."""
    if value is None:
        return []
    if isinstance(value, str):
        return [(speaker, value.strip())]
    listed = [value] if isinstance(value, Mapping) else value
    if not isinstance(listed, list):
        raise LunaError(f"{name!r} must be a text or a list of messages, found {shown(value)}")
    found: Messages = []
    for number, message in enumerate(listed, start=1):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise LunaError(f"{name!r}, message {number} is {shown(message)}; write an object with role and content")
        content = message.get("content")
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        texts = [part.get("text") for part in parts if isinstance(part, Mapping) and part.get("type") == "text"]
        text = "\n".join(part for part in texts if isinstance(part, str))
        if not text.strip():
            raise LunaError(f"{name!r}, message {number} has no text, found {shown(content)}")
        found.append((message["role"], text.strip()))
    return found


def _number(name: str, value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    raise LunaError(f"{name!r} must be a number, found {shown(value)}")


def _provenance(value: object) -> str:
    """Who preferred, as JSON: an object is taken as it is, a text as a note."""
    if isinstance(value, Mapping):
        return canonical_json(value)
    if not isinstance(value, str):
        raise LunaError(f"'provenance' must be an object or a text, found {shown(value)}")
    try:
        if isinstance(json.loads(value), dict):
            return value
    except (ValueError, RecursionError):
        pass
    return canonical_json({"note": value})
