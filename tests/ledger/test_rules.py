"""The pure rules: intervals, gates, interpolation, stop rule, karma, ages."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import LunaError
from ledger.intervals import wilson_interval
from ledger.records import EvalRecord, Stop
from ledger.roles import ROLES
from ledger.rules.ages import age_name
from ledger.rules.blends import largest_that_passes
from ledger.rules.gates import GATES, GateSettings, judge
from ledger.rules.karma import karma_state, karma_threshold
from ledger.rules.stop_rule import GenerationScores, StopRuleSettings, stop_decision, stopped_refusal
from tests.ledger.builders import make_eval, sha

shares = st.floats(0.0, 1.0)


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


# -- gates ---------------------------------------------------------------------------------------------------


def make_scores(recall=0.95, generalization=0.9, style_drift=0.1, n=100, probes=10) -> list[EvalRecord]:
    return [
        make_eval(role, name, value, n=probes if name == "style_drift" else n)
        for role in ROLES
        for name, value in zip(GATES, (recall, generalization, style_drift), strict=True)
    ]


def test_good_scores_in_all_roles_are_accepted():
    judgement = judge(make_scores(), GateSettings())
    assert (judgement.accepted, judgement.verdict, judgement.reason) == (True, "accepted", "all gates passed")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recall": 0.90}, "creative recall: 0.900 is not above 0.90"),
        ({"generalization": 0.85}, "creative generalization: 0.850 is not above 0.85"),
        ({"style_drift": 0.20}, "creative style_drift: 0.200 is not below 0.20"),
        ({"n": 99}, "creative recall: measured on 99 items, at least 100 needed"),
        ({"probes": 9}, "creative style_drift: measured with 9 probes, 10 needed"),
        ({"probes": 11}, "creative style_drift: measured with 11 probes, 10 needed"),
    ],
)
def test_a_score_on_its_bound_or_on_too_few_items_fails_and_says_so(change, message):
    judgement = judge(make_scores(**change), GateSettings())
    assert not judgement.accepted
    assert message in judgement.reason


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("gate", GATES)
def test_one_missing_score_of_one_role_rejects(role, gate):
    scores = [score for score in make_scores() if (score.role, score.eval) != (role, gate)]
    judgement = judge(scores, GateSettings())
    assert [(failure.role, failure.gate) for failure in judgement.failures] == [(role, gate)]
    assert judgement.reason == f"{role} {gate}: not measured"


def test_a_share_is_recorded_with_its_size_and_interval():
    record = EvalRecord.of_share(3, "logical", "recall", "exact", [True] * 81 + [False] * 182)
    assert (record.gen_id, record.role, record.eval, record.method) == (3, "logical", "recall", "exact")
    assert (record.value, record.n, record.details) == (81 / 263, 263, {})
    assert (record.low, record.high) == pytest.approx(wilson_interval(81, 263))
    with pytest.raises(LunaError, match="no item to measure recall of logical"):
        EvalRecord.of_share(3, "logical", "recall", "exact", [])


def test_a_generation_without_parent_is_not_asked_for_recall():
    scores = [score for score in make_scores() if score.eval != "recall"]
    defined = [EvalRecord.recall_by_definition(0, role) for role in ROLES]
    assert judge(scores + defined, GateSettings(), has_parent=False).accepted
    assert not judge(scores + defined, GateSettings()).accepted


@given(shares, shares, shares, shares, shares, shares)
def test_better_scores_never_fail_where_worse_ones_pass(recall, more, general, wider, drift, less):
    worse = judge(make_scores(recall, general, drift), GateSettings())
    better_scores = make_scores(max(recall, more), max(general, wider), min(drift, less))
    better = judge(better_scores, GateSettings())
    assert {(f.role, f.gate) for f in better.failures} <= {(f.role, f.gate) for f in worse.failures}


@given(shares, shares, shares)
def test_accepted_means_every_bound_holds(recall, general, drift):
    accepted = judge(make_scores(recall, general, drift), GateSettings()).accepted
    assert accepted == (recall > 0.90 and general > 0.85 and drift < 0.20)


# -- interpolation -------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0.01, 0.99), unique=True))
def test_the_largest_blend_that_passes_is_taken_and_no_smaller_one_is_tried(alphas):
    passing, tried = alphas[::2], []

    def attempt(alpha):
        tried.append(alpha)
        return f"blend {alpha}" if alpha in passing else None

    largest = max(passing, default=0.0)
    assert largest_that_passes(alphas, attempt) == (f"blend {largest}" if passing else None)
    assert tried == sorted((alpha for alpha in alphas if alpha >= largest), reverse=True)


@given(st.lists(st.floats(0.01, 0.99), unique=True))
def test_without_a_blend_that_passes_all_are_tried_and_none_taken(alphas):
    tried = []
    assert largest_that_passes(alphas, tried.append) is None
    assert tried == sorted(alphas, reverse=True)


# -- stop rule -----------------------------------------------------------------------------------------------


def make_generation(gen_id, parent_gen, generalization, drift, **by_role_drift) -> GenerationScores:
    return GenerationScores(
        gen_id,
        parent_gen,
        dict.fromkeys(ROLES, generalization),
        {role: by_role_drift.get(role, drift) for role in ROLES},
    )


def decide(*generations, last_stop_gen=None):
    return stop_decision(generations, last_stop_gen, StopRuleSettings())


@pytest.mark.parametrize(
    ("gains", "drifts", "stops"),
    [
        ((0.0, 0.0), (0.0, 0.2), True),
        ((0.0, 0.0), (0.2, 0.0), True),
        ((-0.1, 0.04), (0.2, 0.2), True),
        ((0.0, 0.0), (0.1, 0.1), False),  # exactly theta is not more than theta
        ((0.05, 0.0), (0.2, 0.2), False),  # exactly epsilon is not less than epsilon
        ((0.0, 0.05), (0.2, 0.2), False),
        ((0.0, 0.0), (0.0, 0.0), False),  # no gain alone is no reason
        ((0.2, 0.2), (0.5, 0.5), False),  # drifting while learning is the gates' affair
    ],
)
def test_two_generations_without_gain_of_which_one_drifts_stop_the_lineage(gains, drifts, stops):
    # Rejected children of G0: both are compared with G0.
    g0 = make_generation(0, None, 0.8, 0.3)
    g1 = make_generation(1, 0, 0.8 + gains[0], 0.3 + drifts[0])
    g2 = make_generation(2, 0, 0.8 + gains[1], 0.3 + drifts[1])
    decision = decide(g0, g1, g2)
    assert (decision is not None) == stops
    if decision:
        assert (decision.generations, decision.head) == ((1, 2), 0)
        assert decision.reason.endswith("Fix the data, not the size.")


def test_each_generation_is_compared_with_its_own_parent():
    g0, g1 = make_generation(0, None, 0.80, 0.0), make_generation(1, 0, 0.84, 0.0)
    assert decide(g0, g1, make_generation(2, 1, 0.88, 0.2)) is not None  # +0.04 and +0.04
    assert decide(g0, g1, make_generation(2, 0, 0.88, 0.2)) is None  # +0.04 and +0.08


def test_the_head_goes_back_to_before_both():
    line = [make_generation(n, n - 1 if n else None, 0.9, 0.0) for n in range(4)]
    decision = decide(*line, make_generation(4, 3, 0.9, 0.15))
    assert decision is not None
    assert (decision.generations, decision.head) == ((3, 4), 2)


def test_one_role_that_drifts_is_enough_and_gain_is_the_mean_of_the_roles():
    g0 = make_generation(0, None, 0.8, 0.0)
    g1 = make_generation(1, 0, 0.8, 0.0, creative=0.2)
    assert decide(g0, g1, make_generation(2, 0, 0.8, 0.0)) is not None
    lopsided = GenerationScores(2, 0, {"creative": 0.95, "logical": 0.8, "dialectical": 0.8}, g0.style_drift)
    assert decide(g0, g1, lopsided) is None  # 0.15 / 3 is exactly epsilon


def test_the_first_child_alone_never_stops_a_lineage():
    g0 = make_generation(0, None, 0.9, 0.0)
    assert decide(g0) is None
    assert decide(g0, make_generation(1, 0, 0.1, 1.0)) is None


def test_a_generation_without_parent_does_not_count():
    g0, g1 = make_generation(0, None, 0.2, 1.0), make_generation(1, None, 0.2, 1.0)
    assert decide(g0, g1, make_generation(2, 1, 0.2, 1.0)) is None


def test_missing_scores_never_stop_a_lineage():
    g0, g1 = make_generation(0, None, 0.9, 0.0), make_generation(1, 0, 0.9, 0.5)
    assert decide(g0, g1, GenerationScores(2, 0, {}, {})) is None


def test_after_a_stop_the_count_begins_anew():
    g0, g1 = make_generation(0, None, 0.9, 0.0), make_generation(1, 0, 0.9, 0.5)
    g2, g3, g4 = (make_generation(n, 0, 0.9, 0.5) for n in (2, 3, 4))
    assert decide(g0, g1, g2) is not None
    assert decide(g0, g1, g2, g3, last_stop_gen=2) is None
    assert decide(g0, g1, g2, g3, g4, last_stop_gen=2) is not None


@given(shares, shares, shares, shares, shares, shares)
def test_the_rule_fires_exactly_as_it_is_written(start, tone, first, first_tone, second, second_tone):
    g0 = make_generation(0, None, start, tone)
    decision = decide(g0, make_generation(1, 0, first, first_tone), make_generation(2, 1, second, second_tone))
    gains = [round(first - start, 9), round(second - first, 9)]
    drifts = [round(first_tone - tone, 9), round(second_tone - first_tone, 9)]
    assert (decision is not None) == (all(g < 0.05 for g in gains) and any(d > 0.1 for d in drifts))


def test_a_stopped_lineage_refuses_the_same_data_and_takes_new():
    stop = Stop(reason="Fix the data, not the size.", data_delta_shas=(sha("one"), sha("two")))
    assert "Fix the data" in (stopped_refusal(stop, sha("two")) or "")
    assert stopped_refusal(stop, sha("three")) is None
    assert stopped_refusal(None, sha("one")) is None


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
