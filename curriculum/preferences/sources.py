"""Where a generation's preference pairs come from: files, teacher labels, and what people said of answers.

A pair that names no role, as a teacher's does, is one for each of the three: what is better said is better said by any
voice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from curriculum.jsonl import BadLine, explain, nothing_usable, numbered_lines, parse_line
from curriculum.preferences.pairs import (
    CORRECTION_MARGIN,
    MARGIN_MOST,
    JudgedTurn,
    Preference,
    label_pairs,
    make_preference,
    read_preference_set,
)
from curriculum.preferences.records import pair_fields
from curriculum.reward import TeacherLabel, TeacherPreference
from ledger.conversations import LabelledTurn
from ledger.errors import LunaError
from ledger.files import canonical_json
from ledger.roles import ROLES


def read_pairs(path: Path) -> tuple[list[Preference], list[BadLine]]:
    """The pairs of a file, and its lines that are none.

    JSONL with a `TeacherPreference`, our own fields (prompt, chosen and rejected; the others may be left out) or TRL's
    conversational form on each line, or the Parquet of `freeze_preferences`.

    Raises:
        LunaError: the file is missing or holds no pair.
    """
    if path.suffix == ".parquet":
        return read_preference_set(path), []
    pairs: list[Preference] = []
    bad: list[BadLine] = []
    for number, line in numbered_lines(path):
        try:
            pairs += pairs_of_line(line)
        except LunaError as error:
            bad.append(BadLine(path.name, number, str(error)))
    if not pairs:
        raise nothing_usable(path, "pair", bad)
    return pairs, bad


def pairs_of_line(line: bytes) -> list[Preference]:
    """One line's pair: for its own role, or for each role where it names none.

    Raises:
        LunaError: the line is no pair.
    """
    record = parse_line(line)
    if not isinstance(record, dict):
        raise LunaError("not a JSON object")
    of_messages = any(isinstance(record.get(name), list | dict) for name in ("prompt", "chosen", "rejected"))
    if "prompt_id" in record and not of_messages:
        return teacher_pairs(record)
    return _for_roles({"margin": CORRECTION_MARGIN, "origin": "imported"} | pair_fields(record))


def teacher_pairs(record: Mapping[str, Any]) -> list[Preference]:
    """A `TeacherPreference` as a pair for each role; its margin is at most 2, and 1 where none is given.

    Raises:
        LunaError: the record is none.
    """
    try:
        one = TeacherPreference.model_validate(record)
    except ValidationError as error:
        raise LunaError(explain(error)) from error
    named = {"prompt_id": one.prompt_id, "chosen": one.chosen_id, "rejected": one.rejected_id}
    return _for_roles(
        {
            "prompt": one.prompt.strip(),
            "chosen": one.chosen.strip(),
            "rejected": one.rejected.strip(),
            "margin": min(one.score_margin, MARGIN_MOST) if one.score_margin else CORRECTION_MARGIN,
            "origin": "imported",
            "provenance": canonical_json({name: value for name, value in named.items() if value}),
        }
    )


def labelled_pairs(labels: Iterable[TeacherLabel], min_margin: float, per_prompt: int) -> list[Preference]:
    """`label_pairs` for each role."""
    found = list(labels)
    return [pair for role in ROLES for pair in label_pairs(found, role, min_margin=min_margin, per_prompt=per_prompt)]


def judged_turns(turns: Iterable[LabelledTurn]) -> list[JudgedTurn]:
    """Labelled answers of the three voices; those of the base and aborted ones are left out."""
    return [
        JudgedTurn(
            turn=turn.id,
            role=turn.role,
            prompt=turn.message,
            answer=turn.answer,
            context=turn.context,
            valence=turn.label.valence,
            correction=turn.label.correction,
            group=f"conversation/{turn.conversation}",
        )
        for turn in turns
        if turn.label is not None
        and turn.role != "base"
        and turn.finish_reason != "aborted"
        and turn.message.strip()
        and turn.answer.strip()
    ]


def _for_roles(fields: Mapping[str, Any]) -> list[Preference]:
    roles = [fields["role"]] if fields.get("role") else list(ROLES)
    return [make_preference(**{**fields, "role": role}) for role in roles]
