"""Child, parent and earlier generations on the same items; scores are what they say, whatever answers."""

from __future__ import annotations

import gc
import weakref

import pytest

from curriculum.everyday import FORMS
from curriculum.example import make_example
from curriculum.render import render_prompt
from curriculum.tone import TONE_PROBES
from ledger.errors import LunaError
from ledger.rules.gates import GateSettings
from tests.trainers.builders import CPU, LORA, make_home, sums, tiny_base
from tests.trainers.evals.builders import (
    SETTINGS,
    Table,
    adapters,
    everyday,
    models_of,
    open_items,
    plan_for,
    scores_of,
)
from trainers.config import TrainSettings
from trainers.evals.exam import Compared, Recalled, half_of
from trainers.evals.manners import known_answers
from trainers.evals.models import Models, Speaker
from trainers.evals.scoring import asking_of
from trainers.evals.settings import EvalSettings
from trainers.fused.engine import FusedEngine
from trainers.models.adapter_set import AdapterSet
from trainers.models.adapters import initial_adapter, write_adapter


def two(folder):
    """Folders whose equal adapters are opened apart."""
    for name in ("child", "parent"):
        (folder / name).mkdir()
        yield folder / name


def prompt_of(item):
    return render_prompt(item.role, item.input, item.context)


def nats(by_answer, otherwise=-1.0):
    return lambda voice, prompt, answer: by_answer.get(answer, otherwise)


def test_open_items_pass_where_the_child_finds_the_answer_likelier_than_the_parent():
    items = open_items(10)
    child = Table(mean=nats({item.output: -0.5 for item in items[:7]}))
    score = scores_of(models_of(child, Table()), plan_for(items))["generalization"]
    assert (score.value, score.n, score.method, score.gen_id) == (0.7, 10, "better", 3)
    assert score.details["by_category"] == {"talk": [7, 10]}
    opened = score.details["open"]
    assert (opened["n"], opened["better"], opened["gain"]) == (10, 7, pytest.approx(0.35))
    assert opened["low"] < 0.35 < opened["high"]
    assert score.details["closed"] == {"n": 0, "child": 0, "parent": 0, "won": 0, "lost": 0}
    assert (score.details["pool"], score.details["half"]) == (10, None)


def test_a_child_that_is_its_parent_is_better_at_nothing():
    items = [*open_items(12), *sums("creative", 8)]
    table = Table({prompt_of(item): item.output for item in items[12:15]}, nats({item.output: -0.2 for item in items}))
    details = scores_of(models_of(table, table), plan_for(items))["generalization"].details
    assert (details["open"]["better"], details["open"]["gain"], details["open"]["high"]) == (0, 0.0, 0.0)
    assert details["closed"] == {"n": 8, "child": 3, "parent": 3, "won": 0, "lost": 0}


def test_equal_adapters_of_a_real_model_gain_exactly_nothing(tmp_path):
    home = make_home(tmp_path)
    engine = FusedEngine(tiny_base(home), TrainSettings(dtype="float32"), LORA, CPU)
    shapes = engine.lean.model.module_shapes
    tensors = {name: value + 0.01 for name, value in initial_adapter(shapes, LORA.rank, 3, "creative").items()}
    sets = [AdapterSet(folder, {"creative": write_adapter(folder, tensors, LORA, "tiny")}) for folder in two(tmp_path)]
    models = Models(Compared(sets[0], sets[1]), engine.generator)
    details = scores_of(models, plan_for([*open_items(25), *sums("creative", 5)]))["generalization"].details
    assert [details["open"][name] for name in ("n", "better", "gain", "low", "high")] == [25, 0, 0.0, 0.0, 0.0]
    assert (details["closed"]["won"], details["closed"]["lost"]) == (0, 0)


def test_an_open_answer_that_comes_word_for_word_passes_and_one_that_came_before_is_told():
    items = open_items(10)
    said = {prompt_of(item): item.output for item in items}
    parent = Table(dict(list(said.items())[:6]))
    child = Table(dict(list(said.items())[:8]), nats({item.output: -1.2 for item in items}))
    score = scores_of(models_of(child, parent), plan_for(items))["generalization"]
    assert score.value == 0.8, "less likely than before, and given all the same"
    assert (score.details["open"]["better"], score.details["open"]["known"]) == (0, 6)


def test_a_gate_that_asks_for_more_items_gets_them():
    child = Table(mean=lambda *_: -0.5)
    models = models_of(child, Table())
    score = scores_of(models, plan_for(open_items(300)), gates=GateSettings(min_items=250))["generalization"]
    assert score.n == 300


def test_closed_items_tell_what_was_won_and_lost_against_the_parent():
    items = [*sums("creative", 6), *open_items(2)]
    right = {
        name: {prompt_of(items[i]): items[i].output for i in of} for name, of in {"c": (0, 1, 2), "p": (2, 3)}.items()
    }
    score = scores_of(models_of(Table(right["c"]), Table(right["p"])), plan_for(items))["generalization"]
    assert score.method == "mixed"
    assert score.details["closed"] == {"n": 6, "child": 3, "parent": 2, "won": 2, "lost": 1}
    assert score.value == 3 / 8


def test_the_first_generation_is_compared_with_the_base_in_its_own_prompts():
    items = open_items(4)
    voices = []

    def mean(voice, prompt, answer):
        voices.append((voice, prompt))
        return -2.0 if voice == "base" else -1.0

    scores = scores_of(models_of(Table(mean=mean)), plan_for(items))
    assert (scores["generalization"].value, scores["recall"].n) == (1.0, 0)
    assert {prompt for voice, prompt in voices if voice == "base"} == {prompt_of(item) for item in items}


def test_earlier_answers_are_kept_up_to_a_quarter_of_a_nat_below_whoever_learned_them():
    items = open_items(4)
    recall = [Recalled(item, gen) for item, gen in zip(items, (0, 0, 1, 1), strict=True)]
    child = Table(mean=nats({item.output: mean for item, mean in zip(items, (-1.2, -1.3, -1.2, -1.3), strict=True)}))
    models = models_of(child, Table(), {0: Table(), 1: Table(mean=nats({}, -1.1))})
    score = scores_of(models, plan_for(open_items(3, "new"), recall))["recall"]
    assert (score.value, score.method) == (0.75, "kept")
    assert (score.details["kept"], score.details["closed"], score.details["pool"]) == ([3, 4], [0, 0], 4)


def recall_of_sums(count, learned, child):
    """The score of so many sums, of which the earlier generation and the child answer those of two ranges."""
    items = sums("creative", count)
    own, other = (Table({prompt_of(items[n]): items[n].output for n in known}) for known in (child, learned))
    plan = plan_for([*open_items(3), *items], [Recalled(item, 0) for item in items])
    return scores_of(models_of(own, Table(), {0: other}), plan)["recall"]


def test_closed_answers_of_earlier_data_must_come_whole():
    score = recall_of_sums(4, learned=range(4), child=range(3))
    assert (score.value, score.method, score.details["closed"]) == (0.75, "exact", [3, 4])


def test_an_unchanged_copy_has_lost_nothing_whatever_its_line_never_learned():
    score = recall_of_sums(150, learned=range(30, 150), child=range(30, 150))
    assert (score.value, score.n, score.details["never_learned"]) == (1.0, 120, 30)
    assert recall_of_sums(150, learned=range(30, 150), child=range(60, 150)).value == 0.75


def test_all_of_earlier_data_counts_where_too_little_of_it_was_learned():
    score = recall_of_sums(150, learned=range(51, 150), child=range(51, 150))
    assert (score.value, score.n, score.details["never_learned"]) == (99 / 150, 150, 0)


def test_a_generation_whose_adapters_are_gone_is_named():
    recall = [Recalled(item, 7) for item in open_items(2)]
    with pytest.raises(LunaError, match="G7"):
        scores_of(models_of(Table(), Table()), plan_for(open_items(3, "new"), recall))


def overlap(voice, prompt, answer):
    """A model that knows which words belong together, and nothing else."""
    words = set(answer.lower().split())
    return -1.0 + len(words & set(prompt.lower().split())) / len(words)


def bound_of(answers):
    items = [
        make_example(
            role="creative", stage="conversations", category="talk", kind="hybrid", source="t", output=answer,
            input=f"tell me about word{n} and word{n * 7 % 60} in the morning",
        )
        for n, answer in enumerate(answers)
    ]  # fmt: skip
    return scores_of(models_of(Table(mean=overlap), Table(mean=lambda *_: -5.0)), plan_for(items))["bound"]


def test_answers_that_belong_to_their_questions_are_bound_and_shuffled_ones_are_not():
    answers = [f"I like word{n} and word{n * 7 % 60} best" for n in range(60)]
    assert bound_of(answers).value > 0.8
    shuffled = bound_of([*answers[17:], *answers[:17]])
    assert shuffled.method == "prompts"
    assert shuffled.value < 0.25, "ties count for nobody"


def test_bound_is_left_out_where_too_few_open_items_were_asked():
    assert "bound" not in scores_of(models_of(Table(), Table()), plan_for([*open_items(19), *sums("creative", 30)]))
    assert scores_of(models_of(Table(), Table()), plan_for(open_items(90)))["bound"].n == 20


@pytest.mark.parametrize("one_in", [2, 3])
def test_bound_is_asked_further_where_only_some_of_the_answers_belong_to_their_questions(one_in):
    """Ten of the first twenty come about by chance more often than a gate may let pass."""
    items = open_items(90)
    own = {prompt_of(item): item.output for item in items[::one_in]}
    child = Table(mean=lambda voice, prompt, answer: -0.5 if own.get(prompt) == answer else -1.0)
    assert 40 <= scores_of(models_of(child, Table()), plan_for(items))["bound"].n <= 60


def test_the_order_of_a_set_changes_no_score():
    items = open_items(40)
    child = Table(mean=lambda voice, prompt, answer: -1.0 + len(prompt + answer) % 7 / 10)
    one, other = (scores_of(models_of(child, Table()), plan_for(own)) for own in (items, items[::-1]))
    assert one["generalization"] == other["generalization"]
    assert one["bound"] == other["bound"]


def test_the_halves_are_asked_apart_and_make_the_whole():
    items, earlier = open_items(60), open_items(40, "old")
    child, plan = Table(), plan_for(items, [Recalled(item, 0) for item in earlier], extras={"tool_syntax": items[:5]})
    asked = {}
    for half in ("choose", "confirm"):
        table = Table()
        scores = scores_of(models_of(child, table, {0: Table()}), plan, half=half)
        asked[half] = {answer for _, answer in table.rows}
        assert asked[half] == {item.output for item in items if half_of(item.id) == half}
        assert scores["recall"].n == sum(half_of(item.id) == half for item in earlier)
        assert scores["generalization"].details["half"] == scores["recall"].details["half"] == half
        assert "tool_syntax" not in scores
    assert asked["choose"] | asked["confirm"] == {item.output for item in items}


def test_a_set_is_asked_no_further_than_its_verdict_needs():
    child = Table(mean=lambda voice, prompt, answer: -0.5)
    score = scores_of(models_of(child, Table()), plan_for(open_items(300)))["generalization"]
    assert (score.n, score.details["pool"]) == (SETTINGS.block, 300)


def test_style_drift_is_the_share_of_probes_answered_with_a_corporate_phrase():
    texts = {render_prompt("creative", TONE_PROBES[0]): "As an AI language\nmodel, I cannot."}
    texts[render_prompt("creative", TONE_PROBES[1])] = "I am sorry about your dog."
    plan = plan_for(open_items(3))
    score = scores_of(models_of(Table(texts), Table()), plan)["style_drift"]
    assert (score.value, score.n) == (1 / len(TONE_PROBES), len(TONE_PROBES))
    assert [found["probe"] for found in score.details["found"]] == [TONE_PROBES[0]]
    assert score.details["answers"][TONE_PROBES[1]] == "I am sorry about your dog."
    own = EvalSettings(corporate_phrases=("about your dog",))
    assert scores_of(models_of(Table(texts), Table()), plan, own)["style_drift"].value == 2 / len(TONE_PROBES)


def test_what_the_base_knew_is_asked_again_and_bare_glyphs_are_told():
    questions = everyday(50)
    texts = {render_prompt("creative", one.question): f"It is {one.accepted[0]}." for one in questions[:40]}
    texts[render_prompt("creative", questions[49].question)] = "⊥ Both can be true."
    scores = scores_of(models_of(Table(texts), Table()), plan_for(open_items(3), everyday=questions))
    assert (scores["base_ability"].value, scores["base_ability"].n) == (0.8, 50)
    assert (scores["bare_glyphs"].value, scores["bare_glyphs"].details["found"][0]["answer"]) == (
        0.02,
        "⊥ Both can be true.",
    )
    few = scores_of(models_of(Table(), Table()), plan_for(open_items(3), everyday=questions[:19]))
    assert not {"base_ability", "bare_glyphs"} & set(few)


def test_a_base_that_knows_next_to_nothing_is_not_asked_the_whole_pool():
    pool, asking = everyday(600), asking_of(plan_for(open_items(1)), SETTINGS)
    texts = {render_prompt("creative", one.question): f"It is {one.accepted[0]}." for one in pool[1::4]}
    knowing, lost = Table(texts), Table()
    found = known_answers(Speaker(knowing, "creative"), pool, 60, SETTINGS, asking)
    assert [one.question for one in found] == pool[1::4][:60]
    assert not any(one.sure for one in found), "in one form alone"
    assert known_answers(Speaker(lost, "creative"), pool, 60, SETTINGS, asking) == []
    assert len(lost.decoded) == 120 < len(knowing.decoded)


def test_what_a_training_may_be_held_to_is_what_the_base_gets_right_however_it_is_asked():
    pool, asking = everyday(100), asking_of(plan_for(open_items(1)), SETTINGS)
    forms = ["{}", *FORMS]
    texts = {
        render_prompt("creative", form.format(one.question)): f"It is {one.accepted[0]}."
        for number, one in enumerate(pool)
        for form in forms[: 1 + number % 3]
    }
    found = known_answers(Speaker(Table(texts), "creative"), pool, 90, EvalSettings(everyday_items=25), asking)
    assert [one.question for one in found] == pool[:90]
    assert [one.question for one in found if one.sure] == pool[2::3][:25], "as many as are asked"


def test_open_extras_are_compared_with_the_base_whatever_the_parent_and_closed_ones_come_whole():
    puzzles, tools = sums("creative", 4), open_items(4, "tool_syntax")
    child = Table(
        {prompt_of(item): item.output for item in puzzles[:3]},
        lambda voice, prompt, answer: -2.0 if voice == "base" else -1.0,
    )
    plan = plan_for(
        [*open_items(3), *puzzles],
        extras={"agl_accuracy": puzzles, "tool_syntax": tools, "role_understanding": []},
        base_extras=("agl_accuracy",),
    )
    scores = scores_of(models_of(child, Table(mean=lambda *_: -0.1)), plan)
    assert (scores["agl_accuracy"].value, scores["agl_accuracy"].method) == (0.75, "exact")
    assert (scores["base_agl_accuracy"].value, scores["base_agl_accuracy"].method) == (0.0, "exact")
    assert (scores["tool_syntax"].value, scores["tool_syntax"].method) == (1.0, "better")
    assert "role_understanding" not in scores


def test_no_more_than_two_sets_of_adapters_are_held_and_equal_ones_are_opened_once():
    opened, alive, most = [], weakref.WeakSet(), []

    def open_model(own):
        gc.collect()
        most.append(len(alive))
        opened.append(own.shas["creative"])
        table = Table()
        alive.add(table)
        return table

    learned = {gen: adapters(f"g{gen}") for gen in range(3)}
    models = Models(Compared(adapters("child"), adapters("g2"), learned), open_model)
    recall = [Recalled(item, n % 3) for n, item in enumerate(open_items(30, "old"))]
    scores_of(models, plan_for(open_items(30), recall))
    assert opened == ["child", "g0", "g1", "g2"], "the parent is the generation that learned last"
    assert max(most) == 1, "one is let go before the next is opened"
