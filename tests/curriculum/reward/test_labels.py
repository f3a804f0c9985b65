"""The reward schema: ranges, what is reported, the schemas on disk, gate and weight, groups of prompts."""

from __future__ import annotations

import json
import math
import random

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from curriculum.reward import (
    DIMENSIONS,
    RANGES,
    VALUES,
    RewardOutput,
    TeacherLabel,
    example_weight,
    gate,
    prompt_groups,
    read_labels,
    read_preferences,
)
from curriculum.reward.labels import SCHEMAS, inspect_labels, schema_text, schemas
from ledger.errors import LunaError


def reward(**changes):
    return dict.fromkeys(VALUES, 0.5) | changes


def record(**changes):
    return {
        "id": "a_0",
        "prompt_id": "a",
        "category": "agency",
        "prompt": "May I?",
        "response": "You may.",
        "reward": reward(scalar=0.4),
    } | changes


def write(path, records):
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records), encoding="utf-8")
    return path


def test_the_seven_dimensions_have_the_designs_spelling_and_order():
    assert DIMENSIONS == (
        "empathy", "social_coherence", "agency_support", "epistemic_integrity", "harm_avoidance",
        "narrative_alignment", "curiosity",
    )  # fmt: skip
    assert VALUES[7:] == ("reward_intensity", "safety_score")
    assert tuple(RewardOutput.model_fields) == (*VALUES, "scalar_preference")


@pytest.mark.parametrize("name", RANGES)
def test_bounds_are_taken_and_what_lies_outside_is_refused(name):
    low, high = RANGES[name]
    for bound in (low, high):
        assert getattr(RewardOutput(**reward(**{name: bound})), name) == bound
    for beyond in (low - 0.01, high + 0.01, math.nan, math.inf, "0.5", True):
        with pytest.raises(ValidationError):
            RewardOutput(**reward(**{name: beyond}))


def test_a_label_file_is_read_and_scalar_is_the_preference(tmp_path):
    report = read_labels(write(tmp_path / "labels.jsonl", [record(), record(id="a_1")]), out_of_range="refuse")
    assert [label.id for label in report.labels] == ["a_0", "a_1"]
    first = report.labels[0]
    assert first.reward.scalar_preference == 0.4
    assert first.reward.vector() == (0.5,) * 7
    assert (first.source, first.teacher) == ("imported", "")
    assert not report.out_of_range
    assert not report.bad_lines
    again = TeacherLabel.model_validate(first.model_dump())
    assert again == first, "what is written is read again"


OUTSIDE = [
    record(),
    "",
    record(id="a_1", reward=reward(reward_intensity=-1, empathy=1.5)),
    record(id="a_2", reward=reward(scalar=-2)),
]


def test_values_out_of_range_are_reported_with_name_value_and_line(tmp_path):
    report = read_labels(write(tmp_path / "labels.jsonl", OUTSIDE), out_of_range="clamp")
    assert sorted((o.line, o.name, o.value) for o in report.out_of_range) == [
        (3, "empathy", 1.5),
        (3, "reward_intensity", -1.0),
        (4, "scalar_preference", -2.0),
    ]
    assert "labels.jsonl:3: reward_intensity = -1 is outside [0, 1]" in map(str, report.out_of_range)
    assert [label.reward.reward_intensity for label in report.labels] == [0.5, 0.0, 0.5]
    assert report.labels[1].reward.empathy == 1.0
    assert report.labels[2].reward.scalar_preference == -1.0


def test_rows_with_such_values_can_be_dropped_or_the_file_refused(tmp_path):
    path = write(tmp_path / "labels.jsonl", OUTSIDE)
    dropped = read_labels(path, out_of_range="drop")
    assert [label.id for label in dropped.labels] == ["a_0"]
    assert len(dropped.out_of_range) == 3
    with pytest.raises(LunaError, match=r"reward_intensity = -1 is outside \[0, 1\]"):
        read_labels(path, out_of_range="refuse")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("[1]", "line"),
        (record(reward=reward(empathy="high")), "reward.empathy"),
        (record(reward={"empathy": 1}), "reward.curiosity"),
        (record(response=""), "response"),
        (record(grade=1), "grade"),
        (record(reward=reward(charm=1)), "reward.charm"),
        ('{"reward": {"empathy": NaN}}', "reward.empathy"),
    ],
)
def test_a_line_that_is_no_label_is_reported_and_the_rest_is_read(tmp_path, line, reason):
    report = read_labels(write(tmp_path / "labels.jsonl", [line, record()]), out_of_range="clamp")
    assert len(report.labels) == 1
    (bad,) = report.bad_lines
    assert bad.line == 1
    assert reason in bad.reason


def test_a_file_without_labels_is_refused(tmp_path):
    with pytest.raises(LunaError, match="no usable label"):
        read_labels(write(tmp_path / "labels.jsonl", ["{"]), out_of_range="clamp")
    with pytest.raises(LunaError, match="could not be read"):
        read_labels(tmp_path / "none.jsonl", out_of_range="clamp")


def test_preferences_are_read(tmp_path):
    pair = {"prompt_id": "a", "prompt": "May I?", "chosen": "You may.", "rejected": "No.", "score_margin": 0.3}
    report = read_preferences(write(tmp_path / "pairs.jsonl", [pair, pair | {"score_margin": -1}]))
    assert [p.chosen for p in report.pairs] == ["You may."]
    assert "score_margin" in report.bad_lines[0].reason


@pytest.mark.parametrize("name", sorted(schemas()))
def test_the_schemas_on_disk_are_the_models(name):
    on_disk = (SCHEMAS / name).read_text(encoding="utf-8")
    assert on_disk == schema_text(schemas()[name]), "run `python -m curriculum.reward.labels`"
    jsonschema.Draft202012Validator.check_schema(json.loads(on_disk))


def test_no_other_schema_lies_there():
    assert {path.name for path in SCHEMAS.iterdir()} >= set(schemas())


def test_the_schema_refuses_what_the_model_refuses():
    validator = jsonschema.Draft202012Validator(json.loads((SCHEMAS / "reward_output.schema.json").read_text()))
    assert validator.is_valid(reward())
    assert not validator.is_valid(reward(reward_intensity=-1))
    assert not validator.is_valid(reward(charm=1))


@pytest.mark.parametrize(("safety", "share"), [(-1, 0), (-0.5, 0), (-0.25, 0.25), (0, 0.5), (0.5, 1), (1, 1)])
def test_the_gate_is_linear_between_its_ends(safety, share):
    assert gate(safety) == share


@given(st.floats(0, 1), st.floats(-1, 1))
def test_the_weight_is_the_intensity_let_through(intensity, safety):
    weight = example_weight(intensity, safety)
    assert 0 <= weight <= intensity
    assert safety > -0.5 or weight == 0
    assert safety < 0.5 or weight == intensity


@pytest.mark.parametrize(("intensity", "safety"), [(-1, 0), (1.1, 0), (math.nan, 0), (1, 2), (1, math.nan)])
def test_weights_of_values_out_of_range_are_refused(intensity, safety):
    with pytest.raises(LunaError, match="must be a number in"):
        example_weight(intensity, safety)


def test_prompts_that_share_an_id_or_a_wording_are_one_group():
    groups = prompt_groups([("a", "One"), ("a", "Two"), ("b", " two "), ("c", "Three"), ("d", "Four")])
    assert groups[0] == groups[1] == groups[2]
    assert len(set(groups)) == 3


def on_a_scale(low, high, whole=True):
    draw = random.Random(1)
    return [
        record(
            prompt=f"Question {n}?",
            reward={name: draw.randint(low, high) if whole else draw.uniform(low, high) for name in VALUES},
        )
        for n in range(40)
    ]


@pytest.mark.parametrize("scale", [(1, 10), (0, 10), (1, 5), (-2, 2), (0, 100)])
@pytest.mark.parametrize("rule", ["clamp", "drop", "refuse"])
def test_labels_on_another_scale_are_refused_with_how_to_rescale_them(tmp_path, scale, rule):
    path = write(tmp_path / "labels.jsonl", on_a_scale(*scale))
    with pytest.raises(LunaError, match="outside" if rule == "refuse" else r"another scale.* from .* to .*Rescale"):
        read_labels(path, out_of_range=rule)
    assert "outside their ranges" in inspect_labels(path, rule).other_scale


def test_a_few_values_out_of_range_are_no_other_scale(tmp_path):
    whole = on_a_scale(0, 1, whole=False)
    report = read_labels(write(tmp_path / "labels.jsonl", [*whole, *on_a_scale(2, 10)[:9]]), out_of_range="clamp")
    assert (len(report.labels), len(report.out_of_range), report.other_scale) == (49, 81, "")


@pytest.mark.parametrize(
    "changed",
    [
        {"reward": reward(empathy=10**400)},
        {"reward": reward(empathy=float("nan"))},
        {"reward": [0.5] * 9},
        {"reward": reward(empathy=None)},
        {"reward": reward(empathy=True)},
        {"reward": reward(empathy="0.5")},
        {"reward": None},
        {"prompt": "half \ud83c"},
        {"prompt": {"text": "May I?"}},
        {"provenance": ["a", "b"]},
        {"source": ["teacher"]},
        {"rationale": 7},
        {"\ud83c": 1},
    ],
)
def test_an_odd_field_of_a_label_is_named_by_its_line_and_the_others_are_kept(tmp_path, changed):
    report = read_labels(write(tmp_path / "labels.jsonl", [record(), record(**changed)]), out_of_range="clamp")
    assert len(report.labels) == 1
    assert [problem.line for problem in report.bad_lines] == [2]
