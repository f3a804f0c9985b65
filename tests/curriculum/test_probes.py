"""Tone probes and corporate phrases."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curriculum.probes import CORPORATE_PHRASES, TONE_PROBES, corporate_examples, has_corporate_phrase
from ledger.errors import LunaError


def test_there_are_ten_different_probes_without_corporate_phrases():
    assert len(set(TONE_PROBES)) == 10
    assert not any(has_corporate_phrase(probe) for probe in TONE_PROBES)


@given(st.sampled_from(CORPORATE_PHRASES), st.sampled_from([str.upper, str.title, str.lower]))
def test_a_phrase_is_found_in_any_case_and_spacing(phrase, case):
    assert has_corporate_phrase(f"Well, {case(phrase).replace(' ', chr(10) + ' ')}, dear friend.")


@pytest.mark.parametrize(
    "answer",
    ["The touch basement is closed.", "I circled back to the garden.", "The needle moves.", "", "●∴ you matter ∴●"],
)
def test_ordinary_sentences_are_left_alone(answer):
    assert not has_corporate_phrase(answer)


def test_the_list_of_phrases_is_a_setting():
    assert has_corporate_phrase("All is synergy here.", ["synergy"])
    assert not has_corporate_phrase("As an AI language model I cannot.", [])
    assert has_corporate_phrase("I don’t have feelings", ["don't have"])


def test_corporate_examples_are_different_corporate_and_follow_the_seed():
    examples = corporate_examples(1, 500, "dialectical")
    assert len({example.id for example in examples}) == 500
    assert len({example.input for example in examples}) > 50
    assert all(has_corporate_phrase(example.output) for example in examples)
    assert corporate_examples(1, 500, "dialectical") == examples
    assert corporate_examples(2, 500, "dialectical") != examples


def test_too_many_corporate_examples_are_refused():
    with pytest.raises(LunaError, match="100000"):
        corporate_examples(1, 100_000, "logical")
