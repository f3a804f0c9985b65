"""What comes back from a teacher, in whatever form: an answer's text, the label in it, or an endpoint's complaint.

An answer counts only if it is one JSON object of the schema, with every value in its range and with the check word of
its request. Around the object may stand a thought, a code fence, and words without brackets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from curriculum.reward import RANGES, RewardOutput, Signed, Unit

RATIONALE_CHARS = 2000
"""Longest rationale that is accepted."""

_ANSWER_CHARS = 20_000
"""Longest label answer that is looked at."""

_TOLD_CHARS = 200
"""Longest complaint of an endpoint that is repeated."""


class LabelRefused(Exception):
    """An answer that is no label; the message says why, in words that hold nothing of the answer but its numbers."""


class TeacherAnswer(BaseModel):
    """What the teacher answers: the nine values, one number for the whole, why, and the check word."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rationale: Annotated[str, Field(min_length=1, max_length=RATIONALE_CHARS, strict=True)]
    empathy: Signed
    social_coherence: Signed
    agency_support: Signed
    epistemic_integrity: Signed
    harm_avoidance: Signed
    narrative_alignment: Signed
    curiosity: Signed
    reward_intensity: Unit
    safety_score: Signed
    scalar_preference: Signed
    check: Annotated[str, Field(max_length=64, strict=True)]


@dataclass(frozen=True, slots=True)
class Judged:
    reward: RewardOutput
    rationale: str


# --------------------------------------------------------------------------------------------------------- the label


def parse_answer(text: str, check: str) -> Judged:
    """A teacher's answer as a label.

    Raises:
        LabelRefused: it holds no JSON object or several, has other keys, a value out of range, or not this request's
            check word. Nothing is clamped or filled in.
    """
    if len(text) > _ANSWER_CHARS:
        raise LabelRefused(f"the answer has {len(text)} characters")
    found = _only_object(text)
    try:
        answer = TeacherAnswer.model_validate(found)
    except ValidationError as error:
        raise LabelRefused(_reasons(error)) from None
    if answer.check != check:
        raise LabelRefused("its check is not the one asked for")
    return Judged(
        RewardOutput.model_validate(answer.model_dump(exclude={"rationale", "check"})), answer.rationale.strip()
    )


_THOUGHT_ENDS = re.compile(r"</(?:think|thinking|thought|reasoning)>", re.IGNORECASE)
_THOUGHT_BEGINS = re.compile(r"\s*<(?:think|thinking|thought|reasoning)>", re.IGNORECASE)


def _only_object(text: str) -> dict[str, Any]:
    """The one object of an answer: after its thoughts, of which a chat template may have kept the opening tag."""
    text = text.lstrip("\ufeff")
    *_, after = _THOUGHT_ENDS.split(text)
    if after == text:
        if _THOUGHT_BEGINS.match(text):
            raise LabelRefused("its thought does not end")
        return _object_in(text)
    try:
        return _object_in(after)
    except LabelRefused:
        if text.lstrip().startswith(("{", "```", "~~~")):  # no thought: the tag stands in the rationale
            return _object_in(text)
        raise


def _object_in(text: str) -> dict[str, Any]:
    decoder = json.JSONDecoder(object_pairs_hook=_without_repeats, parse_constant=_no_constant)
    begin = text.find("{")
    try:
        if begin < 0:
            raise ValueError
        found, end = decoder.raw_decode(text, begin)
    except (ValueError, RecursionError):
        raise LabelRefused("it is not one JSON object") from None
    if re.search(r"[\[\]{}]", text[:begin] + text[end:]) or not isinstance(found, dict):
        raise LabelRefused("it is not one JSON object")
    return found


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise LabelRefused("a key stands twice")
    return found


def _no_constant(name: str) -> Any:
    raise LabelRefused("NaN and Infinity are no values")


def _reasons(error: ValidationError) -> str:
    """What is wrong, key by key. Keys that we do not know are counted and not named: they are the answer's words."""
    unknown = sum(mistake["type"] == "extra_forbidden" for mistake in error.errors())
    clauses = []
    for mistake in error.errors():
        name = str(mistake["loc"][0]) if mistake["loc"] else "it"
        if mistake["type"] == "extra_forbidden":
            continue
        if mistake["type"] == "missing":
            clauses.append(f"{name} is missing")
        elif name in RANGES and isinstance(mistake["input"], int | float) and not isinstance(mistake["input"], bool):
            low, high = RANGES[name]
            value = f"{mistake['input']:g}" if abs(mistake["input"]) < 1e6 else "huge"
            clauses.append(f"{name} is {value}, outside [{low:g}, {high:g}]")
        elif name in RANGES:
            clauses.append(f"{name} is no number")
        else:
            clauses.append(f"{name} is no text of the length asked for")
    if unknown:
        clauses.append(f"{unknown} unknown {'key' if unknown == 1 else 'keys'}")
    return "; ".join(clauses)


# ------------------------------------------------------------------------------------------- the endpoint's own words


def answer_text(reply: object) -> tuple[str, str]:
    """Text and finish reason of a chat completion, whose content may be a text or a list of parts.

    Raises:
        LabelRefused: the reply has no answer in it; says what stands there instead.
    """
    if reply is None:
        raise LabelRefused("the reply is not JSON")
    choices = reply.get("choices") if isinstance(reply, Mapping) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, Mapping) else None
    if not isinstance(choice, Mapping) or not isinstance(message, Mapping) or "content" not in message:
        raise LabelRefused("the reply has no choices[0].message.content")
    finish = choice.get("finish_reason")
    text = "".join(_texts(message["content"]))
    if not text.strip():
        raise LabelRefused(f"the reply's answer is empty{_instead(message, finish)}")
    if re.search(r"[\ud800-\udfff]", text):
        raise LabelRefused("the reply's answer has half a character in it")
    return text, finish if isinstance(finish, str) and finish else "stop"


def _texts(content: object) -> Iterator[str]:
    """The texts of an answer's content; parts that are thoughts, images or calls are passed over."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for part in content:
            if isinstance(part, str):
                yield part
            elif isinstance(part, Mapping) and part.get("type", "text") in ("text", "output_text"):
                text = part.get("text")
                yield text if isinstance(text, str) else ""


def _instead(message: Mapping[str, Any], finish: object) -> str:
    """What a message without text has instead, as the end of a sentence."""
    if message.get("refusal"):
        return ": the model refused to answer"
    if message.get("tool_calls") or message.get("function_call"):
        return ": the model called a tool"
    if finish == "content_filter":
        return ": the endpoint's content filter took it out"
    if any(message.get(name) for name in ("reasoning_content", "reasoning")):
        cut = "; raise [teacher] label_tokens" if finish == "length" else ""
        return f": the model only thought{cut}"
    return ""


def status_of(status: int, reply: object) -> int:
    """The status that a reply stands for: some gateways send an upstream's error with status 200."""
    error = reply.get("error") if isinstance(reply, Mapping) and not reply.get("choices") else None
    if status != 200 or not error:
        return status
    code = error.get("code") if isinstance(error, Mapping) else None
    return code if type(code) is int and 400 <= code <= 599 else 502


def error_parameter(reply: object) -> str:
    """The request's field that an error names as OpenAI's `param`, or nothing."""
    error = reply.get("error") if isinstance(reply, Mapping) else None
    found = error.get("param") if isinstance(error, Mapping) else None
    return found if isinstance(found, str) else ""


def error_told(reply: object, body: str) -> str:
    """What an error reply says, on one short printable line: OpenAI's object, FastAPI's `detail`, a plain `message`, a
    text, or a page of a proxy."""
    told = _told(reply, 4) if reply is not None else re.sub(r"(?s)<(style|script)\b.*?</\1>|<[^>]{0,500}>", " ", body)
    printable = "".join(character if character.isprintable() else " " for character in told)
    return " ".join(printable.split())[:_TOLD_CHARS]


def _told(value: object, depth: int) -> str:
    if isinstance(value, str):
        return value
    if depth and isinstance(value, list):
        return "; ".join(told for told in (_told(item, depth - 1) for item in value[:5]) if told)
    if depth and isinstance(value, Mapping):
        loc = value.get("loc")  # of FastAPI's list of mistakes
        where = ".".join(map(str, loc[:5])) if isinstance(loc, list) and all(type(x) in (str, int) for x in loc) else ""
        for name in ("message", "msg", "detail", "error", "errors", "error_description", "title"):
            if told := _told(value.get(name), depth - 1):
                return f"{where}: {told}" if where else told
    return ""
