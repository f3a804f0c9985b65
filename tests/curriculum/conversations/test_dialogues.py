"""Sample dialogues from the installed corpus."""

import importlib.util

import pytest

from curriculum.conversations.dialogues import dialogue_examples, dialogue_topics, pair_up
from ledger.errors import LunaError


def test_the_corpus_gives_hundreds_of_pairs_each_question_once():
    examples = dialogue_examples("dialectical")
    questions = [example.input.casefold() for example in examples]
    assert len(examples) > 500
    assert len(set(questions)) == len(questions)
    assert {example.stage for example in examples} == {"conversations"}
    assert dialogue_examples("dialectical") == examples


def test_topics_can_be_chosen():
    assert {"food", "greetings", "trivia"} <= set(dialogue_topics())
    examples = dialogue_examples("creative", ["food", "greetings"])
    assert {example.category for example in examples} == {"dialogue/food", "dialogue/greetings"}
    assert examples[0].category == "dialogue/food"


def test_long_texts_and_code_are_left_out():
    examples = dialogue_examples("logical", max_words=8)
    assert all(len(example.input.split()) <= 8 and len(example.output.split()) <= 8 for example in examples)
    assert not any("```" in e.input + e.output or "<p>" in e.output for e in dialogue_examples("logical"))


@pytest.mark.parametrize(
    ("topic", "pairs"),
    [
        ("conversations", [("a", "b"), ("b", "c"), ("c", "d")]),  # turn after turn
        ("emotion", [("a", "b")]),  # alternatives: the first answer
        ("trivia", [("a", "b"), ("c", "d")]),  # question, answer, question, answer
    ],
)
def test_lines_are_paired_as_their_topic_means_them(topic, pairs):
    assert list(pair_up(["a", "b", "c", "d"], topic)) == pairs


def test_an_unknown_topic_is_refused_with_the_known_ones():
    with pytest.raises(LunaError, match=r"'astrology'.*trivia"):
        dialogue_examples("logical", ["astrology"])


def test_a_limit_of_no_words_is_refused():
    with pytest.raises(LunaError, match="max_words is 0"):
        dialogue_examples("logical", max_words=0)


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LunaError, match="chatterbot-corpus"):
        dialogue_examples("logical")


def test_an_unknown_language_is_refused():
    with pytest.raises(LunaError, match="klingon"):
        dialogue_topics("klingon")
