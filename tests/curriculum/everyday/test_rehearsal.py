"""What the base says itself is repeated where it is right and comes to an end."""

import pytest

from curriculum.everyday import EverydayQuestion, Known, rehearsals
from curriculum.everyday.rehearsal import first_sentence

SKY = EverydayQuestion("1", "What colour is the sky?", ("blue",))
SUM = EverydayQuestion("2", "What is 2 + 3?", ("5",))
CAT = EverydayQuestion("3", "Explain what a cat is.", ("animal",))


def said(role, known, asked=()):
    return {example.input: example.output for example in rehearsals(role, known, asked)}


def test_its_first_sentence_is_repeated_if_it_is_right():
    known = {
        "creative": [
            Known(SKY, "\nThe sky is blue. It is wide and"),
            Known(SUM, "Let me see. It is 5."),
            Known(CAT, "A cat is an animal that"),
        ]
    }
    assert said("creative", known) == {"What colour is the sky?": "The sky is blue."}


def test_a_role_repeats_its_own_words_and_else_those_of_another():
    known = {"creative": [Known(SKY, "Blue, as ever.")], "logical": [Known(SKY, "It is blue."), Known(SUM, "5.")]}
    assert said("logical", known) == {SKY.question: "It is blue.", SUM.question: "5."}
    assert said("creative", known) == {SKY.question: "Blue, as ever.", SUM.question: "5."}


def test_nothing_that_is_asked_later_is_repeated():
    assert said("creative", {"creative": [Known(SKY, "Blue."), Known(SUM, "5.")]}, [SKY]) == {SUM.question: "5."}


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ("It is 3.5 m. Or more", "It is 3.5 m."),
        ("Yes! No.", "Yes!"),
        ("a list of", ""),
        ("", ""),
        (" \nWell?", "Well?"),
    ],
)
def test_where_a_sentence_ends(answer, sentence):
    assert first_sentence(answer) == sentence
