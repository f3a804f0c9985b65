"""Whatever a preference file may hold is read, or named by its line; the other lines are kept."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curriculum.preferences.pairs import freeze_preferences, read_preference_set
from curriculum.preferences.sources import pairs_of_line, read_pairs
from ledger.errors import LunaError
from ledger.home import Home

GOOD = {"prompt": "Is tea better cold?", "chosen": "That is yours to decide.", "rejected": "No."}
BASE = {"prompt": "Is tea better hot?", "chosen": "Many think so.", "rejected": "Yes!"}


def said(role, content):
    return {"role": role, "content": content}


def read(tmp_path, *lines):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return read_pairs(path)


ODD = {
    "a number as context": ({"context": 7}, "'context' must be a text, found 7"),
    "a list as context": ({"context": ["user: Hello.", "assistant: Hi."]}, "'context' must be a text"),
    "half a character": ({"chosen": "Many think so \ud83c"}, "half of a character"),
    "half a character in the provenance": ({"provenance": {"judge": "\ud83c"}}, "half of a character"),
    "a number as provenance": ({"provenance": 7}, "'provenance' must be"),
    "a list as role": ({"role": ["logical"]}, "'role' must be a text"),
    "an object as origin": ({"origin": {}}, "'origin' must be a text"),
    "true as margin": ({"margin": True}, "'margin' must be a number, found True"),
    "text as weight": ({"weight": "1"}, "'weight' must be a number"),
    "400 digits": ({"margin": 10**400}, "'margin' must be a number, found 1000"),
    "not a number": ({"weight": float("nan")}, "'weight' must be a number"),
    "infinite": ({"margin": float("inf")}, "'margin' must be a number"),
    "a message without a role": ({"prompt": [{"content": "Is it?"}]}, "message 1 is"),
    "messages of null": ({"chosen": [None]}, "message 1 is None"),
    "a message without text": ({"chosen": [said("assistant", None)]}, "message 1 has no text"),
    "a user's answer": ({"chosen": [said("user", "Yes.")]}, "the assistant's answer"),
    "no answer": ({"chosen": []}, "the assistant's answer"),
    "a prompt that ends with an answer": (
        {"prompt": [said("user", "Hi."), said("assistant", "Hello.")]},
        "end with a message of the user",
    ),
    "an object as prompt": ({"prompt": {"text": "Is it?"}}, "message 1 is"),
    "context beside messages": (
        {"context": "Be kind.", "prompt": [said("system", "Be brief."), said("user", "Is it?")]},
        "leave it out",
    ),
    "no prompt": ({"prompt": None}, "'prompt' is missing"),
}


@pytest.mark.parametrize("kind", sorted(ODD))
def test_a_field_of_another_kind_is_named_and_the_other_lines_are_kept(tmp_path, kind):
    changed, told = ODD[kind]
    pairs, bad = read(tmp_path, GOOD, {**BASE, **changed})
    assert {pair.prompt for pair in pairs} == {GOOD["prompt"]}
    (problem,) = bad
    assert problem.line == 2
    assert told in problem.reason
    assert len(problem.reason) < 300


READ = {
    "nulls that a loader adds": ({"context": None, "margin": None, "role": None}, {}),
    "an object as provenance": ({"provenance": {"round": 2}}, {"provenance": '{"round":2}'}),
    "a text as provenance": ({"provenance": "the panel"}, {"provenance": '{"note":"the panel"}'}),
    "JSON as provenance": ({"provenance": '{"turn": "x"}'}, {"provenance": '{"turn": "x"}'}),
    "scores of another scale": ({"score_chosen": 9.0, "score_rejected": 2}, {"margin": 1.0}),
    "a whole number": ({"margin": 2, "weight": 1}, {"margin": 2.0}),
    "messages": (
        {"prompt": [said("user", BASE["prompt"])], "chosen": [said("assistant", BASE["chosen"])],
         "rejected": [said("assistant", BASE["rejected"])]}, {"context": ""},
    ),
    "one message": ({"chosen": said("assistant", BASE["chosen"])}, {}),
    "parts": ({"chosen": [said("assistant", [{"type": "text", "text": BASE["chosen"]}, {"type": "image"}])]}, {}),
    "whole conversations": (
        {"chosen": [said("user", BASE["prompt"]), said("assistant", BASE["chosen"])],
         "rejected": [said("user", BASE["prompt"]), said("assistant", BASE["rejected"])]}, {},
    ),
    "whole conversations alone": (
        {"prompt": None, "chosen": [said("user", BASE["prompt"]), said("assistant", BASE["chosen"])],
         "rejected": [said("user", BASE["prompt"]), said("assistant", BASE["rejected"])]}, {},
    ),
    "a talk before": (
        {"prompt": [said("system", "Be kind."), said("user", "Hi."), said("assistant", "Hello."),
                    said("user", BASE["prompt"])]}, {"context": "Be kind.\nUser: Hi.\nLuna: Hello."},
    ),
    "an id of another program": ({"prompt_id": "x", "chosen": [said("assistant", BASE["chosen"])]}, {}),
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(READ))
def test_a_pair_in_another_form_is_read(tmp_path, kind):
    changed, expected = READ[kind]
    pairs, bad = read(tmp_path, {**BASE, **changed})
    assert bad == []
    assert {pair.role for pair in pairs} == {"creative", "logical", "dialectical"}
    for pair in pairs:
        assert {name: getattr(pair, name) for name in BASE} == BASE
        assert {name: getattr(pair, name) for name in expected} == expected
        assert not pair.weighed


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["user", "assistant", "\ud800"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "type", "text", "\udfff"]), inner, max_size=4)
    ),
    max_leaves=8,
)
RECORDS = st.dictionaries(
    st.sampled_from([*GOOD, "context", "role", "origin", "margin", "weight", "provenance", "prompt_id", "id"]), JSON
)


@given(RECORDS, st.sets(st.sampled_from(sorted(GOOD))))
def test_any_object_is_pairs_that_can_be_stored_and_read_again_or_a_sentence(tmp_path_factory, record, kept):
    line = json.dumps({**GOOD, **record, **{name: GOOD[name] for name in kept}}).encode()
    try:
        pairs = pairs_of_line(line)
    except LunaError:
        return
    home = Home(tmp_path_factory.getbasetemp() / "home").create()
    assert read_preference_set(home.data_file(freeze_preferences(pairs, home))) == pairs
    assert not any(pair.weighed and "teacher" not in pair.provenance for pair in pairs)
