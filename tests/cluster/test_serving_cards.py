"""What serving asks Ray for, and what trainers keep (check C7): by a table, and wherever Ray puts them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.devices import RayNode
from cluster.placement import Placement, place_roles
from cluster.plan import Plan, ServingShare, plan_run
from cluster.plan.groups import gpus_for_trainers
from cluster.plan.serving import Lent, lend
from ledger.errors import LunaError
from ledger.roles import ROLES
from tests.cluster.test_rig_plan import card, wanted


def nodes(*gpus: float) -> list[RayNode]:
    return [RayNode(f"n{at}", f"host-{at}", float(own)) for at, own in enumerate(gpus)]


def lent(rig: list[RayNode], serving: ServingShare) -> Lent:
    """Beside the groups that all cards would be given to."""
    return lend(rig, place_roles(sum(node.gpus for node in rig)), serving)


@pytest.mark.parametrize(
    ("gpus", "replicas", "share", "each", "left"),
    [
        ((0,), 1, 0.4, 0.0, 0.0),
        ((0, 0), 2, 0.4, 0.0, 0.0),
        ((1,), 1, 0.4, 0.4, 0.6),
        ((1,), 2, 0.4, 0.4, 0.2),
        ((0, 1), 1, 0.25, 0.25, 0.75),
        ((0.5,), 1, 0.4, 0.4, 0.1),
        ((2,), 1, 0.4, 1.0, 1.0),
        ((2,), 2, 0.4, 0.5, 1.0),
        ((1, 1), 1, 0.4, 1.0, 1.0),
        ((4,), 1, 0.4, 1.0, 3.0),
        ((4,), 2, 0.4, 0.5, 3.0),
        ((4,), 2, 0.6, 1.0, 2.0),
        ((3, 3), 2, 0.4, 1.0, 4.0),
        ((8,), 3, 0.9, 1.0, 5.0),
    ],
)
def test_a_replica_has_a_card_where_there_are_some_to_spare_and_a_part_where_there_are_not(
    gpus: tuple[float, ...], replicas: int, share: float, each: float, left: float
) -> None:
    found = lent(nodes(*gpus), ServingShare(replicas, share))
    assert (found.each, found.left) == (each, left)


def test_replicas_that_share_a_card_stay_on_its_node() -> None:
    assert lent(nodes(3, 1), ServingShare(2, 0.4)) == Lent(0.5, 3.0, "n1")
    assert lent(nodes(4), ServingShare(2, 0.4)).node == ""
    assert lent(nodes(2, 1), ServingShare(1, 0.4)).node == ""


def test_beside_groups_that_leave_cards_free_each_replica_has_one() -> None:
    assert lend(nodes(4), (Placement(ROLES, 1),), ServingShare(2, 0.4)).each == 1.0
    assert lend(nodes(4), (Placement(ROLES, 1, workers=3),), ServingShare(2, 0.4)).each == 0.5
    assert lend(nodes(2), (Placement(ROLES, 0.6),), ServingShare(1, 0.4)).each == 0.4, "the plan has it so"


@pytest.mark.parametrize(
    ("gpus", "replicas", "share", "fits"),
    [
        ((1,), 2, 0.5, "replicas = 1 or gpu_memory_utilization below 0.5"),
        ((1,), 3, 0.4, "replicas = 2 or gpu_memory_utilization below 0.3333"),
        ((1,), 1, 1.0, "gpu_memory_utilization below 1"),
        ((2,), 2, 0.6, "replicas = 1 or gpu_memory_utilization of at most 0.5"),
        ((1, 2), 4, 0.3, "replicas = 2 or gpu_memory_utilization of at most 0.25"),
    ],
)
def test_replicas_that_would_leave_trainers_nothing_are_refused_with_what_fits(
    gpus: tuple[float, ...], replicas: int, share: float, fits: str
) -> None:
    with pytest.raises(LunaError) as refused:
        lent(nodes(*gpus), ServingShare(replicas, share))
    assert f"replicas = {replicas} with gpu_memory_utilization = {share:g}" in str(refused.value)
    assert str(refused.value).endswith(f"What fits: {fits}.")


def test_on_one_card_trainers_ask_for_what_the_server_leaves() -> None:
    plan = plan_run(wanted(), [card()], ServingShare(1, 0.4))
    assert isinstance(plan, Plan)
    found = lend(nodes(1), plan.placements, ServingShare(1, 0.4))
    assert [place.gpus for place in plan.placements] == [found.left] == [0.6]
    assert [place.gpus for place in place_roles(gpus_for_trainers(nodes(1), ServingShare(1, 0.4)))] == [0.6]


def test_trainers_leave_a_running_server_what_it_holds_whatever_the_settings_say_by_now() -> None:
    assert gpus_for_trainers(nodes(1), ServingShare(1, 0.4, gpus=0.3)) == 0.7
    assert gpus_for_trainers(nodes(4), ServingShare(2, 0.4, gpus=1.0)) == 2.0
    assert gpus_for_trainers(nodes(2), ServingShare(1, 0.4, gpus=0.0)) == 2.0, "an earlier version's asks for nothing"
    plan = plan_run(wanted(), [card(0), card(1)], ServingShare(1, 0.4, gpus=0.4))
    assert isinstance(plan, Plan)
    assert [served.gpus for served in plan.serving] == [0.4]


def test_where_the_server_has_the_last_card_trainers_wait_for_it_and_do_not_go_to_the_cpu() -> None:
    assert gpus_for_trainers(nodes(1), ServingShare(1, 0.4, gpus=1.0)) == 1.0
    assert gpus_for_trainers(nodes(1), ServingShare(3, 0.4)) == 1.0


# -- what holds for every rig ----------------------------------------------------------------------------------------

RIGS = st.lists(st.integers(0, 4), min_size=1, max_size=4).map(lambda gpus: nodes(*gpus))
SERVING = st.builds(ServingShare, st.integers(1, 4), st.sampled_from([0.15, 0.25, 0.4, 0.5, 0.9]))


class Cards:
    """What is free of each card. Within a node Ray takes the card that fits best; the node is anybody's guess."""

    def __init__(self, rig: list[RayNode]) -> None:
        self.free = {node.node: [1.0] * int(node.gpus) for node in rig}

    def take(self, gpus: float, draw: Any, node: str = "") -> tuple[str, int]:
        fits = [name for name, cards in self.free.items() if any(own >= gpus - 1e-9 for own in cards)]
        assert fits, f"no card has {gpus} free: {self.free}"
        assert not node or node in fits, f"{node} has not {gpus} free: {self.free}"
        name = node or draw(st.sampled_from(fits))
        at = min((own, at) for at, own in enumerate(self.free[name]) if own >= gpus - 1e-9)[1]
        self.free[name][at] -= gpus
        return name, at


@settings(max_examples=300)
@given(RIGS, SERVING, st.data())
def test_wherever_ray_puts_the_replicas_trainers_find_what_was_left_to_them(
    rig: list[RayNode], serving: ServingShare, data: Any
) -> None:
    total = sum(node.gpus for node in rig)
    groups = data.draw(st.sampled_from([place_roles(total), (Placement(ROLES, min(total, 1)),)]))
    try:
        found = lend(rig, groups, serving)
    except LunaError:
        assert serving.replicas >= total
        assert serving.replicas * serving.share >= 1.0
        return
    if not total:
        assert (found.each, found.left) == (0, 0)
        return
    cards = Cards(rig)
    engines = [cards.take(found.each, data.draw, found.node) for _ in range(serving.replicas)]
    assert found.each >= min(1.0, serving.share) - 1e-4
    trainers = [cards.take(group.gpus, data.draw) for group in place_roles(found.left)]
    assert len(set(trainers)) == len(trainers)
    if total > 1:
        assert not set(engines) & set(trainers), "a card is shared only where there is no other"
    else:
        assert found.each * serving.replicas + found.left == pytest.approx(1.0)


@settings(max_examples=60)
@given(st.integers(1, 6), SERVING, st.sampled_from([50, 5000]))
def test_it_says_what_the_plan_says_of_equal_cards(count: int, serving: ServingShare, steps: int) -> None:
    plan = plan_run(wanted(count=64, steps=steps), [card(at) for at in range(count)], serving)
    if isinstance(plan, Plan):
        found = lend(nodes(count), plan.placements, serving)
        assert {served.gpus for served in plan.serving} == {found.each}
        whole = [group for group in plan.placements if group.gpus == 1]
        assert sum(group.workers for group in whole) <= found.left + 1e-9
