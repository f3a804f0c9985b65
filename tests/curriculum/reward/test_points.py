"""Points of the reward space and the course of health, without a model."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curriculum.reward.points import PlotRow, health_course, health_rows, plot_content, plot_points
from ledger.errors import LunaError
from ledger.records import EvalRecord

vectors = st.lists(st.tuples(*[st.floats(-1, 1)] * 7), min_size=3, max_size=12)


def index(gen_id, role, value):
    components = {"dcs": value, "gvs": 0.4, "mss": 0.9, "cdrs": 0.8, "lrps": 0.7}
    answers = [{"id": "agency/a", "category": "agency", "answer": "Yes.", "values": [value] * 9}]
    return EvalRecord(
        gen_id=gen_id, role=role, eval="rhi", method="measured", value=value, n=1, low=value, high=value,
        details={"components": components, "answers": answers},
    )  # fmt: skip


def test_the_first_axis_is_where_the_judgements_differ_most():
    rows = [
        PlotRow(str(i), "a" if i % 2 else "b", "labels", (i / 10, 0.0, 0.02 * (i % 2), 0.0, 0.0, 0.0, 0.0))
        for i in range(8)
    ]
    found = plot_points(rows)
    assert found["axes"][0]["loadings"]["empathy"] == pytest.approx(1, abs=0.01)
    assert found["axes"][0]["explained"] > 0.99
    assert [point["x"] for point in found["points"]] == sorted(point["x"] for point in found["points"])
    assert found["categories"] == ["a", "b"]


@given(vectors)
def test_any_judgements_have_places_and_equal_ones_equal_places(values):
    rows = [PlotRow("x", "c", "labels", vector) for vector in [*values, values[0]]]
    found = plot_points(rows)
    assert found == plot_points(rows)
    first, last = found["points"][0], found["points"][-1]
    assert (first["x"], first["y"]) == (last["x"], last["y"])
    assert 0 <= sum(axis["explained"] for axis in found["axes"]) <= 1.001
    json.dumps(found, allow_nan=False)


def test_two_judgements_are_no_picture():
    with pytest.raises(LunaError, match="at least 3"):
        plot_points([PlotRow("x", "c", "labels", (0.0,) * 7)] * 2)


def test_the_course_has_each_generation_that_was_measured():
    evals = [index(0, "creative", 0.8), index(0, "logical", 0.6), index(2, "creative", 0.9)]
    course = health_course(evals)
    assert [(step["gen_id"], step["rhi"]) for step in course] == [(0, 0.7), (2, 0.9)]
    assert course[0]["roles"]["logical"]["dcs"] == 0.6
    assert [row.source for row in health_rows(evals)] == ["G0 creative", "G0 logical", "G2 creative"]


def test_an_empty_home_has_an_empty_plot():
    assert plot_content([], []) == {"course": [], "axes": [], "points": [], "categories": [], "sources": []}
