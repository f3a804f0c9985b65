"""Roles to groups, and groups to trainers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.placement import Placement, assign, keep_groups, place_roles
from ledger.roles import ROLES

CASES = {
    0: [("creative", "logical", "dialectical")],
    0.5: [("creative", "logical", "dialectical")],
    1: [("creative", "logical", "dialectical")],
    1.5: [("creative", "logical", "dialectical")],
    2: [("creative", "logical"), ("dialectical",)],
    3: [("creative",), ("logical",), ("dialectical",)],
    4: [("creative",), ("logical",), ("dialectical",)],
    8: [("creative",), ("logical",), ("dialectical",)],
}

GROUPS = st.sampled_from([place_roles(gpus) for gpus in (0, 0.4, 1, 2, 3)])


@pytest.mark.parametrize(("gpus", "groups"), CASES.items())
def test_roles_spread_over_the_gpus_there_are(gpus, groups):
    placements = place_roles(gpus)
    assert [placement.roles for placement in placements] == groups
    assert all(placement.gpus == min(gpus, 1) for placement in placements)


@given(st.floats(0, 12))
def test_every_role_is_placed_exactly_once_on_no_more_than_there_is(gpus):
    placements = place_roles(gpus)
    assert sorted(role for placement in placements for role in placement.roles) == sorted(ROLES)
    assert sum(placement.gpus for placement in placements) <= gpus


def test_a_placement_is_named_by_its_roles():
    assert Placement(("creative", "logical"), 1).name == "creative+logical"


def test_a_part_of_a_card_is_shared_and_a_whole_one_is_not():
    assert [Placement(ROLES, gpus).shares_its_card for gpus in (0, 0.4, 1)] == [False, True, False]


@given(GROUPS, GROUPS)
def test_a_resumed_run_keeps_its_groups_whatever_devices_there_are(recorded, now):
    kept = keep_groups(recorded, now)
    assert [group.roles for group in kept] == [group.roles for group in recorded]
    assert all((group.gpus > 0) == (before.gpus > 0) for group, before in zip(kept, recorded, strict=True))


def test_a_resumed_run_asks_for_what_a_worker_may_have_now():
    whole, part = place_roles(3), place_roles(0.5)
    assert [group.gpus for group in keep_groups(whole, part)] == [0.5] * 3
    assert keep_groups(whole, place_roles(0)) == whole, "what began on GPUs waits for one"


@given(st.sets(st.integers(0, 5)), st.sets(st.integers(0, 5)), st.sets(st.integers(0, 5)))
def test_a_group_works_on_its_own_trainer_or_as_the_guest_of_one_whose_group_is_done(waiting, idle, sharing):
    groups = [Placement(ROLES, float(number)) for number in range(6)]
    found = assign(*([groups[number] for number in sorted(numbers)] for numbers in (waiting, idle, sharing)))
    assert len(set(found.values())) == len(found), "a trainer does one thing at a time"
    for group, host in found.items():
        assert groups.index(group) in waiting
        assert groups.index(host) in idle
        assert group == host or (groups.index(group) in sharing and groups.index(host) not in waiting)
    for number in waiting & idle:
        assert found[groups[number]] == groups[number]
    if waiting & sharing - idle and idle - waiting:
        assert any(group != host for group, host in found.items()), "no device stands idle while a guest waits"
