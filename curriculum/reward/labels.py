"""A judge's labels and preferences: their records, their files, and the JSON Schemas of both.

What a label file says outside the manifold's ranges is reported by line, name and value; it is then clamped, left out
or refused as the caller says, never in silence.

    python -m curriculum.reward.labels        writes the JSON Schemas under configs/schemas/
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from curriculum.jsonl import BadLine, explain, nothing_usable, numbered_lines, parse_line
from curriculum.reward.manifold import RANGES, RewardOutput, clamped, values_in, values_out_of_range
from ledger.errors import LunaError
from ledger.files import write_atomic

SCHEMAS = Path(__file__).resolve().parents[2] / "configs" / "schemas"

Text = Annotated[str, Field(min_length=1)]

OutOfRangeRule = Literal["clamp", "drop", "refuse"]
"""What becomes of a value outside its range: moved to the nearest bound, its row left out, or the file refused."""

_OTHER_SCALE = 0.25
"""Share of values out of range above which a file counts as labelled on another scale."""

Source = Literal["teacher", "rules", "user", "imported"]
"""Who judged: a language model, the offline rules, a person, or a file that does not say."""


class TeacherLabel(BaseModel):
    """An answer to a prompt and what a judge made of it; one line of a label file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = ""
    prompt_id: Text
    category: Text
    prompt: Text
    response: Text
    reward: RewardOutput
    source: Source = "imported"
    teacher: str = ""
    """Name of the model or of the rule set that judged."""
    rationale: str = ""
    provenance: dict[str, str] = Field(default_factory=dict)
    """Where the answer and the label come from: the candidate's model, the run, the date."""


class TeacherPreference(BaseModel):
    """Two answers to one prompt, the better one first; one line of a preference file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt_id: Text
    category: str = ""
    prompt: Text
    chosen: Text
    rejected: Text
    chosen_id: str = ""
    rejected_id: str = ""
    chosen_score: float | None = None
    rejected_score: float | None = None
    score_margin: Annotated[float | None, Field(ge=0)] = None


@dataclass(frozen=True)
class OutOfRange:
    """One value of a label file outside its range."""

    file: str
    line: int
    name: str
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.name} = {self.value:g} is outside [{self.low:g}, {self.high:g}]"


@dataclass(frozen=True)
class LabelReport:
    """What a label file held."""

    labels: tuple[TeacherLabel, ...]
    out_of_range: tuple[OutOfRange, ...]
    """Every value outside its range, whatever became of it."""
    bad_lines: tuple[BadLine, ...]
    values: int
    """Numbers that the file gives for a value, in their range or not."""

    @property
    def other_scale(self) -> str:
        """Where more than a quarter of the values are out of range: which, for the judge meant another scale."""
        if len(self.out_of_range) <= _OTHER_SCALE * self.values:
            return ""
        found = [one.value for one in self.out_of_range]
        return (
            f"{len(found)} of {self.values} values lie outside their ranges, from {min(found):g} to {max(found):g} "
            f"(the first: {self.out_of_range[0]})"
        )


@dataclass(frozen=True)
class PreferenceReport:
    """What a preference file held."""

    pairs: tuple[TeacherPreference, ...]
    bad_lines: tuple[BadLine, ...]


def parse_label(
    record: object, file: str, line: int, rule: OutOfRangeRule
) -> tuple[TeacherLabel | None, list[OutOfRange]]:
    """One line's object as a label, and each of its values that lies outside its range.

    The label is None where the rule is `drop` or `refuse` and a value is out of range.

    Raises:
        LunaError: the object is no label for another reason.
    """
    reward = record.get("reward") if isinstance(record, Mapping) else None
    outside = values_out_of_range(reward) if isinstance(reward, Mapping) else {}
    report = [OutOfRange(file, line, name, value, *RANGES[name]) for name, value in outside.items()]
    if report and rule == "clamp":
        assert isinstance(record, Mapping)
        assert isinstance(reward, Mapping)
        record = {**record, "reward": clamped(reward)}
    elif report:
        return None, report
    try:
        return TeacherLabel.model_validate(record), report
    except ValidationError as error:
        raise LunaError(explain(error)) from error


def read_labels(path: Path, *, out_of_range: OutOfRangeRule) -> LabelReport:
    """Read a JSONL file of labels. Lines that are no label are reported and left out.

    Raises:
        LunaError: the file is missing, has lines and no label, or is labelled on another scale; with `refuse`, a value
            is out of range. An empty file, which a failed request may leave, has no labels and does no harm.
    """
    report = inspect_labels(path, out_of_range)
    if report.out_of_range and out_of_range == "refuse":
        raise LunaError(
            f"{_some(report.out_of_range)}. Correct the file, or let such values be clamped or their rows dropped "
            "([reward] out_of_range)."
        )
    if report.other_scale:
        raise LunaError(
            f"{path} is labelled on another scale: {report.other_scale}. Whatever [reward] out_of_range says, what is "
            "left would teach nothing. Rescale the file to -1 to 1 (reward_intensity: 0 to 1); of a scale from 1 to "
            "10 that is (value - 5.5) / 4.5."
        )
    if not report.labels and (report.bad_lines or report.out_of_range):
        raise nothing_usable(path, "label", list(report.bad_lines))
    return report


def inspect_labels(path: Path, out_of_range: OutOfRangeRule) -> LabelReport:
    """What a JSONL file of labels holds, good or bad.

    Raises:
        LunaError: the file cannot be read.
    """
    labels: list[TeacherLabel] = []
    outside: list[OutOfRange] = []
    bad: list[BadLine] = []
    values = 0
    for line, text in numbered_lines(path):
        try:
            record = parse_line(text)
            label, found = parse_label(record, path.name, line, out_of_range)
        except LunaError as error:
            bad.append(BadLine(path.name, line, str(error)))
            continue
        values += values_in(record.get("reward") if isinstance(record, Mapping) else None)
        outside += found
        if label is not None:
            labels.append(label)
    return LabelReport(tuple(labels), tuple(outside), tuple(bad), values)


def read_preferences(path: Path) -> PreferenceReport:
    """Read a JSONL file of preference pairs. Lines that are none are reported and left out.

    Raises:
        LunaError: the file is missing or holds no pair.
    """
    pairs: list[TeacherPreference] = []
    bad: list[BadLine] = []
    for line, text in numbered_lines(path):
        try:
            pairs.append(TeacherPreference.model_validate(parse_line(text)))
        except ValidationError as error:
            bad.append(BadLine(path.name, line, explain(error)))
        except LunaError as error:
            bad.append(BadLine(path.name, line, str(error)))
    if not pairs:
        raise nothing_usable(path, "pair", bad)
    return PreferenceReport(tuple(pairs), tuple(bad))


def prompt_groups(keys: Sequence[tuple[str, str]]) -> list[str]:
    """A name for each (prompt_id, prompt) such that what shares an id or a text shares the name.

    Splits by prompt go by this name: one id may stand for two wordings, and one wording under two ids.
    """
    parent: dict[str, str] = {}

    def root(node: str) -> str:
        while parent.setdefault(node, node) != node:
            node = parent[node]
        return node

    for prompt_id, prompt in keys:
        low, high = sorted((root(f"id {prompt_id}"), root(f"text {' '.join(prompt.split()).casefold()}")))
        parent[high] = low
    return [root(f"id {prompt_id}") for prompt_id, _ in keys]


def schemas() -> dict[str, dict[str, Any]]:
    """File name to JSON Schema of each record that files and teachers exchange."""
    models: dict[str, type[BaseModel]] = {
        "reward_output": RewardOutput,
        "teacher_label": TeacherLabel,
        "teacher_preference": TeacherPreference,
    }
    return {f"{name}.schema.json": model.model_json_schema() for name, model in models.items()}


def schema_text(schema: Mapping[str, Any]) -> str:
    """A schema as its file holds it."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _some(items: Sequence[OutOfRange], shown: int = 5) -> str:
    """The first few of many, and how many there are."""
    more = f" and {len(items) - shown} more" if len(items) > shown else ""
    return "; ".join(map(str, items[:shown])) + more


def main() -> None:
    """Write the schemas where the repository keeps them."""
    for name, schema in schemas().items():
        write_atomic(SCHEMAS / name, schema_text(schema))


if __name__ == "__main__":
    main()
