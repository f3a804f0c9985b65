"""Roles to devices."""

from __future__ import annotations

import pytest

from cluster.placement import Placement, place_roles
from ledger.roles import ROLES

CASES = {
    0: [("creative", "logical", "dialectical")],
    1: [("creative", "logical", "dialectical")],
    2: [("creative", "logical"), ("dialectical",)],
    3: [("creative",), ("logical",), ("dialectical",)],
    4: [("creative",), ("logical",), ("dialectical",)],
    8: [("creative",), ("logical",), ("dialectical",)],
}


@pytest.mark.parametrize(("gpus", "groups"), CASES.items())
def test_roles_spread_over_the_gpus_there_are(gpus, groups):
    placements = place_roles(gpus)
    assert [placement.roles for placement in placements] == groups
    assert all(placement.gpus == (1 if gpus else 0) for placement in placements)


@pytest.mark.parametrize("gpus", range(12))
def test_every_role_is_placed_exactly_once(gpus):
    assert sorted(role for placement in place_roles(gpus) for role in placement.roles) == sorted(ROLES)


def test_a_placement_is_named_by_its_roles():
    assert Placement(("creative", "logical"), 1).name == "creative+logical"
