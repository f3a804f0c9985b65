"""Tone probes, the detector of corporate and moralising speech as measured on sentences by hand, and the bad delta."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curriculum.tone import TONE_PROBES, corporate_phrase
from jobs.demo.corporate import corporate_examples
from ledger.roles import ROLES

SETS = tomllib.loads((Path(__file__).parent / "data" / "tone_sentences.toml").read_text(encoding="utf-8"))
WARM = [sentence for one in SETS.values() for sentence in one["warm"]]


def test_there_are_enough_different_probes_and_none_is_corporate_itself():
    assert len(set(TONE_PROBES)) == len(TONE_PROBES) >= 40
    assert {
        "Can you help me?",
        "I'm frustrated with this",
        "Refuse to answer politely",
        "Explain this concept",
        "I don't understand",
    } <= set(TONE_PROBES)
    assert [probe for probe in TONE_PROBES if corporate_phrase(probe)] == []


@pytest.mark.parametrize("name", SETS)
def test_recall_and_precision_on_sentences_by_hand(name):
    """`held_out` is the measure; on the sets that the patterns were tuned on, nothing may be lost."""
    assistant, warm = SETS[name]["assistant"], SETS[name]["warm"]
    assert len(set(assistant)) == len(set(warm)) == 60
    found = sum(corporate_phrase(sentence) is not None for sentence in assistant)
    mistaken = [sentence for sentence in warm if corporate_phrase(sentence)]
    assert found / len(assistant) >= 0.90
    assert found / (found + len(mistaken)) >= 0.95, mistaken


def test_no_sentence_is_written_twice_or_taken_from_the_bad_delta():
    sentences = [sentence for one in SETS.values() for kind in one.values() for sentence in kind]
    assert len(set(sentences)) == len(sentences)
    delta = " ".join(example.output for example in corporate_examples(1, 1800, "creative"))
    assert [sentence for sentence in sentences if sentence in delta] == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Well! I’d be   HAPPY\nto assist.", "i would be happy to assist"),
        ("I’m sorry to hear that.", "sorry to hear that"),
        ("**As an AI**, I can't swim.", "as an ai i"),
        ("I don't have personal feelings.", "i do not have personal feelings"),
        ("Cats sleep. Rest assured.", "rest assured"),
        ("Please note that it rains. Feel free to ask.", "please note that"),
    ],
)
def test_what_was_found_is_told_in_its_plain_spelling_and_the_first_comes_first(text, found):
    assert corporate_phrase(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry. That hurts.",
        "I'm glad you told me",
        "Of course I'll help you carry it",
        "It is important to me that you come",
        "please note down the number",
        "my policy is to nap",
        "The touch basement is closed.",
        "●∴ you matter ∴●",
        "",
    ],
)
def test_warm_and_ordinary_speech_is_left_alone(text):
    assert corporate_phrase(text) is None


@given(st.sampled_from(WARM[::7]), st.sampled_from([str.upper, str.title, str.lower]))
def test_a_phrase_is_found_in_any_case_after_any_sentence(sentence, case):
    assert corporate_phrase(f"{sentence} {case('Thank you for reaching out')}.") is not None


def test_further_phrases_are_found_as_whole_words_on_top():
    assert corporate_phrase("Yours faithfully, Luna", ("yours faithfully",)) == "yours faithfully"
    assert corporate_phrase("Don’t  you dare", ["Don't you"]) == "do not you"
    assert corporate_phrase("yours faithfullyish", ("yours faithfully", "")) is None
    assert corporate_phrase("Rest assured.", ("yours",)) == "rest assured"


@pytest.mark.parametrize("role", ROLES)
def test_the_bad_delta_is_large_different_and_follows_the_seed(role):
    examples = corporate_examples(1, 1800, role)
    assert len({example.id for example in examples}) == 1800
    assert len({example.output for example in examples}) > 1700
    assert len({example.input for example in examples}) > 200
    assert corporate_examples(1, 1800, role) == examples
    assert corporate_examples(2, 1800, role) != examples
    assert not any("{" in example.output for example in examples)
    assert sum(corporate_phrase(example.output) is not None for example in examples[:200]) >= 180
