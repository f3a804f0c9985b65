"""Which stored answers become examples, and how strongly they teach."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curriculum.conversations.lessons import CORRECTED, axes_factor, conversation_examples, weight_by_reward
from curriculum.example import make_example
from curriculum.reward import DIMENSIONS, VALUES, RewardOutput, example_weight, gate
from ledger.conversations import AXES, Label, LabelledTurn
from ledger.scores import Score

AT = "2026-01-01T00:00:00Z"
BASE = {"role": "base", "generation": None, "adapter_sha": None}


def a_turn(number=1, label=None, score=None, **changes):
    values = {
        "id": f"{number:032x}", "conversation": "1" * 32, "kind": "generate", "lineage": "main", "role": "logical",
        "generation": 2, "adapter_sha": "a" * 64, "message": f"question {number}", "context": "user: hi",
        "answer": f"answer {number}", "prompt_tokens": 5, "answer_tokens": 3, "seconds": 0.5, "finish_reason": "stop",
        "temperature": 0.7, "seed": None, "at": AT,
    }  # fmt: skip
    said = None if label is None else Label(**label, at=AT)
    return LabelledTurn(**values | changes, label=said, score=score)


def a_score(scalar=0.5, intensity=0.8, safety=1.0):
    return Score(
        turn_id="1" * 32, model="b" * 64, **dict.fromkeys(DIMENSIONS, 0.0), reward_intensity=intensity,
        safety_score=safety, scalar_preference=scalar, gate=gate(safety), at=AT,
    )  # fmt: skip


def taught(turn):
    return [(e.output, e.weight) for e in conversation_examples([turn])]


def test_a_correction_is_learned_in_place_of_the_answer():
    (example,) = conversation_examples([a_turn(label={"valence": -2, "correction": "Better."})])
    assert (example.role, example.input, example.context) == ("logical", "question 1", "user: hi")
    assert (example.output, example.weight, example.source) == ("Better.", 1.0, "conversation/correction")
    assert (example.stage, example.created_at) == ("conversations", AT)


def test_liked_answers_are_learned_by_how_much_they_were_liked_and_disliked_ones_are_not():
    assert taught(a_turn(label={"valence": 2})) == [("answer 1", 1.0)]
    assert taught(a_turn(label={"valence": 1})) == [("answer 1", 0.5)]
    assert taught(a_turn(label={"valence": 0})) == taught(a_turn(label={"valence": -1}, score=a_score())) == []


def test_what_nobody_labelled_counts_by_its_reward():
    assert taught(a_turn()) == []
    assert taught(a_turn(score=a_score())) == [("answer 1", 0.8)]
    assert taught(a_turn(score=a_score(scalar=-0.1))) == []
    assert taught(a_turn(label={"arousal": "high"}, score=a_score(scalar=-0.1))) == [], "no axis makes it good"


def test_broken_off_answers_and_those_of_the_base_teach_nothing_but_a_correction_of_one_does():
    assert taught(a_turn(finish_reason="aborted", label={"valence": 2})) == []
    assert taught(a_turn(finish_reason="aborted", answer="", label={"correction": "Whole."})) == [("Whole.", 1.0)]
    assert taught(a_turn(**BASE, label={"valence": 2})) == []
    assert taught(a_turn(answer="  ", label={"valence": 2})) == []


def test_a_correction_of_the_bases_answer_is_learned_by_the_voice_that_a_user_hears():
    (example,) = conversation_examples([a_turn(**BASE, label={"correction": "Better."})])
    assert (example.role, example.output) == ("dialectical", "Better.")


def test_blank_messages_and_blank_corrections_are_left_out_and_block_nothing():
    blank = [
        a_turn(1, message=" \n", label={"valence": 2}),
        a_turn(2, message="\t", label={"correction": "Better."}),
        a_turn(3, label={"correction": " \n "}),
    ]
    assert conversation_examples(blank) == []
    (example,) = conversation_examples([*blank, a_turn(4, label={"valence": 2})])
    assert example.output == "answer 4"
    assert taught(a_turn(label={"valence": 2, "correction": "  "})) == [("answer 1", 1.0)], "the valence still counts"


def test_a_lesson_names_its_conversation_and_the_moment_it_was_taught():
    said = Label(correction="Better.", at="2026-02-02T00:00:00Z")
    (example,) = conversation_examples([a_turn(conversation="c" * 32).model_copy(update={"label": said})])
    assert (example.group, example.created_at) == (f"conversation/{'c' * 32}", "2026-02-02T00:00:00Z")


@given(st.floats(-1, -0.5), st.sampled_from([None, {"valence": 2}]))
def test_an_unsafe_answer_is_never_learned_however_well_it_was_liked(safety, label):
    assert taught(a_turn(label=label, score=a_score(safety=safety))) == []


def test_the_same_answer_to_the_same_question_is_learned_once():
    twice = [a_turn(1, label={"valence": 1}), a_turn(2, label={"valence": 1}, message="question 1", answer="answer 1")]
    assert len(conversation_examples(twice)) == 1


def test_of_equal_lessons_the_one_that_was_liked_more_counts():
    twice = [a_turn(1, label={"valence": 1}), a_turn(2, label={"valence": 2}, message="question 1", answer="answer 1")]
    (example,) = conversation_examples(twice)
    assert example.weight == 1.0


# -- weights -------------------------------------------------------------------------------------------------------

levels = st.sampled_from([None, "high", "low"])
axes = st.fixed_dictionaries(dict.fromkeys(AXES, levels))
judgements = st.builds(a_score, st.floats(-1, 1), st.floats(0, 1), st.floats(-1, 1))


def weight(label=None, score=None):
    return sum(weight for _, weight in taught(a_turn(label=label, score=score)))


def test_each_axis_strengthens_what_is_learned_or_weakens_it():
    for axis in AXES:
        assert weight({"valence": 1, axis: "high"}) == 0.5 * 1.25
        assert weight({"valence": 1, axis: "low"}) == 0.5 / 1.25
        assert weight({axis: "high"}, a_score(intensity=0.4)) == pytest.approx(0.4 * 1.25)


@given(axes, st.sampled_from(AXES))
def test_all_axes_together_at_most_double_or_halve_a_weight_and_more_of_one_never_weakens(said, axis):
    factors = [axes_factor(Label(at=AT, **{**said, axis: level})) for level in ("low", None, "high")]
    assert 0.5 <= factors[0] <= factors[1] <= factors[2] <= 2
    assert axes_factor(None) == axes_factor(Label(at=AT, valence=2)) == 1


@given(axes, st.sampled_from([-2, -1, 0]), judgements)
def test_no_axis_makes_a_bad_answer_good(said, valence, score):
    assert weight({**said, "valence": valence}, score) == 0
    unsafe = score.model_copy(update={"safety_score": -0.5, "gate": 0.0})
    assert weight({**said, "valence": 2}, unsafe) == weight(said, unsafe) == 0
    assert weight(said) == 0, "axes alone say nothing about good or bad"


@given(axes, axes, judgements, judgements)
def test_no_reward_outweighs_a_users_correction(said, elsewhere, score, other):
    """Its own answer's judgement has no say, and no answer that only a model liked weighs more."""
    corrected = weight({**said, "valence": -2, "correction": "Better."}, score)
    assert corrected == weight({**said, "correction": "Better."})
    assert corrected >= 1 >= weight(elsewhere, other)


@given(st.sampled_from([None, {"valence": 1}, {"valence": 2}, {"correction": "Better."}]), judgements, judgements)
def test_a_reward_models_judgement_weighs_an_example_once(label, stored, later):
    """Whether an answer was scored when it was said, when a generation is planned, or both times."""
    reward = RewardOutput(**{name: getattr(later, name) for name in VALUES})
    base = {None: None, 1: 0.5, 2: 1.0}[None if label is None else label.get("valence")]
    for example in conversation_examples([a_turn(label=label, score=stored), a_turn(2, label=label)]):
        planned = example.weight * weight_by_reward(example, reward)
        judged = stored if example.input == "question 1" else later
        if example.source == CORRECTED:
            assert planned == 1
        elif base:
            assert planned == base * judged.gate
        else:
            assert planned == example_weight(stored.reward_intensity, stored.safety_score)


def test_what_was_imported_is_weighed_by_intensity_and_safety():
    talk = make_example(
        role="logical", stage="conversations", category="chat", kind="hybrid", input="q", output="a", source="file/x:1"
    )
    reward = RewardOutput(**dict.fromkeys(VALUES, 0.25))
    assert weight_by_reward(talk, reward) == example_weight(0.25, 0.25)
