"""Where a generation trains: by a table of rigs (check C1), and what holds for every rig."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.gpu import QWEN2_HALF_BILLION
from cluster.devices import CPU, Device
from cluster.plan import BaseShape, CannotRun, Plan, RoleRows, ServingShare, Wanted, plan_run
from cluster.plan.cards import card_of
from cluster.plan.seating import needed_bytes
from ledger.roles import ROLES, Role

GIB = 1 << 30
HALF_BILLION = BaseShape.of_config(QWEN2_HALF_BILLION)
SEVEN_BILLION = BaseShape.of_config(
    {
        "num_hidden_layers": 28, "hidden_size": 3584, "intermediate_size": 18_944, "num_attention_heads": 28,
        "num_key_value_heads": 4, "vocab_size": 152_064, "tie_word_embeddings": False,
    }
)  # fmt: skip
"""Qwen2.5-7B's published config."""


def rows(role: Role, count: int = 8, tokens: float = 45, longest: int = 256, steps: int = 2000) -> RoleRows:
    return RoleRows(role, count, tokens, longest, 8, 20, steps=steps)


def wanted(shape: BaseShape = HALF_BILLION, **changes: Any) -> Wanted:
    return Wanted(shape, 32, tuple(rows(role, **changes) for role in ROLES))


def card(
    index: int = 0, gib: float = 80, free: float | None = None, name: str = "NVIDIA H100", node: str = "a"
) -> Device:
    capability = "9.0" if "H100" in name else "8.9"
    return Device(
        node, index, "cuda", name, capability, int(gib * GIB), int((gib - 0.5 if free is None else free) * GIB)
    )


def cpu(gib: float = 64, node: str = "a") -> Device:
    return Device(node, 0, CPU, "CPU", "16", int(gib * GIB), int(gib * GIB), share=0.0)


def planned(asked: Wanted, devices: list[Device], serving: ServingShare | None = None) -> Plan:
    found = plan_run(asked, devices, serving)
    assert isinstance(found, Plan), str(found)
    return found


def groups(plan: Plan) -> list[str]:
    return [place.name for place in plan.placements]


def test_without_a_card_the_trio_trains_in_one_process_on_the_cpu() -> None:
    plan = planned(wanted(), [cpu()])
    assert [(place.roles, place.gpus, place.workers) for place in plan.placements] == [(ROLES, 0, 1)]


@pytest.mark.parametrize(
    ("cards", "trainers", "busy"), [(1, 1, 1), (2, 2, 2), (3, 3, 3), (4, 3, 3), (6, 3, 6), (8, 3, 6)]
)
def test_a_long_course_of_many_rows_takes_the_cards_that_make_it_faster(cards: int, trainers: int, busy: int) -> None:
    plan = planned(wanted(count=64, tokens=200, steps=20_000), [cpu(), *(card(at) for at in range(cards))])
    assert len(plan.seats) <= trainers
    assert cards - len(plan.idle) == sum(place.workers for place in plan.placements) <= cards
    assert sum(place.workers for place in plan.placements) >= min(busy, cards) - 1


def test_a_short_course_stays_on_one_card_since_a_second_trainer_would_start_longer_than_it_saves() -> None:
    plan = planned(wanted(steps=30), [card(at) for at in range(4)])
    assert groups(plan) == ["+".join(ROLES)]
    assert len(plan.idle) == 3


def test_a_small_group_takes_the_small_card() -> None:
    long = 400
    asked = replace(wanted(), roles=tuple(rows(role, 8, long, long, 50_000) for role in ROLES), parts=8)
    plan = planned(asked, [card(0, 8, name="RTX 4090"), card(1, 16, name="RTX 4090")])
    for seat in plan.seats:
        assert needed_bytes(seat.footprint) <= min(device.free_bytes for device in seat.devices)
    by_card = {seat.devices[0].index: seat for seat in plan.seats}
    if len(plan.seats) == 2:
        assert len(by_card[1].placement.roles) == 2


def test_what_does_not_fit_the_small_card_goes_to_the_large_one_whole() -> None:
    plan = planned(wanted(), [card(0, 3, name="RTX 4090"), card(1, 16, name="RTX 4090")])
    assert groups(plan) == ["+".join(ROLES)]
    assert [device.index for device in plan.seats[0].devices] == [1]


def test_two_nodes_with_a_card_each_train_a_group_each() -> None:
    devices = [cpu(), card(node="a"), cpu(node="b"), card(node="b")]
    plan = planned(wanted(count=64, steps=20_000), devices)
    assert {device.node for seat in plan.seats for device in seat.devices} == {"a", "b"}
    assert all(place.workers == 1 for place in plan.placements)


def test_a_busy_card_is_left_alone() -> None:
    plan = planned(wanted(count=64, steps=20_000), [card(0, free=1), card(1)])
    assert [device.index for seat in plan.seats for device in seat.devices] == [1]
    assert [device.index for device in plan.idle] == [0]


def test_where_all_are_busy_it_says_what_others_hold() -> None:
    found = plan_run(wanted(), [card(0, free=1), card(1, free=2)])
    assert isinstance(found, CannotRun)
    assert "others holding 78.0 of 80.0" in found.reason
    assert any("let go of the memory" in option for option in found.would_fit)


def test_half_a_card_is_half_its_memory_and_speed() -> None:
    half = replace(card(), share=0.5)
    plan, whole = planned(wanted(), [half]), planned(wanted(), [card()])
    assert [place.gpus for place in plan.placements] == [0.5]
    assert plan.step_seconds == pytest.approx(2 * whole.step_seconds)
    assert needed_bytes(plan.seats[0].footprint) <= 40 * GIB


def test_seven_billion_parameters_do_not_fit_two_cards_of_16_gib_and_it_says_by_how_much_and_what_would() -> None:
    asked = wanted(SEVEN_BILLION, tokens=128)
    found = plan_run(asked, [cpu(), card(0, 16, name="RTX 4090"), card(1, 16, name="RTX 4090")])
    assert isinstance(found, CannotRun)
    assert 1 * GIB < found.missing_bytes < 12 * GIB
    assert f"{found.missing_bytes / GIB:.1f} GiB are missing" in found.reason
    told = " ".join(found.would_fit)
    assert "4 bits" in told
    assert "ZeRO-3" in told
    assert "offload_param" in told
    assert told.count(" GiB on ") >= 2


def test_what_is_said_to_fit_does() -> None:
    devices = [cpu(), card(0, 16, name="RTX 4090"), card(1, 16, name="RTX 4090")]
    asked = wanted(SEVEN_BILLION, tokens=128)
    assert isinstance(plan_run(replace(asked, base_bits=4), devices), Plan)
    sharded = planned(replace(asked, engine="sharded", strategy="zero3"), devices)
    assert [(place.roles, place.workers) for place in sharded.placements] == [(ROLES, 2)]


def test_a_base_is_not_offloaded_to_memory_that_is_not_there() -> None:
    asked = replace(wanted(SEVEN_BILLION, tokens=128), engine="sharded", strategy="zero3", offload_param=True)
    assert isinstance(plan_run(asked, [cpu(64), card(0, 16)]), Plan)
    assert isinstance(plan_run(asked, [cpu(8), card(0, 16)]), CannotRun)


def test_memory_that_is_short_for_a_whole_step_cuts_it_in_parts() -> None:
    roomy = planned(wanted(longest=1024), [card()])
    tight = planned(wanted(longest=1024), [card(0, 8, name="an unknown card")])
    assert roomy.parts == 1
    assert tight.parts > 1
    assert needed_bytes(tight.seats[0].footprint) <= tight.seats[0].devices[0].free_bytes


def test_on_one_card_the_server_has_its_share_and_the_trainer_the_rest() -> None:
    plan = planned(wanted(), [card()], ServingShare(1, 0.4))
    (served,) = plan.serving
    assert (served.gpus, [place.gpus for place in plan.placements]) == (0.4, [0.6])
    assert served.bytes + needed_bytes(plan.seats[0].footprint) <= card().free_bytes


def test_on_two_cards_the_server_has_one_to_itself() -> None:
    plan = planned(wanted(), [card(0), card(1)], ServingShare(1, 0.4))
    (served,) = plan.serving
    assert served.gpus == 1.0
    assert [place.gpus for place in plan.placements] == [1.0]
    assert served.device not in plan.seats[0].devices


def test_two_replicas_have_a_card_each_where_there_are_enough() -> None:
    plan = planned(wanted(steps=30), [card(at) for at in range(4)], ServingShare(2, 0.4))
    assert len({served.device for served in plan.serving}) in (1, 2)
    trained = {device for seat in plan.seats for device in seat.devices}
    assert trained.isdisjoint(served.device for served in plan.serving)


def test_a_card_too_full_for_the_server_is_said() -> None:
    found = plan_run(wanted(), [card(0, 24, free=8)], ServingShare(1, 0.4))
    assert isinstance(found, CannotRun)
    assert "no card has room for serving" in found.reason
    assert "no server beside it" in found.would_fit


def test_nothing_to_train_on() -> None:
    assert isinstance(plan_run(wanted(), []), CannotRun)


@pytest.mark.parametrize(
    ("name", "tflops"),
    [("NVIDIA H200", 989.0), ("NVIDIA GeForce RTX 4090", 165.2), ("AMD Radeon RX 7600 XT", 45.1), ("NVIDIA L4", 121.0)],
)
def test_a_card_is_known_by_the_name_that_torch_gives(name: str, tflops: float) -> None:
    found = card_of(name)
    assert found is not None
    assert found.tflops == tflops


# -- what holds for every rig ----------------------------------------------------------------------------------------

NAMES = ("NVIDIA H100", "RTX 4090", "AMD Radeon RX 7600 XT", "an unknown card")


@st.composite
def cards(draw: st.DrawFn) -> Device:
    gib, name = draw(st.sampled_from([4, 8, 16, 24, 80])), draw(st.sampled_from(NAMES))
    return Device(
        draw(st.sampled_from(["a", "b"])), draw(st.integers(0, 10_000)), "rocm" if "AMD" in name else "cuda", name,
        "gfx1102" if "AMD" in name else "9.0", gib * GIB, draw(st.integers(0, gib)) * GIB,
        draw(st.sampled_from([0.5, 1.0, 1.0, 1.0])),
    )  # fmt: skip


RIGS = st.lists(cards(), min_size=1, max_size=5, unique_by=lambda device: (device.node, device.index))
ASKED = st.builds(
    lambda count, longest, parts, steps: replace(
        wanted(count=count, longest=longest, tokens=longest / 2, steps=steps), parts=parts
    ),
    st.sampled_from([1, 3, 8, 64]), st.sampled_from([64, 256, 1024]), st.sampled_from([1, 2]),
    st.sampled_from([0, 50, 5000]),
)  # fmt: skip
SERVING = st.one_of(st.none(), st.builds(ServingShare, st.integers(1, 2), st.sampled_from([0.2, 0.4])))


@settings(max_examples=40, deadline=None)
@given(ASKED, RIGS, SERVING)
def test_no_card_gets_more_than_it_has_free(asked: Wanted, rig: list[Device], serving: ServingShare | None) -> None:
    plan = plan_run(asked, rig, serving)
    if isinstance(plan, CannotRun):
        assert plan.reason
        return
    used = dict.fromkeys(rig, (0, 0.0))
    for seat in plan.seats:
        for device in seat.devices:
            used[device] = (used[device][0] + needed_bytes(seat.footprint), used[device][1] + seat.placement.gpus)
    for served in plan.serving:
        held, gpus = used[served.device]
        used[served.device] = held + served.bytes, gpus + served.gpus * served.replicas
    for device, (held, gpus) in used.items():
        assert held <= device.free_bytes
        assert gpus <= device.share + 1e-6


@settings(max_examples=40, deadline=None)
@given(ASKED, RIGS, SERVING)
def test_every_role_sits_once_and_every_card_is_a_different_one(
    asked: Wanted, rig: list[Device], serving: ServingShare | None
) -> None:
    plan = plan_run(asked, rig, serving)
    if isinstance(plan, CannotRun):
        return
    assert sorted(role for place in plan.placements for role in place.roles) == sorted(ROLES)
    seated = [device for seat in plan.seats for device in seat.devices]
    assert len(seated) == len(set(seated)) <= len(rig)
    assert [len(seat.devices) for seat in plan.seats] == [seat.placement.workers for seat in plan.seats]
    assert set(plan.idle) == set(rig) - set(seated) - {served.device for served in plan.serving}


@settings(max_examples=40, deadline=None)
@given(ASKED, RIGS, cards(), SERVING)
def test_a_further_card_never_makes_it_slower(
    asked: Wanted, rig: list[Device], further: Device, serving: ServingShare | None
) -> None:
    before = plan_run(asked, rig, serving)
    if isinstance(before, CannotRun) or (further.node, further.index) in {(card.node, card.index) for card in rig}:
        return
    after = plan_run(asked, [*rig, further], serving)
    assert isinstance(after, Plan)
    assert after.seconds <= before.seconds * (1 + 1e-9)


@settings(max_examples=25, deadline=None)
@given(ASKED, RIGS)
def test_what_trains_trains_with_half_the_batch_too(asked: Wanted, rig: list[Device]) -> None:
    plan = plan_run(asked, rig)
    fewer = replace(asked, roles=tuple(replace(own, rows=max(1, own.rows // 2)) for own in asked.roles))
    if isinstance(plan, Plan) and min(own.rows for own in asked.roles) > 1:
        after = plan_run(fewer, rig)
        assert isinstance(after, Plan)


def test_a_hundred_nodes_are_planned_in_a_moment() -> None:
    import time

    rig = [card(index, node=f"n{node}") for node in range(100) for index in range(4)]
    began = time.perf_counter()
    assert isinstance(plan_run(wanted(), rig, ServingShare(2, 0.4)), Plan)
    assert time.perf_counter() - began < 10


def test_what_a_running_server_holds_is_counted_once() -> None:
    from cluster.plan.groups import counted_once

    cards = [cpu(), card(0, free=79.5), card(1, free=47.0)]
    found = counted_once(cards, ServingShare(1, 0.4))
    assert [own.free_bytes / GIB for own in found] == [64, 79.5, 79.0]
