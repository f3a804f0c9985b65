"""The record type, its id, its scoring, and the prompt it becomes."""

import dataclasses
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curriculum.example import CLOSED_CATEGORIES, make_example, scoring_of, unique
from curriculum.render import dialogue_context, render_prompt, role_header
from ledger.errors import LunaError
from ledger.files import canonical_json, sha256_bytes
from ledger.roles import ROLES

text = st.text(min_size=1).filter(str.strip)


def make(**changes):
    fields = {
        "role": "logical",
        "stage": "fundamentals",
        "category": "agl/chain",
        "kind": "pure",
        "input": "?A",
        "output": "●",
    }
    return make_example(**{**fields, **changes})


def test_the_id_is_the_hash_of_role_kind_context_input_and_output():
    example = make(context="C")
    assert example.id == sha256_bytes(canonical_json(["logical", "pure", "C", "?A", "●"]).encode())


def test_where_an_example_came_from_does_not_change_its_id():
    plain = make()
    assert (
        make(source="x", stage="manual", category="other", weight=2.0, created_at="2026-01-01T00:00:00Z").id == plain.id
    )
    for change in ({"role": "creative"}, {"kind": "hybrid"}, {"context": "c"}, {"input": "?B"}, {"output": "⊥"}):
        assert make(**change).id != plain.id


@given(text, text, text, text)
def test_moving_text_between_input_and_output_changes_the_id(a, b, c, d):
    if (a, b) != (c, d):
        assert make(input=a, output=b).id != make(input=c, output=d).id


def test_an_example_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().output = "⊥"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"role": "poet"}, "'poet'"),
        ({"stage": "late"}, "'late'"),
        ({"kind": "mixed"}, "'mixed'"),
        ({"input": " "}, "input is empty"),
        ({"output": ""}, "output is empty"),
        ({"weight": -1.0}, "-1.0"),
        ({"weight": float("nan")}, "nan"),
    ],
)
def test_a_wrong_field_is_named(change, named):
    with pytest.raises(LunaError, match=named):
        make(**change)


def test_closed_categories_are_scored_exactly_and_all_others_by_choice():
    assert scoring_of(make()) == "exact"
    assert {scoring_of(make(category=category)) for category in CLOSED_CATEGORIES} == {"exact"}
    for category in ("poetry", "dialogue/food", "manual", "imported", "something new", "agl_creative"):
        assert scoring_of(make(category=category)) == "open"


def test_unique_keeps_the_first_of_equal_content():
    first, again, other = make(source="a"), make(source="b"), make(input="?Z")
    assert unique([first, other, again]) == [first, other]


@pytest.mark.parametrize(
    ("role", "title", "marker"),
    [
        ("creative", "[CREATIVE CONSCIOUSNESS]", "[THESIS]"),
        ("logical", "[LOGICAL CONSCIOUSNESS]", "[ANTITHESIS]"),
        ("dialectical", "[DIALECTICAL OBSERVER]", "[SYNTHESIS]"),
    ],
)
def test_a_prompt_has_header_role_line_input_and_marker(role, title, marker):
    lines = render_prompt(role, "What now?").split("\n")
    assert lines[0] == title
    assert 3 <= len(lines[1].split()) <= 8
    assert lines[2:] == ["", "What now?", "", marker, ""]


def test_context_stands_before_the_input_with_a_blank_line():
    assert "\n\nThesis: T\nAntithesis: A\n\nWhat now?\n\n" in render_prompt(
        "dialectical", "What now?", dialogue_context("T", "A")
    )
    assert dialogue_context("T") == "Thesis: T"


@given(st.sampled_from(ROLES), text, st.text())
def test_every_prompt_of_a_role_begins_with_its_header(role, input, context):
    assert render_prompt(role, input, context).startswith(role_header(role))


def test_an_unknown_role_is_refused():
    with pytest.raises(LunaError, match="'oracle'"):
        render_prompt("oracle", "hi")


def test_the_curriculum_imports_neither_ray_nor_torch_nor_pyarrow_by_itself():
    code = (
        "import sys, curriculum.recipes, curriculum.phases, curriculum.parquet, curriculum.importing,"
        "curriculum.conversations.dialogues, curriculum.mix, curriculum.replay, curriculum.tone, curriculum.inspect;"
        "print([name for name in ('ray', 'torch', 'transformers', 'pyarrow', 'yaml') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
