"""The figures of a stream of lessons."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.courses.scores import Marks, passed, score_course

NAMES = ("first", "second", "third")


def closed(*right):
    return Marks((-1.0,) * len(right), tuple(bool(one) for one in right))


def opened(*means):
    return Marks(tuple(means), None)


BASE = {"first": closed(0, 0, 0, 0), "second": opened(-3.0, -3.0), "third": closed(0, 1, 0, 0)}
COURSE = {
    (1, "first"): closed(1, 1, 1, 1),
    (1, "second"): opened(-2.5, -3.5),
    (2, "second"): opened(-1.0, -1.0),
    (2, "third"): closed(1, 1, 0, 0),
    (3, "third"): closed(1, 1, 1, 0),
    (3, "first"): closed(1, 1, 1, 0),
    (3, "second"): opened(-1.2, -2.0),
}


def test_a_forgotten_probe_lowers_backward_transfer() -> None:
    score = score_course(NAMES, BASE, COURSE)
    assert score.bwt is not None
    assert score.bwt.value == pytest.approx((-0.25 + 0.0) / 2)
    assert score.acc.value == pytest.approx((0.75 + 1.0 + 0.75) / 3)


def test_forward_transfer_counts_what_came_before_the_lesson() -> None:
    score = score_course(NAMES, BASE, COURSE)
    assert score.fwt == pytest.approx(0.5 - 0.25)
    assert score.plasticity == pytest.approx((1.0 + 1.0 + 0.75) / 3)


def test_an_open_answer_is_kept_within_a_quarter_of_a_nat() -> None:
    score = score_course(NAMES, BASE, COURSE)
    assert score.kept == 0.5
    assert score.lessons["second"].learned == 1.0


def test_a_joint_training_has_an_accuracy_and_no_transfer() -> None:
    score = score_course(NAMES, BASE, {(3, name): COURSE[3, name] for name in NAMES})
    assert score.acc.value > 0
    assert (score.bwt, score.fwt, score.plasticity, score.kept) == (None, None, None, None)


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_a_course_that_forgets_nothing_has_no_backward_transfer(right) -> None:
    marks = closed(*right)
    base = {name: closed(*[0] * len(right)) for name in ("one", "two")}
    score = score_course(("one", "two"), base, {(at, name): marks for at in (1, 2) for name in ("one", "two")})
    assert score.bwt is not None
    assert (score.bwt.value, score.bwt.half) == (0.0, 0.0)
    assert score.acc.value == pytest.approx(sum(right) / len(right))


def test_an_equally_likely_answer_is_not_learned() -> None:
    assert passed(opened(-1.0, -0.5), opened(-1.0, -1.0)) == [False, True]
