"""Which earlier examples are replayed, and with whose answers, where the parent has a say in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.request import GenerationRequest, PinnedBase, RunSpec
from cluster.settings import DataSettings, Settings
from cluster.steps.planning import Plan, make_plan, plan_of, replay_pool
from cluster.steps.records import Collected, Parent
from cluster.steps.replaying import Earlier, Line, Views, asked_views, candidates
from cluster.steps.verify_plan import planned_again
from curriculum.example import Example, example_id, make_example
from curriculum.parent_view import ParentView, freeze_views, read_views
from curriculum.parquet import NewData, freeze, freeze_new_data, read_examples
from curriculum.replay import draw_half_least_sure, draw_replay
from ledger.errors import LunaError
from ledger.home import Home
from ledger.roles import ROLES, Role
from ledger.rules.gates import GateSettings
from ledger.store import Stores
from tests.ledger.builders import make_move, make_trio
from trainers.config import TrainSettings


def talks(start: int, count: int, role: str = "logical") -> list[Example]:
    """Open items: no two answers are equal."""
    return [
        make_example(
            role=role, stage="manual", category="greeting", kind="hybrid", input=f"who is {i}?", output=f"It is {i}."
        )
        for i in range(start, start + count)
    ]  # fmt: skip


def puzzles(start: int, count: int, role: str = "logical") -> list[Example]:
    return [
        make_example(
            role=role, stage="fundamentals", category="agl/chain", kind="pure", input=f"{i}?", output=str(i % 2)
        )
        for i in range(start, start + count)
    ]  # fmt: skip


OWN_WORDS = [
    make_example(
        role=role, stage="fundamentals", category="everyday", kind="hybrid", input=f"what is {i}?", output=f"{i} it is."
    )
    for role in ROLES
    for i in range(4)
]

NEW = NewData([e for role in ROLES for e in talks(0, 30, role)], [])
LINE: Line = {
    gen_id: [e for role in ROLES for e in (*talks(1000 * gen_id, 60, role), *puzzles(1000 * gen_id, 60, role))]
    for gen_id in (1, 2)
}


def how(**data: object) -> Settings:
    return Settings(
        train=TrainSettings(batch_size=8),
        gates=GateSettings(min_items=10),
        data=DataSettings.model_validate({"replay_share": 0.4, "replay_least": 0, **data}),
    )


class Numbers:
    """Finds long numbers less likely, and answers in its own words to all but multiples of seven."""

    def __init__(self) -> None:
        self.asked: list[tuple[Counter[Role], bool]] = []

    def __call__(self, examples: Mapping[Role, Sequence[Example]], with_own: bool) -> Views:
        self.asked.append((Counter({role: len(own) for role, own in examples.items()}), with_own))
        return {e.id: self.view(e, with_own) for own in examples.values() for e in own}

    @staticmethod
    def view(example: Example, with_own: bool) -> ParentView:
        number = int("".join(c for c in example.input if c.isdigit()))
        return ParentView(-float(number % 100), f"I say {number}." if with_own and number % 7 else "")


def planned(settings: Settings, line: Line = LINE) -> tuple[Plan, Views, Numbers]:
    parent = Numbers()
    pools = {role: replay_pool(role, settings, NEW.train, Earlier(line, "s"), 0) for role in ROLES}
    views = asked_views(pools, settings.data, parent)
    return plan_of(settings, NEW, {}, Earlier(line, "s", views), {}), views, parent


def replayed_of(plan: Plan, role: Role = "logical") -> list[Example]:
    new = {example.id for example in NEW.train}
    return [example for example in plan.schedules[role].rows if example.id not in new]


RECORDED = {example.id: example for own in LINE.values() for example in own}


def test_by_default_the_parent_is_not_asked() -> None:
    plan, views, parent = planned(how())
    assert parent.asked == []
    assert views == {}
    assert all(example.id in RECORDED for example in replayed_of(plan))


@pytest.mark.parametrize("data", [{"replay_select": "least_sure"}, {"own_answers": True}])
def test_each_setting_changes_what_is_trained(data: dict[str, object]) -> None:
    plain, other = planned(how())[0], planned(how(**data))[0]
    for role in ROLES:
        assert plain.schedules[role].rows != other.schedules[role].rows
        assert plain.schedules[role].n_replay == other.schedules[role].n_replay


def test_half_of_what_is_replayed_is_what_the_parent_is_least_sure_of() -> None:
    plan, views, parent = planned(how(replay_select="least_sure"))
    settings = how(replay_select="least_sure")
    pool = replay_pool("logical", settings, NEW.train, Earlier(LINE, "s"), 0)
    among = [e for own in candidates(pool).values() for e in own]
    assert parent.asked == [(Counter(dict.fromkeys(ROLES, len(among))), False)]
    assert len(among) == 4 * pool.count
    replayed = replayed_of(plan)
    assert len({e.id for e in replayed}) == len(replayed) == pool.count == 20
    assert {e.id for e in replayed} <= {e.id for e in among}
    surest = {e.id for e in sorted(among, key=lambda e: views[e.id].nats)[: pool.count // 2]}
    assert surest <= {e.id for e in replayed}


def test_open_items_get_the_parents_answer_where_it_has_one_and_closed_ones_keep_theirs() -> None:
    plan, views, parent = planned(how(own_answers=True))
    replayed = replayed_of(plan)
    assert {e.category for e in replayed} == {"greeting", "agl/chain"}
    for example in replayed:
        number = int("".join(c for c in example.input if c.isdigit()))
        if example.category == "agl/chain" or number % 7 == 0:
            assert example.id in RECORDED
        else:
            assert example.output == f"I say {number}."
            assert example.id == example_id(example.role, example.kind, example.context, example.input, example.output)
    open_items = sum(e.category == "greeting" for role in ROLES for e in replayed_of(plan, role))
    ((asked, with_own),) = parent.asked
    assert (asked.total(), with_own) == (open_items, True)
    assert len(views) == open_items


def test_what_was_chosen_by_a_likelihood_stays_when_the_answers_are_asked() -> None:
    class Rounding(Numbers):
        def __call__(self, examples: Mapping[Role, Sequence[Example]], with_own: bool) -> Views:
            found = super().__call__(examples, with_own)
            return {name: ParentView(view.nats - 50.0 * with_own, view.own) for name, view in found.items()}

    settings = how(own_answers=True, replay_select="least_sure")
    pools = {role: replay_pool(role, settings, NEW.train, Earlier(LINE, "s"), 0) for role in ROLES}
    views = asked_views(pools, settings.data, Rounding())
    assert min(view.nats for view in views.values()) > -100
    assert any(view.own for view in views.values())
    plan = plan_of(settings, NEW, {}, Earlier(LINE, "s", views), {})
    assert any(example.output.startswith("I say") for example in replayed_of(plan))


def test_a_first_generation_asks_nobody() -> None:
    plan, views, parent = planned(how(own_answers=True, replay_select="least_sure"), {})
    assert (views, parent.asked) == ({}, [])
    assert plan == planned(how(), {})[0]


def test_the_plan_follows_from_the_frozen_view_alone(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").create()
    settings = how(own_answers=True, replay_select="least_sure")
    plan, views, _ = planned(settings)
    sha = freeze_views(views, home)
    assert freeze_views({name: views[name] for name in sorted(views, reverse=True)}, home) == sha
    again = plan_of(
        settings, NEW, {}, Earlier({2: LINE[2][::-1], 1: LINE[1]}, "s", read_views(home.data_file(sha))), {}
    )
    assert again == plan
    assert read_examples(home.data_file(freeze(plan.rows, home))) == plan.rows
    with pytest.raises(LunaError, match="holds no view"):
        read_views(home.data_file(freeze(plan.rows, home)))
    with pytest.raises(LunaError, match="parent's view of 80 examples"):
        plan_of(settings, NEW, {}, Earlier(LINE, "s"), {})


@given(st.integers(0, 60), st.integers(0, 40))
def test_a_draw_of_half_takes_as_many_as_it_may_each_once(count: int, there: int) -> None:
    pool = {1: talks(0, there), 2: talks(100, there // 2)}
    nats = {e.id: -float(i) for i, e in enumerate(e for own in pool.values() for e in own)}
    found = [e.id for own in draw_half_least_sure(pool, count, nats, "s").values() for e in own]
    assert len(found) == len(set(found)) == min(count, len(nats))
    uniform = {e.id for own in draw_replay(pool, count - count // 2, "s").values() for e in own}
    left = [nats[name] for name in nats.keys() - set(found)]
    taken = [nats[name] for name in set(found) - uniform]
    assert not left or not taken or max(taken) < min(left)


def test_a_recorded_generation_is_planned_again_from_the_view_that_its_row_names(tmp_path: Path) -> None:
    home, settings = Home(tmp_path / "home").create(), how(own_answers=True, replay_select="least_sure")
    delta = freeze([e for own in LINE.values() for e in own], home)
    new_sha = freeze_new_data(NEW, home)
    with Stores.create(home) as stores:
        stores.ledger.create_lineage("main", "a" * 64)
        first = make_trio(0, base_sha="a" * 64, parent_sha="a" * 64, data_delta_sha=delta, collected_sha=new_sha)
        stores.ledger.record_judgement(first, [], make_move(None, 0))
        parent = Parent(gen_id=0, shas={row.role: row.child_sha for row in first})
        collected = Collected(parent=parent, collected_sha=new_sha, n_new=len(NEW.train), n_held_out=0)
        request = GenerationRequest(settings=settings, base=PinnedBase(source="tiny", sha="a" * 64), data=())
        run = stores.journal.create_run("run-1", "main", 1, request.model_dump(mode="json"))
        found = make_plan(RunSpec.of(home, run), stores.ledger, collected, OWN_WORDS, Numbers())
        shas = {"view_sha": found.view_sha, "rehearsed_sha": found.rehearsed_sha}
        row = {"collected_sha": new_sha, "train_sha": found.examples.train_sha, **shas}
        rows = make_trio(1, {one.role: one for one in first}, base_sha="a" * 64, **row)
        again = planned_again(home, stores.ledger, rows, settings)
    assert again.rows == read_examples(home.data_file(found.examples.train_sha))
    assert any(e.output.startswith("I say") for e in again.rows)
    assert {e.id for e in OWN_WORDS} <= {e.id for e in again.rows}
