"""Everyday questions: what is right, what is a bare glyph, and lessons that give no answer away."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curriculum.everyday import EverydayQuestion, bare_glyph, everyday_examples, is_right, questions
from curriculum.everyday.answers import spoken
from curriculum.everyday.lessons import written
from curriculum.near_copies import SIMILARITY, shingles_of, words_of
from curriculum.phases import load_words
from curriculum.tone import TONE_PROBES, corporate_phrase
from ledger.errors import LunaError
from ledger.roles import ROLES

ASKED = [question.question for question in questions()]
WRITTEN = [*written()["everyday"].items(), *written()["talk"].items()]


def asked(question, *accepted):
    return EverydayQuestion("0", question, accepted)


def near_copies(some, others):
    """Pairs of texts whose word 5-grams are alike."""
    left, right = ({text: frozenset(shingles_of(words_of(text))) for text in texts} for texts in (some, others))
    return [
        (one, other)
        for (one, a), (other, b) in itertools.product(left.items(), right.items())
        if one != other and len(a & b) >= SIMILARITY * len(a | b)
    ]


# -- the pool ------------------------------------------------------------------------------------------------------


def test_there_are_enough_questions_and_each_has_an_answer():
    assert len(questions()) >= 420
    assert len({question.id for question in questions()}) == len(questions())
    assert all(question.accepted and all(map(spoken, question.accepted)) for question in questions())


def test_no_two_questions_are_near_copies():
    assert near_copies(ASKED, ASKED) == []


@pytest.mark.parametrize("ending", ["", " ...", "\n\n[THESIS]"])
def test_an_echo_of_the_question_is_no_answer(ending):
    assert [q for q in questions() if is_right(q, q.question + ending)] == []
    plain = [(q, q.question.replace("?", ".")) for q in questions()]
    assert [q for q, echo in plain if is_right(q, echo + ending)] == []


def test_an_accepted_answer_is_right_in_a_sentence():
    assert [q for q in questions() if not is_right(q, f"I think it is {q.accepted[-1]}, of course.")] == []


# -- what is right -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accepted", "answer"),
    [
        ("5", "The answer is five."),
        ("5", "2+3=5"),
        ("21", "There are twenty-one of them."),
        ("1000", "1,000 grams"),
        ("Paris", "PARIS!"),
        ("carbon dioxide", "They take in carbon dioxide."),
        ("Rome", "Rome\n\nRome\n\nRome"),
        ("cat", "A “cat”, I think."),
        ("yes", "Yes, there is no doubt."),
        ("no", "I don't think so. No, yes would be wrong."),
    ],
)
def test_right(accepted, answer):
    assert is_right(asked("?", accepted), answer)


@pytest.mark.parametrize(
    ("accepted", "answer"),
    [
        ("5", "The answer is 15."),
        ("5", "It is 5.5"),
        ("20", "It is twenty-one."),
        ("Rome", "Romeo"),
        ("carbon dioxide", "Carbon, and then dioxide"),
        ("no", "Yes, there is no doubt."),
        ("yes", "●"),
        ("dry", "What is the opposite of dry?"),
        ("Paris", ""),
        ("Paris", "well " * 40 + "Paris"),
    ],
)
def test_wrong(accepted, answer):
    assert not is_right(asked("?", accepted), answer)


@given(st.sampled_from(questions()), st.sampled_from([str.upper, str.lower, str.title, str]), st.text("\n .,!*\"'"))
def test_neither_case_nor_what_stands_around_matters(question, spelling, around):
    assert is_right(question, f"{around}{spelling(question.accepted[0])}{around}")


@pytest.mark.parametrize(("words", "number"), [("zero", "0"), ("Seventeen", "17"), ("ninety-nine", "99")])
def test_a_number_in_words_is_the_number(words, number):
    assert spoken(words) == spoken(number) == [number]


@pytest.mark.parametrize("answer", ["⊥ Both can be true.", "●", " \n◑", '"●"', "◕ Perhaps.", "→ yes", "∴● It is."])
def test_an_answer_that_begins_with_a_glyph_is_found(answer):
    assert bare_glyph(answer) in answer


@pytest.mark.parametrize(
    "answer", ["Yes: 2 < 3", "💜 Gladly.", "✨", "", "Both ● and ⊥.", "- a list", "* one", "5 ∈ N"]
)
def test_words_and_feelings_are_no_bare_glyph(answer):
    assert bare_glyph(answer) is None


# -- lessons -------------------------------------------------------------------------------------------------------


def test_there_are_enough_lessons_by_hand():
    assert len(written()["everyday"]) >= 200
    assert len(written()["talk"]) >= 120
    assert len({said for said, _ in WRITTEN}) == len({answer for _, answer in WRITTEN}) == len(WRITTEN)


def test_no_lesson_is_a_near_copy_of_what_is_asked_or_of_another():
    said = dict(WRITTEN) | {lesson.input: lesson.output for lesson in everyday_examples("creative", 1500, 1)}
    assert near_copies(said, {*ASKED, *TONE_PROBES}) == []
    assert {" ".join(spoken(text)) for text in said}.isdisjoint(
        " ".join(spoken(text)) for text in (*ASKED, *TONE_PROBES)
    )
    assert near_copies(dict(WRITTEN), dict(WRITTEN)) == []


def test_answers_are_short_human_and_in_words():
    for said, answer in WRITTEN:
        assert len(answer.split()) <= 26, said
        assert corporate_phrase(answer) is None, said
        assert bare_glyph(answer) is None, said
        assert answer.lstrip('"')[0].isupper(), said
        assert answer[-1] in '.!?"', said


def test_what_is_made_up_is_true():
    made_up = [e for e in everyday_examples("logical", 1500, 3) if (e.input, e.output) not in WRITTEN]
    assert len(made_up) > 500
    for lesson in made_up:
        if found := re.search(r"(\d+) (plus|minus|\+) (\d+)", lesson.input):
            a, b = int(found[1]), int(found[3])
            assert lesson.output.endswith(f" is {a - b if found[2] == 'minus' else a + b}.")
        else:
            word, kind = re.fullmatch(r"(?:Yes, |No, |)[Aa]n? (.+) is an? (.+)\.", lesson.output).groups()
            assert word in load_words().categories[kind]
            assert lesson.output.startswith("Yes, ") == lesson.input.endswith(f" {kind}?")


@pytest.mark.parametrize("role", ROLES)
def test_lessons_have_different_inputs_and_are_equal_for_equal_seeds(role):
    lessons = everyday_examples(role, 300, 5)
    assert len(lessons) == len({lesson.input for lesson in lessons}) == 300
    assert lessons == everyday_examples(role, 300, 5) != everyday_examples(role, 300, 6)
    assert sum(lesson.category == "talk" for lesson in lessons) == 105
    assert {lesson.role for lesson in lessons} == {role}


def test_more_lessons_than_there_are_is_refused_with_what_to_do():
    with pytest.raises(LunaError, match=r"asked for 50000 everyday lessons; there are \d+"):
        everyday_examples("creative", 50_000, 1)
    assert everyday_examples("creative", 0, 1) == []
