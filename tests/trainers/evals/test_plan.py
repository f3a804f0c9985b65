"""What each role is asked: held out, like nothing that was trained, in an order that depends on nothing else."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curriculum.agl.puzzles import distinct_puzzles, puzzle_examples
from curriculum.example import make_example
from curriculum.preferences.pairs import make_preference
from curriculum.split import held_out, keys_of
from ledger.metadata import CAPABILITY_ITEMS
from ledger.roles import ROLES
from tests.trainers.builders import sums
from tests.trainers.evals.builders import SETTINGS, everyday, open_items
from trainers.evals.plan import Material, agl_items, plan_role
from trainers.evals.settings import EvalSettings

NOTHING_TRAINED = Material(holdout=(), earlier=None, trained_now=())


def test_agl_items_are_held_out_and_even_over_the_fourteen_families():
    items = agl_items("logical", 140, NOTHING_TRAINED)
    assert held_out(items, 20) == items
    counts = {category: sum(i.category == category for i in items) for category in {i.category for i in items}}
    assert set(counts.values()) == {10}
    assert len(counts) == 14


def test_capability_items_follow_the_share_of_the_holdout():
    few = agl_items("logical", 140, dataclasses.replace(NOTHING_TRAINED, percent=3))
    assert held_out(few, 3) == few
    assert len(few) > 126, "chess alone has too few squares"


def test_no_capability_item_was_trained_in_any_role_or_channel_now_or_earlier():
    plan = plan_role("dialectical", NOTHING_TRAINED, SETTINGS, 1)
    asked = [item for items in plan.extras.values() for item in items]
    now, pairs, before = asked[0::3], asked[1::3], asked[2::3]
    trained = Material(
        holdout=(),
        earlier={},
        trained_now=[dataclasses.replace(item, role="creative", input=f" {item.input}\n") for item in now],
        trained_pairs=[
            make_preference(role="logical", prompt=e.input, chosen="a", rejected="b", margin=1, origin="imported")
            for e in pairs
        ],
        sides_of=lambda keys: dict.fromkeys(
            keys & {key for item in before for key in keys_of(item)}, frozenset({"train"})
        ),
    )
    again = plan_role("dialectical", trained, SETTINGS, 1)
    assert {name: len(items) for name, items in again.extras.items()} == {
        "agl_accuracy": 56, "role_understanding": 50, "tool_syntax": 50,
    }  # fmt: skip
    assert not {item.input for items in again.extras.values() for item in items} & {item.input for item in asked}


@pytest.mark.parametrize("role", ROLES)
def test_by_default_every_measured_capability_has_the_fifty_items_it_needs(role):
    extras = plan_role(role, NOTHING_TRAINED, SETTINGS, 1).extras
    assert {name: len(items) for name, items in extras.items() if 0 < len(items) < CAPABILITY_ITEMS} == {}
    assert len(extras["agl_accuracy"]) == (140 if role == "logical" else 56)
    assert SETTINGS.items >= CAPABILITY_ITEMS


def test_recall_leaves_out_what_was_just_replayed_and_knows_who_learned_the_rest():
    puzzles = puzzle_examples(distinct_puzzles(3, 300), "logical")
    earlier = {0: puzzles[:250], 2: puzzles[250:]}
    plan = plan_role("logical", Material(puzzles, earlier, trained_now=puzzles[:200]), SETTINGS, 1)
    assert plan.recall is not None
    assert {one.example.id: one.gen_id for one in plan.recall} == {
        item.id: gen_id for gen_id, items in earlier.items() for item in items if item not in puzzles[:200]
    }
    assert plan.base_extras == ()
    first = plan_role("logical", Material(puzzles, None, trained_now=puzzles), SETTINGS, 1)
    assert (first.recall, first.base_extras) == (None, ("agl_accuracy",))


def test_of_few_earlier_examples_those_that_share_a_question_with_what_was_replayed_are_asked_as_well():
    """Replay leaves a hundred, and dialogues answer a question in several ways: the ninety others were too few."""
    talk = open_items(60)
    twins = [make_example(**fields_of(item) | {"output": f"{item.output} Or so."}) for item in talk[:20]]
    earlier, replayed = {0: [*talk, *twins]}, talk[:30]
    for least, asked in ((0, 30), (30, 30), (45, 45), (100, 50)):
        plan = plan_role("creative", Material(talk, earlier, replayed, least_recall=least), SETTINGS, 1)
        assert plan.recall is not None
        found = {one.example.id for one in plan.recall}
        assert len(found) == len(plan.recall) == asked
        assert {item.id for item in talk[30:]} <= found
        assert not found & {item.id for item in replayed}


def fields_of(item):
    return {name: getattr(item, name) for name in ("role", "stage", "category", "kind", "input", "output")}


def test_a_category_is_closed_by_all_that_the_role_knows_of_it():
    labels = [
        dataclasses.replace(item, category="imported", output=("spam", "ham")[n % 2])
        for n, item in enumerate(sums("creative", 30))
    ]
    lone = Material(holdout=[*labels[:2], *open_items(3)], earlier=None, trained_now=labels[2:])
    assert plan_role("creative", lone, SMALL, 1).closed >= {"imported"}
    assert "talk" not in plan_role("creative", lone, SMALL, 1).closed


def test_each_role_is_asked_the_everyday_questions_that_its_base_knew():
    material = Material(open_items(3), None, [], everyday={"creative": everyday(5)})
    assert plan_role("creative", material, SMALL, 1).everyday == tuple(everyday(5))
    assert plan_role("logical", material, SMALL, 1).everyday == ()


SMALL = EvalSettings(items=20, agl_items=14, extra_items=0)
ITEMS = open_items(50)


@settings(max_examples=5, deadline=None)
@given(st.permutations(range(50)))
def test_sets_stand_in_one_order_whatever_order_the_material_has(order):
    mixed = [ITEMS[i] for i in order]
    plans = [plan_role("creative", Material(items, {4: items}, trained_now=()), SMALL, 1) for items in (ITEMS, mixed)]
    assert plans[0] == plans[1]
    fewer = plan_role("creative", Material(mixed, None, ()), SMALL.model_copy(update={"items": 7}), 1)
    assert fewer.generalization == plans[0].generalization[:7], "a block is a prefix"
