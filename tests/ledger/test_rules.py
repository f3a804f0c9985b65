"""The pure rules of numbers: intervals, pairs of models, certainty, karma, ages."""

from __future__ import annotations

from itertools import pairwise
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import LunaError
from ledger.intervals import mean_interval, wilson_interval
from ledger.records import EvalRecord
from ledger.rules.ages import age_name
from ledger.rules.certainty import is_certain
from ledger.rules.karma import karma_state, karma_threshold
from ledger.rules.paired import paired_p

# -- intervals: reference values from Newcombe 1998 (Statistics in Medicine 17:857), table I, method 3 -----


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_equals_newcombes_table(successes, n, low, high):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(0, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_lies_in_the_unit_and_holds_the_share(case):
    successes, n = case
    low, high = wilson_interval(successes, n)
    assert 0.0 <= low < high <= 1.0
    if n:
        assert low <= successes / n <= high


@given(st.integers(0, 200), st.integers(1, 200))
def test_wilson_interval_mirrors_failures(successes, more):
    n = successes + more
    low, high = wilson_interval(successes, n)
    assert wilson_interval(n - successes, n) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@given(st.integers(1, 50), st.integers(2, 20))
def test_more_items_of_the_same_share_narrow_the_interval(n, factor):
    low, high = wilson_interval(n // 2, n)
    narrow_low, narrow_high = wilson_interval(n // 2 * factor, n * factor)
    assert narrow_high - narrow_low < high - low


@pytest.mark.parametrize(("successes", "n"), [(-1, 5), (6, 5)])
def test_wilson_interval_refuses_impossible_counts(successes, n):
    with pytest.raises(ValueError, match="between 0 and n"):
        wilson_interval(successes, n)


def test_a_mean_has_the_normal_interval_and_a_single_value_tells_nothing_of_its_spread():
    # Nine values of spread 3: the mean's standard error is 1.
    values = [-3.0, 3.0, -3.0, 3.0, -3.0, 3.0, -3.0, 3.0, 0.0]
    assert mean_interval(values) == pytest.approx((0.0, -1.959964, 1.959964), abs=1e-6)
    assert mean_interval([2.0]) == (2.0, -inf, inf)
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])


def test_a_share_is_recorded_with_its_size_and_interval():
    record = EvalRecord.of_share(3, "logical", "recall", "exact", [True] * 81 + [False] * 182)
    assert (record.gen_id, record.role, record.eval, record.method) == (3, "logical", "recall", "exact")
    assert (record.value, record.n, record.details) == (81 / 263, 263, {})
    assert (record.low, record.high) == pytest.approx(wilson_interval(81, 263))
    with pytest.raises(LunaError, match="no item to measure recall of logical"):
        EvalRecord.of_share(3, "logical", "recall", "exact", [])


# -- two models on the same items, and growing sets ---------------------------------------------------------


@pytest.mark.parametrize(
    ("won", "lost", "p"), [(0, 0, 1.0), (4, 0, 1 / 16), (5, 0, 1 / 32), (9, 1, 11 / 1024), (1, 1, 0.75), (0, 3, 1.0)]
)
def test_the_paired_test_is_the_fair_coins_tail(won, lost, p):
    assert paired_p(won, lost) == p


@given(st.integers(1, 60), st.integers(0, 60))
def test_a_win_more_is_less_likely_by_chance_and_both_tails_make_one(won, lost):
    assert paired_p(won, lost) + paired_p(lost + 1, won - 1) == pytest.approx(1.0)
    assert paired_p(won + 1, lost) < paired_p(won, lost) <= paired_p(won, lost + 1)


@given(st.integers(0, 600).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.85, 0.9]))
def test_what_is_certain_lies_on_the_side_that_its_share_says(case, bound):
    passed, asked = case
    if is_certain(passed, asked, bound):
        low, high = wilson_interval(passed, asked)
        assert (passed / asked > bound) == (low > bound) != (high < bound)
    assert not is_certain(passed, asked, bound, z=100.0)


def test_a_set_ends_early_only_where_the_answer_is_clear():
    assert is_certain(97, 100, 0.90)
    assert is_certain(70, 100, 0.85)
    assert not is_certain(95, 100, 0.90)
    assert not is_certain(87, 100, 0.85)


# -- karma and ages ------------------------------------------------------------------------------------------


def test_karma_thresholds_follow_the_list_and_then_double():
    assert [karma_threshold(age) for age in range(8)] == [100, 250, 500, 1000, 2000, 4000, 8000, 16000]
    assert all(later > earlier for earlier, later in pairwise(map(karma_threshold, range(40))))


@given(st.floats(-1e6, 1e6), st.integers(0, 20))
def test_karma_progress_is_a_share_that_reaches_one_exactly_when_due(earned, age):
    karma = karma_state(earned, age)
    assert 0.0 <= karma.progress <= 1.0
    assert karma.due == (karma.missing == 0.0)
    if karma.due:
        assert karma.progress == 1.0


def test_ages_have_names_and_the_rest_is_advanced():
    names = ["mechanical", "vocabulary", "patterns", "understanding", "reasoning", "personality"]
    assert [age_name(age) for age in range(6)] == names
    assert (age_name(6), age_name(60)) == ("advanced", "advanced")
    for rule in (age_name, karma_threshold):
        with pytest.raises(ValueError, match="0 or more"):
            rule(-1)
