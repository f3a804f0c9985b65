"""When training stops, and where the head goes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.records import Stop
from ledger.roles import ROLES
from ledger.rules.stop_rule import (
    GenerationScores,
    StopRuleSettings,
    gain_of,
    generation_scores,
    stop_decision,
    stopped_refusal,
)
from tests.ledger.builders import compared, make_eval, make_share, make_trio, sha


def make_generation(gen_id, parent_gen, gain, drift, **by_role_drift) -> GenerationScores:
    """Gains over the parent on its own items, and the style that it shows (not its increase)."""
    drifts = {role: by_role_drift.get(role, drift) for role in ROLES}
    return GenerationScores(gen_id, parent_gen, dict.fromkeys(ROLES, gain), drifts)


def decide(*generations, last_stop_gen=None):
    return stop_decision(generations, last_stop_gen, StopRuleSettings())


G0 = make_generation(0, None, 0.5, 0.3)


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
        ((0.3, 0.3), (0.5, 0.5), False),  # drifting while learning is the gates' affair
    ],
)
def test_two_generations_without_gain_of_which_one_drifts_stop_the_lineage(gains, drifts, stops):
    # Rejected children of G0: both are compared with G0.
    g1, g2 = (make_generation(n, 0, gains[n - 1], 0.3 + drifts[n - 1]) for n in (1, 2))
    decision = decide(G0, g1, g2)
    assert (decision is not None) == stops
    if decision:
        assert (decision.generations, decision.head) == ((1, 2), 0)
        assert decision.reason.endswith("Fix the data, not the size.")


def test_the_head_goes_back_to_before_both():
    line = [make_generation(n, n - 1 if n else None, 0.0, 0.0) for n in range(4)]
    decision = decide(*line, make_generation(4, 3, 0.0, 0.15))
    assert decision is not None
    assert (decision.generations, decision.head) == ((3, 4), 2)


def test_one_bad_candidate_does_not_undo_an_accepted_generation_that_learned():
    """G2 learned much, G3 is a bad delta: the head stays at G2. On different items G2 looked like no gain at all."""
    line = [make_generation(0, None, 0.5, 0.0), make_generation(1, 0, 0.4, 0.0), make_generation(2, 1, 0.45, 0.0)]
    bad = make_generation(3, 2, -0.2, 0.6)
    assert decide(*line, bad) is None
    again = decide(*line, bad, make_generation(4, 2, -0.2, 0.6))
    assert again is not None
    assert (again.generations, again.head) == ((3, 4), 2)


def test_one_role_that_drifts_is_enough_and_gain_is_the_mean_of_the_roles():
    g1 = make_generation(1, 0, 0.0, 0.3, creative=0.5)
    assert decide(G0, g1, make_generation(2, 0, 0.0, 0.3)) is not None
    lopsided = replace(make_generation(2, 0, 0.0, 0.3), gain={"creative": 0.15, "logical": 0.0, "dialectical": 0.0})
    assert decide(G0, g1, lopsided) is None  # 0.15 / 3 is exactly epsilon


def test_the_first_child_alone_never_stops_a_lineage():
    assert decide(G0) is None
    assert decide(G0, make_generation(1, 0, -1.0, 1.0)) is None


def test_a_generation_without_parent_does_not_count():
    g0, g1 = make_generation(0, None, 0.0, 1.0), make_generation(1, None, 0.0, 1.0)
    assert decide(g0, g1, make_generation(2, 1, 0.0, 1.0)) is None


def test_missing_scores_never_stop_a_lineage():
    assert decide(G0, make_generation(1, 0, 0.0, 0.9), GenerationScores(2, 0, {}, {})) is None
    assert decide(G0, GenerationScores(1, 0, {}, {}), make_generation(2, 0, 0.0, 0.9)) is None


def test_generations_of_earlier_versions_never_stop_a_lineage():
    """Their records hold no comparison with the parent, and their style was probed with other phrases."""
    old = [make_eval(role, name, 0.9) for role in ROLES for name in ("generalization", "style_drift")]
    scores = [generation_scores(make_trio(0), old), generation_scores(make_trio(1), old)]
    assert all((one.gain, one.style_drift) == ({}, {}) for one in scores)
    first = replace(generation_scores(make_trio(2), compared(2, 0.0, 0.9)), parent_gen=0)
    second = replace(generation_scores(make_trio(3), compared(3, 0.0, 0.9)), parent_gen=0)
    assert decide(*scores, first, second) is None


def test_after_a_stop_the_count_begins_anew():
    g1, g2, g3, g4 = (make_generation(n, 0, 0.0, 0.5) for n in (1, 2, 3, 4))
    assert decide(G0, g1, g2) is not None
    assert decide(G0, g1, g2, g3, last_stop_gen=2) is None
    assert decide(G0, g1, g2, g3, g4, last_stop_gen=2) is not None


def test_a_role_gains_by_its_closed_and_open_items_weighted_by_their_number():
    closed = {"n": 100, "child": 60, "parent": 40, "won": 25, "lost": 5}
    fresh = {"n": 300, "better": 270, "gain": 0.4, "low": 0.3, "high": 0.5}

    def gain(**details):
        return gain_of(make_share("logical", "generalization", 9, 10, **details))

    assert gain(closed=closed) == pytest.approx(0.2)
    assert gain(open=fresh) == pytest.approx(0.4)
    assert gain(closed=closed, open=fresh) == pytest.approx((0.2 * 100 + 0.4 * 300) / 400)
    assert gain(closed={"n": 0}, open={"n": 0}) is None
    assert gain() is None


# -- stories: a lineage with acceptances, rejections and roll backs -------------------------------------------

outcomes = st.tuples(
    st.sampled_from(["accept", "accept", "reject", "back"]),
    st.sampled_from([-0.2, 0.0, 0.04, 0.05, 0.4]),
    st.sampled_from([0.0, 0.05, 0.16, 0.4]),
    st.integers(0, 20),
)


@given(st.lists(outcomes, min_size=2, max_size=20))
def test_the_head_only_goes_back_and_never_past_a_generation_that_gained(story):
    judged: dict[int, GenerationScores] = {}
    head, last_stop = None, None
    for kind, gain, tone, number in story:
        line = ancestry(judged, head)
        if kind == "back":
            head = line[number % len(line)] if line else None
            continue
        gen_id = len(judged)
        judged[gen_id] = new = make_generation(gen_id, head, gain, tone)
        decision = decide(*judged.values(), last_stop_gen=last_stop)
        if decision is None:
            head = gen_id if kind == "accept" else head
            continue
        pair = [judged[n] for n in decision.generations]
        assert decision.head in line  # never forward, whatever was rolled back
        assert pair[1] is new
        assert all(last_stop is None or one.gen_id > last_stop for one in pair)
        assert all(one.parent_gen is not None and max(one.gain.values()) < 0.05 for one in pair)
        assert any(tone_of(one) - tone_of(judged[one.parent_gen]) > 0.1 for one in pair)
        undone = [n for n in line if n > decision.head]
        assert set(undone) <= set(decision.generations)  # so none of the undone gained epsilon
        head, last_stop = decision.head, gen_id


def ancestry(judged, gen_id) -> list[int]:
    found = []
    while gen_id is not None:
        found.append(gen_id)
        gen_id = judged[gen_id].parent_gen
    return found


def tone_of(scores: GenerationScores) -> float:
    return scores.style_drift["logical"]


def test_a_stopped_lineage_refuses_the_same_data_and_takes_new():
    stop = Stop(reason="Fix the data, not the size.", data_delta_shas=(sha("one"), sha("two")))
    assert "Fix the data" in (stopped_refusal(stop, sha("two")) or "")
    assert stopped_refusal(stop, sha("three")) is None
    assert stopped_refusal(None, sha("one")) is None
