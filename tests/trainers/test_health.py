"""The index, its components and its gates as pure functions: known values by hand, and what must hold for any input."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ledger.records import EvalRecord
from ledger.roles import ROLES
from ledger.rules.gates import GateSettings, judge
from tests.ledger.builders import passing_scores
from trainers.health.gate import GateState, gate_step, reduction
from trainers.health.index import (
    WEIGHTS,
    Components,
    alignments,
    correlation,
    cross_domain_stability,
    dimension_gradients,
    dimensional_coherence,
    gradient_stability,
    local_agreement,
    manifold_stability,
    micro_batch_gradients,
    relative_curvature,
)
from trainers.health.settings import HealthSettings

SETTINGS = HealthSettings()
unit = st.floats(0, 1)


def table(rows, columns, low=-1.0, high=1.0):
    cell = st.floats(low, high, allow_nan=False, width=32)
    return st.lists(st.lists(cell, min_size=columns, max_size=columns), min_size=rows, max_size=rows).map(torch.tensor)


@given(unit, unit, unit, unit, unit)
def test_the_index_is_the_weighted_sum_of_the_design(dcs, gvs, mss, cdrs, lrps):
    found = Components(dcs, gvs, mss, cdrs, lrps)
    assert found.rhi == pytest.approx(0.25 * dcs + 0.15 * gvs + 0.25 * mss + 0.20 * cdrs + 0.15 * lrps)
    assert 0 <= found.rhi <= 1 + 1e-9
    assert found.partial == dcs + gvs
    assert sum(WEIGHTS.values()) == pytest.approx(1)


def test_coherence_is_the_mean_of_positive_cosines_over_pairs():
    rows = torch.eye(4)
    with_ = torch.tensor([1.0, -1.0, 0.0, 0.0])
    across = torch.tensor([0.0, 0.0, 1.0, -1.0])
    rewards = torch.stack([with_, with_, -with_, across], dim=1)
    cosines = alignments(dimension_gradients(rows, rewards))
    assert cosines[0].tolist() == pytest.approx([1, 1, -1, 0], abs=1e-6)
    found = dimensional_coherence(rows, rewards, "abcd")
    assert found.value == pytest.approx(1 / 6)
    assert found.parts["most_opposed"][2] == pytest.approx(-1)
    assert found.parts["negative_pairs"] == 2
    assert dimensional_coherence(rows, with_[:, None].expand(-1, 7), "abcdefg").value == pytest.approx(1)
    alone = torch.stack([with_, torch.ones(4)], dim=1)
    assert dimensional_coherence(rows, alone, "ab").value == 0, "one dimension that varies cannot be coherent"


def test_what_all_answers_share_is_no_coherence():
    """A constant added to a dimension's rewards changes nothing: not its mean is compared."""
    torch.manual_seed(1)
    rows, rewards = torch.randn(12, 30) + 5, torch.randn(12, 5)
    before = dimensional_coherence(rows, rewards, "abcde").value
    after = dimensional_coherence(rows, rewards + torch.tensor([3.0, -3.0, 1.0, 0.0, 9.0]), "abcde").value
    assert before == pytest.approx(after, abs=1e-4)
    assert before < 0.5


def test_gradient_stability_by_hand():
    same = torch.ones(4, 3)
    assert gradient_stability(same, 0.5).value == pytest.approx(1)
    apart = torch.eye(4)  # nothing in common: variance 1 - 1/4 over a squared mean norm of 1
    assert gradient_stability(apart, 0.5).parts["noise"] == pytest.approx(0.75)
    assert gradient_stability(apart, 0.75).value == pytest.approx(0.5)
    exploding = apart.clone()
    exploding[0] *= 1e6
    assert gradient_stability(exploding, 0.5).parts["noise"] == pytest.approx(3, abs=1e-3), "B - 1"
    assert gradient_stability(torch.tensor([[1.0], [math.nan]]), 0.5).value == 0
    assert gradient_stability(torch.zeros(3, 2), 0.5).value == 0
    assert micro_batch_gradients(torch.tensor([[1.0], [2.0], [3.0], [6.0]]), 2).tolist() == [[2.0], [4.0]]


def test_stability_of_the_manifold_by_hand():
    torch.manual_seed(2)
    states, flat = torch.randn(8, 16), torch.ones(8)
    unchanged = manifold_stability(states, 3 * states + 1, (flat, flat, flat), 2.0)
    assert unchanged.value == pytest.approx(1), "scale and offset of a state say nothing about likeness"
    assert manifold_stability(states, torch.randn(8, 16), (flat, flat, flat), 2.0).value < 0.6
    k = relative_curvature(torch.tensor([3.0, 1.0]), torch.tensor([1.0, 1.0]), torch.tensor([2.0, 1.0]))
    assert k.tolist() == pytest.approx([4 * (3 - 2 + 2) / 2, 0])
    rough = manifold_stability(states, states, (torch.tensor([9.0, 1] * 4), flat, flat), 2.0)
    assert rough.parts["rdm_correlation"] == pytest.approx(1)
    assert rough.value < 0.75


def test_cross_domain_stability_by_hand():
    rewards = torch.tensor([[0.1, 0.2], [0.5, 0.4], [0.2, 0.1], [0.4, 0.7]])
    whole = rewards.mean(1)
    categories = ["a", "a", "b", "b"]
    found = cross_domain_stability(rewards, whole, rewards, categories)
    assert found.parts["contradictions"] == 0
    assert found.parts["consistency"] == pytest.approx(1)
    assert found.value == pytest.approx(found.parts["entropy"] ** (1 / 3))
    against = cross_domain_stability(rewards, -whole, rewards, categories)
    assert against.parts["contradictions"] == 1
    assert against.value == 0
    one_domain = rewards.clone()
    one_domain[2:] = 0.3
    assert cross_domain_stability(one_domain, whole, one_domain, categories).value == 0
    assert cross_domain_stability(rewards, whole, -rewards, categories).value == 0
    without = cross_domain_stability(rewards, whole, rewards, categories, scalar_given=False)
    assert without.value == pytest.approx(found.parts["entropy"] ** 0.5)
    assert cross_domain_stability(rewards, whole, rewards, ["a", "b", "c", "d"]).value == 0


def test_local_agreement_by_hand():
    wholes = torch.tensor([[0.1, 1.0], [0.5, 0.0], [0.9, -1.0]])
    assert local_agreement(wholes / 2, wholes).value == pytest.approx(1)
    assert local_agreement(-wholes, wholes).value == 0
    half = torch.stack([wholes[:, 0], torch.zeros(3)], dim=1)
    assert local_agreement(half, wholes).value == pytest.approx(0.5)


@given(table(6, 4), table(6, 9, -1e3, 1e3), table(6, 4), st.lists(st.sampled_from("ab"), min_size=6, max_size=6))
def test_every_component_is_in_the_unit_interval_whatever_comes(rewards, rows, again, categories):
    losses = [rows[:, i].abs() for i in range(3)]
    values = (
        dimensional_coherence(rows, rewards, "abcd").value,
        gradient_stability(rows, 0.5).value,
        manifold_stability(rows, again, losses, 2.0).value,
        cross_domain_stability(rewards, rewards[:, 0], again, categories).value,
        local_agreement(again, rewards).value,
    )
    assert all(0 <= value <= 1 for value in values)
    assert abs(correlation(rewards[:, 0], again[:, 0])) <= 1


@given(st.floats(-1, 3) | st.just(math.nan), st.booleans(), st.booleans())
def test_the_online_gate_does_what_the_design_says(partial, frozen, undoable):
    state, action = gate_step(GateState(frozen, undoable), partial, SETTINGS)
    value = 0.0 if math.isnan(partial) else partial
    assert (action == "update") == (value >= 0.50)
    assert state.frozen == (action == "freeze")
    if value < 0.20 or (frozen and value < 0.50):
        assert action == "freeze"
    elif value < 0.30:
        assert action == ("roll_back" if undoable else "skip")
    elif value < 0.50:
        assert action == "skip"
    if action == "roll_back":
        assert not state.undoable, "the same update is not taken back twice"


@given(st.lists(st.floats(0, 2), max_size=30))
def test_between_two_roll_backs_there_is_an_update(partials):
    state, actions = GateState(), []
    for partial in partials:
        state, action = gate_step(state, partial, SETTINGS)
        actions.append(action)
    last = None
    for action in actions:
        if action == "roll_back":
            assert last == "update"
        if action in ("update", "roll_back"):
            last = action


def test_a_frozen_run_waits_for_full_recovery():
    state, actions = GateState(), []
    for partial in (1.2, 0.25, 0.25, 0.1, 0.35, 0.49, 0.5, 0.45):
        state, action = gate_step(state, partial, SETTINGS)
        actions.append(action)
    assert actions == ["update", "roll_back", "skip", "freeze", "freeze", "freeze", "update", "skip"]


def test_an_index_that_falls_over_three_runs_asks_for_smaller_steps_then_for_a_smaller_adapter():
    asked = reduction([0.9, 0.85, 0.8, 0.75], lr=2e-4, rank=16, settings=SETTINGS)
    assert asked is not None
    assert (asked.lr, asked.rank) == (1e-4, 16)
    assert "0.850 → 0.800 → 0.750" in asked.reason
    asked = reduction([0.85, 0.8, 0.75], lr=3e-5, rank=16, settings=SETTINGS)
    assert asked is not None
    assert (asked.lr, asked.rank) == (3e-5, 8)
    assert reduction([0.85, 0.8, 0.75], lr=3e-5, rank=4, settings=SETTINGS) is None


@given(st.lists(unit, max_size=6))
def test_nothing_is_asked_for_unless_the_last_three_fall(indices):
    asked = reduction(indices, lr=2e-4, rank=16, settings=SETTINGS)
    falls = len(indices) >= 3 and indices[-3] > indices[-2] > indices[-1]
    assert (asked is not None) == falls


def test_thresholds_that_do_not_rise_are_refused():
    with pytest.raises(ValidationError, match="must rise"):
        HealthSettings(skip_below=0.1)


def scores(rhi=None, components=None):
    passed = [score for role in ROLES for score in passing_scores(role)]
    if rhi is not None:
        health = {"method": "measured", "value": rhi, "n": 15, "low": rhi, "high": rhi}
        details = {"components": components or {}}
        passed.append(EvalRecord(gen_id=1, role="logical", eval="rhi", **health, details=details))
    return passed


def test_acceptance_needs_the_index_only_where_there_is_one():
    parts = {"dcs": 0.9, "gvs": 0.4, "mss": 0.31, "cdrs": 0.8, "lrps": 0.9}
    assert judge(scores(), GateSettings(), rhi_min=0.7).accepted, "no reward model, no gate"
    assert judge(scores(0.71), GateSettings(), rhi_min=0.7).accepted
    assert judge(scores(0.60, parts), GateSettings(), rhi_min=None).accepted, "the gate is off"
    refused = judge(scores(0.60, parts), GateSettings(), rhi_min=0.7)
    assert refused.reason == "logical rhi: 0.600 is not above 0.70, weakest MSS 0.31"
    assert not judge(scores(0.70, parts), GateSettings(), rhi_min=0.7).accepted, "strict, like the others"
