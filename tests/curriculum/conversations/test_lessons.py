"""Which stored answers become examples, and how strongly they teach."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from curriculum.conversations.lessons import conversation_examples
from curriculum.reward import DIMENSIONS, gate
from ledger.conversations import Label, LabelledTurn
from ledger.scores import Score

AT = "2026-01-01T00:00:00Z"


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
    assert taught(a_turn(label={"arousal": "high"}, score=a_score())) == [("answer 1", 0.8)], (
        "says nothing about good or bad"
    )


def test_broken_off_answers_and_those_of_the_base_teach_nothing_but_a_correction_of_one_does():
    assert taught(a_turn(finish_reason="aborted", label={"valence": 2})) == []
    assert taught(a_turn(finish_reason="aborted", label={"correction": "Whole."})) == [("Whole.", 1.0)]
    assert taught(a_turn(role="base", generation=None, adapter_sha=None, label={"valence": 2})) == []
    assert taught(a_turn(answer="  ", label={"valence": 2})) == []


@given(st.floats(-1, -0.5), st.sampled_from([None, {"valence": 2}]))
def test_an_unsafe_answer_is_never_learned_however_well_it_was_liked(safety, label):
    assert taught(a_turn(label=label, score=a_score(safety=safety))) == []


def test_the_same_answer_to_the_same_question_is_learned_once():
    twice = [a_turn(1, label={"valence": 1}), a_turn(2, label={"valence": 1}, message="question 1", answer="answer 1")]
    assert len(conversation_examples(twice)) == 1
