"""The reward manifold: seven dimensions, how strongly and whether to learn, and a teacher's labels of them.

Ranges bind (DESIGN section 7). What a label file says outside them is reported by line, name and value; it is then
clamped, left out or refused as the caller says, never in silence.

    python -m curriculum.reward        writes the JSON Schemas under configs/schemas/
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from curriculum.importing.report import Problem
from ledger.errors import LunaError

DIMENSIONS = (
    "empathy",
    "social_coherence",
    "agency_support",
    "epistemic_integrity",
    "harm_avoidance",
    "narrative_alignment",
    "curiosity",
)
"""What an answer is judged by, each in [-1, 1]; docs/reward-manifold.md says what each means."""

VALUES = (*DIMENSIONS, "reward_intensity", "safety_score")
"""The nine values that every label has and the reward model predicts."""

RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(DIMENSIONS, (-1.0, 1.0)),
    "reward_intensity": (0.0, 1.0),
    "safety_score": (-1.0, 1.0),
    "scalar_preference": (-1.0, 1.0),
}

SCHEMAS = Path(__file__).resolve().parent.parent / "configs" / "schemas"

Signed = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False, strict=True)]
Unit = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=True)]
Text = Annotated[str, Field(min_length=1)]

OutOfRangeRule = Literal["clamp", "drop", "refuse"]
"""What becomes of a value outside its range: moved to the nearest bound, its row left out, or the file refused."""

Source = Literal["teacher", "rules", "user", "imported"]
"""Who judged: a language model, the offline rules, a person, or a file that does not say."""


class RewardOutput(BaseModel):
    """One judgement of an answer."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    empathy: Signed
    social_coherence: Signed
    agency_support: Signed
    epistemic_integrity: Signed
    harm_avoidance: Signed
    narrative_alignment: Signed
    curiosity: Signed
    reward_intensity: Unit
    """How strongly to learn from this example."""
    safety_score: Signed
    """Whether to learn from it at all; see `gate`."""
    scalar_preference: Annotated[Signed | None, Field(validation_alias=AliasChoices("scalar_preference", "scalar"))] = (
        None
    )
    """One number for the whole, where the judge gives one. Files may call it `scalar`."""

    def vector(self) -> tuple[float, ...]:
        """The seven dimensions, in order."""
        return tuple(getattr(self, name) for name in DIMENSIONS)

    def values(self) -> tuple[float, ...]:
        """The nine values of `VALUES`, in order."""
        return tuple(getattr(self, name) for name in VALUES)


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
    bad_lines: tuple[Problem, ...]


@dataclass(frozen=True)
class PreferenceReport:
    """What a preference file held."""

    pairs: tuple[TeacherPreference, ...]
    bad_lines: tuple[Problem, ...]


def gate(safety: float) -> float:
    """Share of an example's weight that its safety score lets through.

    0 at or below -0.5, 1 at or above 0.5, linear between.

    Raises:
        LunaError: `safety` is no number in [-1, 1].
    """
    return min(1.0, max(0.0, _within("safety_score", safety) + 0.5))


def example_weight(intensity: float, safety: float) -> float:
    """Weight of an example in both channels, in [0, 1]: intensity · gate(safety).

    Raises:
        LunaError: `intensity` is no number in [0, 1], or `safety` none in [-1, 1].
    """
    return _within("reward_intensity", intensity) * gate(safety)


def values_out_of_range(reward: Mapping[str, Any]) -> dict[str, float]:
    """The values of a raw reward object that lie outside their ranges, by name, as found.

    What is no finite number is left to the schema to refuse.
    """
    found: dict[str, float] = {}
    for key, value in reward.items():
        name = _value_name(key)
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if number and name in RANGES and not RANGES[name][0] <= value <= RANGES[name][1]:
            found[name] = float(value)
    return found


def clamped(reward: Mapping[str, Any]) -> dict[str, Any]:
    """A raw reward object with the values out of range moved to the nearest bound."""
    outside = {name: min(RANGES[name][1], max(RANGES[name][0], v)) for name, v in values_out_of_range(reward).items()}
    return {key: outside.get(_value_name(key), value) for key, value in reward.items()}


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
        raise LunaError(_explain(error)) from error


def read_labels(path: Path, *, out_of_range: OutOfRangeRule) -> LabelReport:
    """Read a JSONL file of labels. Lines that are no label are reported and left out.

    Raises:
        LunaError: the file is missing, or has lines and no label; with `refuse`, a value is out of range. An empty
            file, which a failed request may leave, has no labels and does no harm.
    """
    labels: list[TeacherLabel] = []
    outside: list[OutOfRange] = []
    bad: list[Problem] = []
    for line, text in _lines(path):
        try:
            label, found = parse_label(_json(text), path.name, line, out_of_range)
        except LunaError as error:
            bad.append(Problem(path.name, line, str(error)))
            continue
        outside += found
        if label is not None:
            labels.append(label)
    if outside and out_of_range == "refuse":
        raise LunaError(f"{_some(outside)}. Correct the file, or let such values be clamped or their rows dropped.")
    if not labels and (bad or outside):
        reason = f" The first: {bad[0]}." if bad else ""
        raise LunaError(f"{path} holds no usable label.{reason} Each line is an object; see configs/schemas/.")
    return LabelReport(tuple(labels), tuple(outside), tuple(bad))


def read_preferences(path: Path) -> PreferenceReport:
    """Read a JSONL file of preference pairs. Lines that are none are reported and left out.

    Raises:
        LunaError: the file is missing or holds no pair.
    """
    pairs: list[TeacherPreference] = []
    bad: list[Problem] = []
    for line, text in _lines(path):
        try:
            pairs.append(TeacherPreference.model_validate(_json(text)))
        except ValidationError as error:
            bad.append(Problem(path.name, line, _explain(error)))
        except LunaError as error:
            bad.append(Problem(path.name, line, str(error)))
    if not pairs:
        reason = f" The first: {bad[0]}." if bad else ""
        raise LunaError(f"{path} holds no usable pair.{reason} Each line is an object; see configs/schemas/.")
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


def _within(name: str, value: float) -> float:
    low, high = RANGES[name]
    if not low <= value <= high:  # false for NaN too
        raise LunaError(f"{name} is {value}; it must be a number in [{low:g}, {high:g}].")
    return float(value)


def _value_name(key: object) -> str:
    return "scalar_preference" if key == "scalar" else str(key)


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LunaError(f"{path} could not be read: {error}. Name a JSONL file in UTF-8.") from error
    # Not splitlines: an answer may hold other separators, such as U+2028.
    return [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LunaError(f"not JSON: {error}") from error


def _explain(error: ValidationError) -> str:
    """Each mistake in a clause: where, what was found, what is wrong with it."""
    clauses = []
    for mistake in error.errors():
        where = ".".join(map(str, mistake["loc"])) or "line"
        found = "" if mistake["type"] == "missing" else f" = {str(mistake['input'])[:60]!r}"
        clauses.append(f"{where}{found}: {mistake['msg'][0].lower()}{mistake['msg'][1:]}")
    return "; ".join(clauses)


def _some(items: Sequence[OutOfRange], shown: int = 5) -> str:
    """The first few of many, and how many there are."""
    more = f" and {len(items) - shown} more" if len(items) > shown else ""
    return "; ".join(map(str, items[:shown])) + more


def main() -> None:
    """Write the schemas where the repository keeps them."""
    from ledger.files import write_atomic

    for name, schema in schemas().items():
        write_atomic(SCHEMAS / name, schema_text(schema))


if __name__ == "__main__":
    main()
