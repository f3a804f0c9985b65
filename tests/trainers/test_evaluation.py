"""Scores are what they say, whatever answers."""

from __future__ import annotations

import dataclasses

import pytest

from curriculum.agl.puzzles import distinct_puzzles, puzzle_examples
from curriculum.example import make_example
from curriculum.preferences.pairs import make_preference
from curriculum.render import render_prompt
from curriculum.split import held_out, keys_of
from curriculum.tone import TONE_PROBES
from ledger.errors import LunaError
from ledger.metadata import CAPABILITY_ITEMS
from ledger.roles import ROLES
from tests.trainers.builders import sums
from trainers.evals.plan import Material, agl_items, plan_role
from trainers.evals.scoring import (
    EvalSettings,
    ItemSet,
    evaluate_role,
    four_answers,
    same_answer,
    score_set,
    style_drift,
)

SETTINGS = EvalSettings()


class Scripted:
    """A generator with given texts and a preference for given answers."""

    def __init__(self, texts, liked=()):
        self.texts, self.liked = texts, liked

    def generate(self, voice, prompts, max_new_tokens):
        return [self.texts.get(prompt, "") for prompt in prompts]

    def count(self, prompt):
        return len(prompt)

    def mean_log_likelihoods(self, voice, pairs, max_tokens=None):
        return [-0.1 if answer in self.liked else -1.0 for _, answer in pairs]


def open_items(count, category="what_if"):
    return [
        make_example(
            role="creative",
            stage="conversations",
            category=category,
            kind="hybrid",
            input=f"{category} q{i}",
            output=f"a{i}" if category == "what_if" else f"{category} a{i}",
            source="t",
        )
        for i in range(count)
    ]


def test_exact_counts_answers_that_are_equal_but_for_white_space():
    items = sums("logical", 10)
    texts = {render_prompt("logical", item.input): f" {item.output}\n" for item in items[:7]}
    found = score_set(Scripted(texts), "logical", ItemSet(items, 1), SETTINGS)
    record = found.record(3, "logical", "recall")
    assert (record.value, record.n, record.method, record.gen_id) == (0.7, 10, "exact", 3)
    assert record.low < 0.7 < record.high
    assert record.details["by_category"] == {"agl/comparison": [7, 10]}
    assert not same_answer("● ●", "●")


def test_choice_counts_prompts_whose_true_answer_is_the_likeliest_of_four():
    items = open_items(8)
    found = score_set(Scripted({}, liked={"a3"}), "creative", ItemSet(items, 1), SETTINGS)
    assert found.method == "choice"
    assert found.passed == (False, False, False, True, False, False, False, False)
    assert sum(score_set(Scripted({}), "creative", ItemSet(items, 1), SETTINGS).passed) == 0, "a tie is no success"


def test_distractors_are_different_answers_to_other_prompts():
    items = open_items(6)
    for item in items:
        four = four_answers(item, items, 5)
        assert four[0] == item.output
        assert len(set(four)) == 4
        assert four == four_answers(item, items, 5)
    with pytest.raises(LunaError, match="needs 4"):
        four_answers(items[0], items[:3], 5)


def test_distractors_are_of_the_same_kind_where_it_has_enough():
    talk = [*open_items(2, "dialogue/ai"), *open_items(2, "dialogue/money")]
    few = open_items(2, "poetry")
    items = [*open_items(20), *talk, *few]
    for item in talk:
        assert all(answer.startswith("dialogue/") for answer in four_answers(item, items, 5))
    assert len(set(four_answers(few[0], items, 5))) == 4, "a kind of two borrows from the others"


def test_a_set_with_few_open_answers_takes_wrong_ones_from_all_that_the_role_knows():
    few, known = open_items(3, "poetry"), [*open_items(9, "poetry"), *open_items(9, "dialogue/ai")]
    assert all(answer.startswith("poetry") for answer in four_answers(few[0], few, 5, known)), "its own kind first"
    found = score_set(Scripted({}, liked={few[1].output}), "creative", ItemSet(few, 1, known), SETTINGS)
    assert found.passed == (False, True, False)


def test_style_drift_is_the_share_of_probes_answered_with_a_corporate_phrase():
    texts = {render_prompt("dialectical", TONE_PROBES[0]): "As an AI language\nmodel, I cannot."}
    texts[render_prompt("dialectical", TONE_PROBES[1])] = "I am sorry about your dog."
    record = style_drift(Scripted(texts), "dialectical", 0, SETTINGS)
    assert (record.value, record.n) == (1 / len(TONE_PROBES), len(TONE_PROBES))
    assert record.details["answers"][TONE_PROBES[1]] == "I am sorry about your dog."


def test_the_corporate_phrases_are_a_setting():
    texts = {render_prompt("creative", TONE_PROBES[0]): "yours faithfully"}
    own = EvalSettings(corporate_phrases=("yours faithfully",))
    assert style_drift(Scripted(texts), "creative", 0, own).value == 1 / len(TONE_PROBES)
    assert style_drift(Scripted(texts), "creative", 0, SETTINGS).value == 0.0


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
        earlier=[],
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


def test_recall_leaves_out_what_was_just_replayed_and_g0_has_none():
    earlier = puzzle_examples(distinct_puzzles(3, 300), "logical")
    plan = plan_role("logical", Material(earlier, earlier, trained_now=earlier[:200]), SETTINGS, 1)
    assert plan.recall is not None
    assert {item.id for item in plan.recall} == {item.id for item in earlier[200:]}
    first = plan_role("logical", Material(earlier, None, trained_now=earlier), SETTINGS, 1)
    assert first.recall is None
    scores = {score.eval: score for score in evaluate_role(Scripted({}), first, 0, SETTINGS)}
    assert (scores["recall"].value, scores["recall"].n) == (1.0, 0)
    assert scores["base_agl_accuracy"].n == 140
    assert scores["generalization"].value == 0.0
