"""Curriculum order, replay and the mix of a generation."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curriculum.example import STAGES, make_example
from curriculum.mix import curriculum_order, mix, shuffle_within_stages
from curriculum.replay import sample_replay
from ledger.errors import LunaError
from ledger.roles import ROLES


def make(number, role="logical", stage="fundamentals"):
    return make_example(
        role=role, stage=stage, category="x", kind="hybrid", input=f"question {number}", output=f"answer {number}"
    )


def many(n, role="logical", start=0):
    return [make(number, role, STAGES[number % 4]) for number in range(start, start + n)]


example_lists = st.lists(
    st.builds(make, st.integers(0, 60), st.sampled_from(ROLES), st.sampled_from(STAGES)), max_size=60
)


@given(example_lists)
def test_stages_come_in_order_and_keep_their_inner_order(examples):
    ordered = curriculum_order(examples)
    places = [STAGES.index(example.stage) for example in ordered]
    assert places == sorted(places)
    for stage in STAGES:
        assert [e for e in ordered if e.stage == stage] == [e for e in examples if e.stage == stage]


def test_a_shuffle_stays_within_stages_and_follows_the_seed():
    examples = many(80)
    shuffled = shuffle_within_stages(examples, 1)
    assert [example.stage for example in shuffled] == [example.stage for example in curriculum_order(examples)]
    assert shuffled == shuffle_within_stages(examples[::-1], 1)
    assert shuffled != shuffle_within_stages(examples, 2)
    assert sorted(shuffled, key=lambda e: e.id) == sorted(examples, key=lambda e: e.id)


def test_replay_draws_k_of_every_role_and_less_where_there_is_less():
    parent = many(300, "creative") + many(300, "logical") + many(30, "dialectical")
    drawn = sample_replay(parent, k=100, seed="abc")
    assert [sum(e.role == role for e in drawn) for role in ROLES] == [100, 100, 30]


def test_replay_follows_the_parent_and_not_the_order_of_its_examples():
    parent = many(400)
    assert sample_replay(parent, seed="abc") == sample_replay(parent[::-1], seed="abc")
    assert sample_replay(parent, seed="abc") != sample_replay(parent, seed="abd")


@given(example_lists, example_lists, st.integers(0, 30))
@settings(deadline=None)
def test_replay_is_part_of_the_parent_without_repeats_or_what_is_new(parent, delta, k):
    drawn = sample_replay(parent, delta, k=k, seed="s")
    ids = [example.id for example in drawn]
    assert len(set(ids)) == len(ids)
    assert set(ids) <= {e.id for e in parent} - {e.id for e in delta}
    assert drawn == curriculum_order(drawn)
    assert all(sum(e.role == role for e in drawn) <= k for role in ROLES)


def test_a_negative_k_is_refused():
    with pytest.raises(LunaError, match="-1"):
        sample_replay(many(3), k=-1, seed="s")


def test_the_mix_keeps_the_deltas_order_and_spreads_the_replay_evenly():
    replay, delta = many(40), many(80, start=100)
    order = mix(delta, replay, seed=3)
    old = {example.id for example in replay}
    for role in ROLES:
        own = [example for example in order if example.role == role]
        new = [example for example in own if example.id not in old]
        assert new == [example for example in shuffle_within_stages(delta, 3) if example.role == role]
        assert [e for e in own if e.id in old] == [e for e in curriculum_order(replay) if e.role == role]
        halves = own[: len(own) // 2], own[len(own) // 2 :]
        counts = [sum(example.id in old for example in half) for half in halves]
        assert abs(counts[0] - counts[1]) <= 1


def test_what_is_replayed_and_new_comes_once():
    examples = many(20)
    assert len(mix(examples, examples[:5], seed=1)) == 20
