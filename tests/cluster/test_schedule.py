"""The plan as a pure function: which rows a role's steps take, and what they leave."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.settings import DataSettings, Settings
from cluster.steps.planning import plan_of, role_schedule
from cluster.steps.replaying import Earlier
from curriculum.example import Example, make_example
from curriculum.parquet import NewData
from curriculum.replay import MOST_PASSES, shared_out
from ledger.roles import ROLES
from ledger.rules.gates import GateSettings
from trainers.config import ChannelSettings, TrainSettings
from trainers.evals.settings import EvalSettings
from trainers.schedule import slice_of_step


def asked(start: int, count: int, role: str = "logical", category: str = "agl/chain") -> list[Example]:
    return [
        make_example(
            role=role, stage="fundamentals", category=category, kind="pure", input=f"{i}?", output=f"{i}", source="t"
        )
        for i in range(start, start + count)
    ]  # fmt: skip


def settings_of(**values) -> Settings:
    train = {"batch_size": 8} | values.pop("train", {})
    return Settings(train=TrainSettings(**train), gates=GateSettings(min_items=10), **values)


@given(st.integers(1, 90), st.integers(0, 150), st.integers(1, 12), st.integers(1, 9), st.integers(0, 60))
@settings(deadline=None, max_examples=60)
def test_steps_that_are_set_are_filled_to_the_last_row(new, old, steps, batch_size, least):
    how = settings_of(train={"steps": steps, "batch_size": batch_size}, data=DataSettings(replay_least=least))
    line = {0: asked(1000, old // 2), 1: asked(2000, old - old // 2)}
    found = role_schedule("logical", how, asked(0, new), Earlier(line, "seed"), 0)
    assert len(found.rows) == steps * batch_size
    assert found.steps == steps
    assert found.n_replay <= len(found.rows) / 2
    assert found.n_replay == 0 or old - found.n_replay >= 10, "enough is left to ask about"
    counts = Counter(e.id for e in found.rows)
    taken = {e.id for e in found.taken}
    assert {e.id for e in asked(0, new)} >= taken
    assert sum(counts[name] for name in taken) == found.n_delta
    assert max(counts[name] for name in taken) - min(counts[name] for name in taken) <= 1
    assert len(taken) == min(new, found.n_delta), "what is there comes before anything comes again"
    sliced = [e for step in range(steps) for e in slice_of_step(found.rows, step, batch_size)]
    assert sliced == list(found.rows)


@pytest.mark.parametrize(("epochs", "rows", "steps"), [(1, 50, 7), (2, 100, 13), (0.5, 25, 4), (2.5, 125, 16)])
def test_epochs_are_passes_over_the_new_examples(epochs, rows, steps):
    found = role_schedule("logical", settings_of(train={"epochs": epochs}), asked(0, 50), Earlier({}, ""), 0)
    assert (found.n_delta, found.n_replay, found.steps) == (rows, 0, steps)
    assert len(found.taken) == min(50, rows)


def test_replay_comes_on_top_of_the_epochs_as_a_share_of_all_rows():
    how = settings_of(data=DataSettings(replay_share=0.25, replay_least=0))
    found = role_schedule("logical", how, asked(0, 90), Earlier({3: asked(1000, 200), 7: asked(2000, 100)}, "s"), 0)
    assert (found.n_delta, found.n_replay) == (90, 30)
    assert found.replayed == {3: 20, 7: 10}
    assert role_schedule(
        "logical", settings_of(data=DataSettings(replay_share=0)), asked(0, 90), Earlier({3: asked(1000, 200)}, "s"), 0
    ).n_replay == 0  # fmt: skip


def test_what_the_steps_have_no_room_for_is_left_with_each_categorys_share_taken():
    new = [*asked(0, 300, category="agl/chain"), *asked(1000, 100, category="agl/negation")]
    found = role_schedule("logical", settings_of(train={"steps": 5}), new, Earlier({}, ""), 0)
    assert Counter(e.category for e in found.taken) == {"agl/chain": 30, "agl/negation": 10}


def test_a_role_with_pairs_alone_takes_its_steps_from_them():
    how = settings_of(channels=ChannelSettings(mode="dual", pairs=4))
    assert role_schedule("logical", how, [], Earlier({0: asked(0, 50)}, ""), 30).steps == 8
    half = settings_of(channels=ChannelSettings(mode="dual"), train={"epochs": 0.5})
    assert role_schedule("logical", half, [], Earlier({}, ""), 1).steps == 1, "half of one pair is a step, not none"
    assert role_schedule("logical", half, [], Earlier({}, ""), 0).steps == 0
    alone = settings_of(channels=ChannelSettings(mode="dual", w_sft=0.0, w_pref=1.0))
    found = role_schedule("logical", alone, asked(0, 50), Earlier({}, ""), 30)
    assert (found.rows, found.taken) == ((), ()), "an example that has no say in the loss is not taken"


def test_a_plan_does_not_depend_on_the_order_of_its_data_and_asks_no_more_than_it_may():
    new = [e for role in ROLES for e in asked(0, 60, role)]
    held = [e for role in ROLES for e in asked(500, 60, role)]
    how = settings_of(eval=EvalSettings(items=40))
    line = {0: [e for role in ROLES for e in asked(1000, 90, role)]}
    plan = plan_of(how, NewData(new, held), {}, Earlier(line, "s"), {})
    assert plan == plan_of(how, NewData(new[::-1], held[::-1]), {}, Earlier({0: line[0][::-1]}, "s"), {})
    assert Counter(e.role for e in plan.asked) == dict.fromkeys(ROLES, 40)
    assert [e.role for e in plan.rows] == sorted((e.role for e in plan.rows), key=ROLES.index)
    assert plan != plan_of(how, NewData(new, held), {}, Earlier(line, "another parent"), {})


OWN_WORDS = [
    make_example(
        role="logical", stage="fundamentals", category="everyday", kind="hybrid", input=f"q{i}?", output=f"a{i}.",
        source="everyday/base",
    )
    for i in range(120)
]  # fmt: skip


def test_a_first_generation_repeats_what_the_base_says_itself():
    found = role_schedule("logical", settings_of(), asked(0, 200), Earlier(own_words=OWN_WORDS), 0)
    assert (found.n_delta, found.rehearsed, found.n_replay) == (200, 120, 120), "each of them once"
    assert set(found.taken) == set(asked(0, 200)), "what is repeated is not taken"
    assert {row.id for row in found.rows} - {e.id for e in asked(0, 200)} == {e.id for e in OWN_WORDS}
    assert role_schedule(
        "logical", settings_of(data=DataSettings(base_share=0)), asked(0, 200), Earlier(own_words=OWN_WORDS), 0
    ).n_replay == 0  # fmt: skip


@given(st.integers(0, 500), st.integers(0, 500), st.integers(0, 200), st.floats(0, 1))
def test_replayed_rows_are_shared_out_between_the_line_and_the_base(rows, line, base, share):
    of_line, of_base = shared_out(rows, line, base, share)
    assert 0 <= of_line <= line
    assert 0 <= of_base <= base * MOST_PASSES
    assert of_line + of_base <= rows
    if share and line + base * MOST_PASSES >= rows:
        assert of_line + of_base == rows, "what the one lacks the other gives"
    if not share:
        assert not of_base
