"""What becomes of a plan: micro-batches by memory, a refusal before the run, shards where nothing else fits."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from cluster import coordinator as coordinators
from cluster import trainer_pool
from cluster.devices import CPU, Device, NodeFacts, RayNode
from cluster.placement import Groups, Placement
from cluster.plan import CannotRun, Plan, Shards, Wanted, plan_run
from cluster.plan import groups as planned_groups
from cluster.plan.decision import DOUBT, surely_needed
from cluster.plan.groups import groups_of, refuse_what_cannot_run
from cluster.plan.memory import base_bytes, footprint
from cluster.plan.of_home import shards_of
from cluster.plan.search import fastest
from cluster.plan.seating import part_counts
from cluster.plan.serving import room_on
from cluster.settings import Settings, load_settings
from cluster.steps.records import TrainingNotes
from cluster.trainer_pool import TrainerPool
from jobs.rig.plan import PlanOfHome, plain, print_plan
from ledger.errors import LunaError
from ledger.home import Home
from ledger.roles import ROLES
from tests.cluster.test_rig_plan import GIB, RIGS, SEVEN_BILLION, card, cpu, planned, wanted
from trainers.config import ShardedSettings, TrainSettings
from trainers.models.frozen import Base, prepare_base

EITHER = (Shards("fsdp2"), Shards("fsdp2", offload_param=True))
SIXTEEN = [cpu(), card(0, 16, name="RTX 4090"), card(1, 16, name="RTX 4090")]
"""What 7 billion parameters in bfloat16 do not fit whole."""


def large(**changes: Any) -> Wanted:
    return wanted(SEVEN_BILLION, tokens=128, **changes)


# -- micro-batches ---------------------------------------------------------------------------------------------------
def test_a_new_run_is_cut_in_the_micro_batches_that_memory_needs() -> None:
    plan = planned(wanted(longest=1024), [card(0, 8, name="an unknown card")])
    (seat,) = plan.seats
    assert seat.cut > 1
    found = groups_of(plan, TrainSettings(), 1)
    assert found.micro_batches == {"+".join(ROLES): ((0, seat.cut),)}
    assert TrainingNotes(placements=()).begun(found).groups == found, "as the journal keeps it"


def test_where_there_is_room_the_settings_decide() -> None:
    roomy = planned(wanted(longest=1024), [card()])
    assert groups_of(roomy, TrainSettings(), 1).micro_batches == {}
    asked = replace(wanted(longest=1024), parts=4)
    tight = planned(asked, [card(0, 8, name="an unknown card")])
    least = tight.seats[0].cut
    assert groups_of(tight, TrainSettings(gradient_accumulation_steps=least), 1).micro_batches == {}


# -- refused before it begins ----------------------------------------------------------------------------------------
def test_what_is_missing_by_far_is_refused_with_the_bytes_and_what_would_fit() -> None:
    found = plan_run(large(), SIXTEEN)
    assert isinstance(found, CannotRun)
    with pytest.raises(LunaError, match=r"GiB are missing.*What would fit: .*4 bits.*Nothing was begun"):
        refuse_what_cannot_run(found)


def test_what_is_missing_by_less_than_the_model_may_be_wrong_is_tried() -> None:
    asked = wanted(longest=1024)
    *_, most = part_counts(asked, asked.roles, 1)
    need = footprint(asked, asked.roles, card(), (most, 1)).total
    short = plan_run(asked, [replace(card(), free_bytes=int(need * (1 - DOUBT / 2)))])
    assert isinstance(short, CannotRun)
    assert not short.is_sure
    refuse_what_cannot_run(short)
    assert groups_of(short, TrainSettings(), 1) == Groups((Placement(ROLES, 1),))


@pytest.mark.parametrize("changes", [{"base_bits": 4}, {"engine": "trl"}, {"engine": "sharded"}])
def test_where_the_model_was_not_measured_only_weights_that_do_not_fit_are_refused(changes: dict[str, Any]) -> None:
    asked = replace(large(longest=8192, count=64), **changes)
    weights = surely_needed(asked, asked.roles, room_on(card()))
    for free, sure in ((weights - 1, True), (weights, False)):
        found = plan_run(asked, [cpu(), replace(card(), free_bytes=free)])
        assert isinstance(found, CannotRun)
        assert found.is_sure == sure


def test_of_an_amd_card_the_weights_alone_are_sure() -> None:
    amd = Device("a", 0, "rocm", "AMD Radeon RX 7600 XT", "gfx1102", 16 * GIB, 15 * GIB)
    found = plan_run(large(), [cpu(), amd])
    assert isinstance(found, CannotRun)
    assert found.is_sure == (base_bytes(large(), 2) > 15 * GIB)
    assert plan_run(large(), [cpu(), replace(amd, free_bytes=10 * GIB)]).is_sure  # type: ignore[union-attr]


def test_without_cards_nothing_is_refused() -> None:
    found = plan_run(large(), [cpu(2)])
    assert isinstance(found, CannotRun)
    assert not found.is_sure


ASKED = st.builds(
    lambda count, longest, shards: replace(large(count=count, longest=longest), else_sharded=shards),
    st.sampled_from([1, 8, 64]), st.sampled_from([128, 1024, 4096]), st.sampled_from([(), EITHER]),
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(ASKED, RIGS, st.integers(0, 8))
def test_what_is_refused_is_refused_with_less_memory_too(asked: Wanted, rig: list[Device], less: int) -> None:
    found = plan_run(asked, rig)
    if isinstance(found, Plan) or not found.is_sure:
        return
    assert found.missing_bytes > 0
    poorer = [replace(own, free_bytes=max(0, own.free_bytes - less * GIB)) for own in rig]
    again = plan_run(asked, poorer)
    assert isinstance(again, CannotRun)
    assert again.is_sure


# -- shards ----------------------------------------------------------------------------------------------------------
def test_an_open_engine_goes_to_shards_where_nothing_else_fits() -> None:
    plan = planned(replace(large(), else_sharded=EITHER), SIXTEEN)
    assert plan.shards == Shards("fsdp2")
    assert [(place.roles, place.workers) for place in plan.placements] == [(ROLES, 2)]
    found = groups_of(plan, TrainSettings(), 2)
    assert found.sharded == ShardedSettings(strategy="fsdp2")
    chosen = Settings().on_shards(found.sharded).train
    assert (chosen.engine, chosen.sharded) == ("sharded", found.sharded)


def test_what_one_card_cannot_hold_in_parts_goes_to_the_nodes_memory() -> None:
    assert planned(replace(large(), else_sharded=EITHER), [cpu(), card(0, 16)]).shards == EITHER[1]


def test_an_engine_that_is_named_is_kept() -> None:
    assert isinstance(plan_run(large(), SIXTEEN), CannotRun)


@settings(max_examples=40, deadline=None)
@given(ASKED, RIGS)
def test_shards_are_the_last_resort(asked: Wanted, rig: list[Device]) -> None:
    plan = plan_run(asked, [cpu(), cpu(node="b"), *rig])
    if isinstance(plan, Plan) and plan.shards is not None:
        assert plan.shards in asked.else_sharded
        assert fastest(asked, rig, None) is None
        before = asked.else_sharded[: asked.else_sharded.index(plan.shards)]
        assert all(fastest(asked.on_shards(own), [cpu(), cpu(node="b"), *rig], None) is None for own in before)


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ({}, EITHER),
        ({"engine": "fused"}, ()),
        ({"engine": "trl"}, ()),
        ({"engine": "sharded"}, ()),
        ({"quantize": "nf4"}, ()),
        ({"sharded": {"strategy": "zero3"}}, (Shards("zero3"), Shards("zero3", offload_param=True))),
        ({"sharded": {"strategy": "zero3", "offload_param": True}}, (Shards("zero3", offload_param=True),)),
    ],
)
def test_only_an_open_engine_may_go_to_shards(train: dict[str, Any], expected: tuple[Shards, ...]) -> None:
    assert shards_of(Settings.model_validate({"train": train})) == expected


def test_the_plan_that_is_shown_says_which_engine_a_run_takes() -> None:
    asked, shown = replace(large(), else_sharded=EITHER), io.StringIO()
    found = PlanOfHome(asked, {"a": "basement"}, tuple(SIXTEEN), planned(asked, SIXTEEN))
    print_plan(found, Console(file=shown, width=200))
    assert 'a run takes the sharded engine, strategy "fsdp2"' in shown.getvalue()
    assert plain(found)["shards"] == {"strategy": "fsdp2", "offload_param": False}


# -- the pool and the coordinator ------------------------------------------------------------------------------------
@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home").create()
    made.settings_file.write_text('profile = "tiny"\n')
    return made


@pytest.fixture
def base(home: Home) -> Base:
    return prepare_base(load_settings(home.settings_file).base, home)


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> list[Device]:
    """The cards of a node that Ray and torch would both see; a test changes the list."""
    devices: list[Device] = [cpu(), card(0, 16)]

    def facts(*_: Any) -> list[NodeFacts]:
        return [NodeFacts("a", "basement", "2.13.0+cu130", len(devices) - 1, devices=tuple(devices))]

    for module in (trainer_pool, planned_groups):
        monkeypatch.setattr(module, "ray_nodes", lambda: [RayNode("a", "basement", float(len(devices) - 1))])
    monkeypatch.setattr(trainer_pool, "check_rig", facts)
    monkeypatch.setattr(planned_groups, "facts_of", facts)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": 1.0})
    monkeypatch.setattr(trainer_pool, "refuse_unreachable", lambda *_: None)
    return devices


def test_the_pool_refuses_before_a_run_and_never_one_that_has_begun(home: Home, base: Base, rig: list[Device]) -> None:
    chosen, pool = load_settings(home.settings_file), TrainerPool()
    pool.admit(home, base, chosen)
    assert pool.open(home, base, chosen).groups == Groups((Placement(ROLES, 1),))
    rig[1] = replace(rig[1], free_bytes=100 << 20)
    pool.release()
    with pytest.raises(LunaError, match="GiB are missing"):
        pool.admit(home, base, chosen)
    recorded = Groups((Placement(ROLES, 1),), {"+".join(ROLES): ((0, 2),)}, ShardedSettings(strategy="zero3"))
    resumed = pool.open(home, base, chosen, recorded)
    assert resumed.groups == recorded
    assert resumed._settings.train.engine == "sharded"
    rig[1] = replace(rig[1], free_bytes=15 << 30)
    pool.admit(home, base, chosen)  # what was refused is looked at again


def test_a_plan_is_made_once_for_equal_settings(
    home: Home, base: Base, rig: list[Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bool] = []

    def counted(*asked: Any) -> Any:
        made.append(True)
        return planned_groups.plan_here(*asked)

    monkeypatch.setattr(trainer_pool, "plan_here", counted)
    pool, file = TrainerPool(), home.settings_file
    for overrides in ({}, {"seed": 5}, {"train": {"steps": 7}}):
        pool.admit(home, base, load_settings(file, overrides))
        pool.open(home, base, load_settings(file, overrides))
    assert len(made) == 1
    pool.open(home, base, load_settings(file, {"train": {"batch_size": 64}}))
    assert len(made) == 2, "which needs other memory"


def test_the_coordinator_records_nothing_of_a_run_that_cannot_fit(
    home: Home, base: Base, rig: list[Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cluster.request import GenerationRequest, PinnedBase
    from curriculum.parquet import write_examples
    from tests.cluster.builders import even_numbers

    context = SimpleNamespace(was_current_actor_reconstructed=False)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    rig[1] = replace(rig[1], free_bytes=100 << 20)
    file = write_examples(home.inbox_dir, even_numbers(0, 150))
    request = GenerationRequest(
        settings=load_settings(home.settings_file), base=PinnedBase(source=base.source, sha=base.sha), data=(file,)
    )
    asked = coordinators.Coordinator(str(home.root))
    asked.open()
    try:
        asked.create_lineage("main", base.sha)
        with pytest.raises(LunaError, match="does not fit this rig"):
            asked.submit(request)
        assert asked._journal.runs() == []
    finally:
        asked.close()


def test_without_cards_the_plan_has_no_say(monkeypatch: pytest.MonkeyPatch, home: Home, base: Base) -> None:
    none = NodeFacts("a", "laptop", "2.13.0+cpu", 0, devices=(replace(cpu(), free_bytes=1, kind=CPU),))
    monkeypatch.setattr(trainer_pool, "check_rig", lambda: [none])
    monkeypatch.setattr(ray, "cluster_resources", dict)
    monkeypatch.setattr(trainer_pool, "refuse_unreachable", lambda *_: None)
    pool = TrainerPool()
    pool.admit(home, base, load_settings(home.settings_file))
    assert pool.open(home, base, load_settings(home.settings_file)).groups == Groups((Placement(ROLES, 0),))
