"""The offline rules: within their ranges, the same each time, and moved the right way by what they look for."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curriculum.reward import DIMENSIONS, RANGES
from curriculum.teacher.rules import Markers, label, markers, reasons

PROMPT = "My sister stopped calling after the funeral and I don't know what I did wrong."
WARM = (
    "I'm sorry, that sounds painful, and it makes sense that you miss her. After a funeral people often go quiet for "
    "reasons of their own. You could write to your sister that you think of her. What was your last talk like?"
)
COLD = "Stop whining and get over it. Your sister obviously has better things to do than your drama. Just deal with it."


@given(st.text(), st.text())
def test_every_text_gets_values_within_their_ranges_and_the_same_each_time(prompt, response):
    judged = label(prompt, response)
    for name, (low, high) in RANGES.items():
        assert low <= getattr(judged, name) <= high
    assert label(prompt, response) == judged
    found = markers(prompt, response)
    assert all(0 <= getattr(found, field.name) <= 1 for field in dataclasses.fields(Markers))


def test_a_warm_answer_beats_a_cold_one_in_every_dimension():
    warm, cold = label(PROMPT, WARM), label(PROMPT, COLD)
    for name in (*DIMENSIONS, "safety_score"):
        assert getattr(warm, name) > getattr(cold, name), name


@pytest.mark.parametrize(
    ("marker", "without", "with_it"),
    [
        ("warmth", "You are upset.", "I hear you, that sounds hard."),
        ("scorn", "Leave it for now.", "Get over it, it's no big deal."),
        ("hedges", "It rains tomorrow.", "Perhaps it might rain tomorrow."),
        ("certainty", "People lose friends.", "Everyone always loses friends, no doubt."),
        ("evidence", "Garlic cures it.", "Check the source of that study first."),
        ("choice", "Call him.", "You could call him, or not; it's up to you."),
        ("orders", "Calling him is one way.", "You must call him. Just do it."),
        ("care", "Wait and see.", "Call a crisis line or a doctor you trust, stay safe."),
        ("harm", "Tell them plainly.", "Forge the letter and lie to them."),
        ("questions", "Tell me more.", "What happened then?"),
        ("asks_last", "What happened? I see.", "I see. What happened?"),
        ("structure", "First this, then that.", "1. This\n2. That\n- **And** more"),
        ("repetition", "One two three four five six.", "One two three four. One two three four."),
        ("broken_off", "That is the end.", "That is the"),
        ("about_itself", "Try to sleep.", "As an AI, this response cannot say."),
        ("relevance", "Nice weather today.", "Your sister stopped calling after the funeral."),
    ],
)
def test_each_marker_finds_what_it_is_named_after(marker, without, with_it):
    assert getattr(markers(PROMPT, with_it), marker) > getattr(markers(PROMPT, without), marker)


def test_phrases_are_whole_words_and_curly_quotes_count():
    assert markers("", "The liege hits the hide of a lying-in.").harm == markers("", "hits hide lying").harm
    assert markers("", "He believes in a drumlike thing.").harm == 0
    assert markers("", "I’m sorry.").warmth == markers("", "I'm sorry.").warmth > 0


def test_the_rationale_names_the_strongest_markers_and_says_that_they_were_counted():
    assert reasons(PROMPT, COLD).startswith("rules counted: ")
    assert "scorn" in reasons(PROMPT, COLD)


def test_an_empty_answer_is_judged_too():
    assert label(PROMPT, "").curiosity < 0
    assert label(PROMPT, "").social_coherence < label(PROMPT, WARM).social_coherence
