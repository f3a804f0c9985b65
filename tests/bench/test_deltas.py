"""The deltas that verdicts are measured on."""

from __future__ import annotations

from bench.deltas import DELTAS, flipped, nothing_new, shuffled_answers
from curriculum.agl.solve import solve
from curriculum.recipes.build import build_recipe
from curriculum.replay import with_answer
from ledger.roles import ROLES


def test_six_are_honest_and_six_are_not() -> None:
    assert [sum(delta.honest is kind for delta in DELTAS) for kind in (True, False)] == [6, 6]


def test_shuffled_answers_stay_in_their_category_and_leave_their_question() -> None:
    before = build_recipe("creative", 120, 1)
    after = shuffled_answers(before, 1)
    assert {e.input for e in after} <= {e.input for e in before}
    answers = {(e.category, e.input): e.output for e in before}
    moved = sum(answers[e.category, e.input] != e.output for e in after)
    assert moved > 0.8 * len(after)  # three truth values meet each other often


def test_flipped_puzzles_are_wrong_where_something_is_true_or_false() -> None:
    for example in flipped(lambda role, asked: [])[::50]:
        assert (solve(example.input) == example.output) == (example.output == "◑")


def test_nothing_new_takes_only_answers_that_ended() -> None:
    found = nothing_new(lambda role, asked: ["yes" if number % 2 else "" for number in range(len(asked))])
    assert {e.role for e in found} == set(ROLES)
    assert {e.output for e in found} == {"yes"}


def test_a_replaced_answer_makes_another_example() -> None:
    (example,) = build_recipe("logical", 1, 1)
    assert with_answer(example, "else").id != example.id
    assert with_answer(example, example.output) == example
