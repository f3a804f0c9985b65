"""Collecting and freezing data: a delta is a set of examples, whatever files it came in."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from cluster.request import GenerationRequest, PinnedBase, RunSpec
from cluster.settings import DataSettings, Settings
from cluster.steps import data
from cluster.steps.filling import MOST_EVERYDAY, everyday_filling
from cluster.steps.lessons import new_lessons
from cluster.steps.planning import make_plan
from curriculum.everyday.lessons import is_everyday
from curriculum.example import make_example
from curriculum.parquet import NewData, freeze_new_data, read_new_data, write_examples
from curriculum.preferences.pairs import freeze_preferences, make_preference
from curriculum.recipes.build import build_recipe
from ledger.conversations import Label
from ledger.errors import LunaError
from ledger.home import Home
from ledger.records import Stop
from ledger.roles import ROLES
from ledger.rules.gates import GateSettings
from ledger.rules.karma import KarmaSettings
from ledger.rules.stop_rule import stopped_refusal
from ledger.store import Stores
from tests.cluster.builders import even_numbers
from tests.ledger.builders import make_move, make_row, make_trio
from tests.ledger.test_conversations import AT, a_turn
from trainers.config import TrainSettings


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home").create()


@pytest.fixture
def stores(home):
    with Stores.create(home) as opened:
        opened.ledger.create_lineage("main", "a" * 64)
        yield opened


def nobody(examples, with_own):
    raise AssertionError("the parent has no say in what is replayed")


def asked_for(*shas, fill=False):
    settings = Settings(gates=GateSettings(min_items=5), data=DataSettings(fill=fill))
    return GenerationRequest(settings=settings, base=PinnedBase(source="tiny", sha="a" * 64), data=shas)


def collected_from(home, stores, *files, fill=False):
    shas = [write_examples(home.inbox_dir, own) for own in files]
    return data.collect(home, stores, "main", asked_for(*shas, fill=fill))


def found(home, collected):
    return read_new_data(home.data_file(collected.collected_sha))


def test_the_same_examples_in_other_files_are_the_same_data(home, stores):
    first, second = even_numbers(0, 60), even_numbers(60, 60)
    assert collected_from(home, stores, first, second) == collected_from(home, stores, second, first)
    assert collected_from(home, stores, first, second) == collected_from(home, stores, [*second, *first])


def test_every_example_is_frozen_on_one_side(home, stores):
    new = found(home, collected_from(home, stores, even_numbers(0, 100)))
    assert not {e.id for e in new.train} & {e.id for e in new.holdout}
    assert {e.id for e in [*new.train, *new.holdout]} == {e.id for e in even_numbers(0, 100)}


def test_filling_is_known_as_such_and_does_not_make_the_data_another(home, stores):
    new = found(home, collected_from(home, stores, even_numbers(0, 60)))
    more = even_numbers(1000, 10)
    filled = NewData([*new.train, *more], new.holdout, frozenset(e.id for e in more))
    assert read_new_data(home.data_file(freeze_new_data(filled, home))) == filled
    assert filled.brought_sha == new.brought_sha != NewData([*new.train, *more], new.holdout).brought_sha


def test_a_stopped_lineage_refuses_the_data_of_both_generations_put_together(home, stores):
    first, second = even_numbers(0, 60), even_numbers(60, 60)
    collected = [collected_from(home, stores, own) for own in (first, second)]
    rows = [make_row(collected_sha=one.collected_sha) for one in collected]
    stop = Stop(reason="stopped.", data_delta_shas=data.brought_shas(home, rows))
    together = found(home, collected_from(home, stores, first, second))
    assert stopped_refusal(stop, together.brought_sha)
    assert all(stopped_refusal(stop, found(home, one).brought_sha) for one in collected)
    more = found(home, collected_from(home, stores, first, second, even_numbers(120, 30)))
    assert not stopped_refusal(stop, more.brought_sha)


def test_a_holdout_that_would_be_too_small_says_how_much_to_bring(home, stores):
    with pytest.raises(LunaError, match="Bring about 25 examples"):
        collected_from(home, stores, even_numbers(0, 6))


def test_too_little_is_filled_from_the_recipes_and_known_as_filling(home, stores):
    own = even_numbers(0, 6)
    new = found(home, collected_from(home, stores, own, fill=True))
    every = {e.id for e in [*new.train, *new.holdout]}
    assert {e.id for e in own} == every - new.filling
    assert all(sum(e.role == role for e in new.holdout) >= 5 for role in ROLES)
    assert new.filling
    assert any(map(is_everyday, new.train))


def test_everyday_lessons_of_a_first_generation_are_filling_too_and_only_where_filling_is_on(home, stores):
    own = even_numbers(0, 400)
    new = found(home, collected_from(home, stores, own, fill=True))
    added = [e for e in (*new.train, *new.holdout) if e.id in new.filling]
    assert min(Counter(e.role for e in added).values()) >= 60
    assert all(map(is_everyday, added))
    assert found(home, collected_from(home, stores, own)).filling == frozenset()


def test_a_first_generation_without_everyday_lessons_gets_some_and_says_why(stores, caplog):
    caplog.set_level("INFO", "cluster")
    own = [e for e in build_recipe("logical", 1000, 1) if not is_everyday(e)]
    found = everyday_filling(stores.ledger, "main", Settings(), own)
    assert all(map(is_everyday, found))
    assert Counter(e.role for e in found) == {"creative": 60, "logical": 100, "dialectical": 60}, (
        "a tenth, or the least"
    )
    (told,) = caplog.messages
    assert "60 for creative, 100 for logical" in told
    assert "the base's own abilities stay" in told
    assert found == everyday_filling(stores.ledger, "main", Settings(), own), "collecting twice collects the same"
    assert everyday_filling(stores.ledger, "main", Settings(), [*own, *found]) == [], "there are some now"


def test_a_first_generation_of_very_much_gets_as_many_everyday_lessons_as_there_are(stores):
    """A tenth of a hundred thousand is more than can be made, and ended the run."""
    own = [e for e in even_numbers(0, 1) if e.role == "logical"] * 100_000
    found = everyday_filling(stores.ledger, "main", Settings(), own)
    assert Counter(e.role for e in found)["logical"] == MOST_EVERYDAY


def test_where_nothing_is_new_nothing_is_filled(home, stores):
    with pytest.raises(LunaError, match="inbox is empty"):
        collected_from(home, stores, fill=True)


def test_talks_alone_are_data_unless_they_are_switched_off(home, stores):
    for number in range(3):
        turn = a_turn(number + 1)
        stores.conversations.add_turn(turn)
        stores.conversations.add_label(turn.id, Label(correction=f"better {number}", at=AT), KarmaSettings())
    request = asked_for(fill=True)
    new = found(home, data.collect(home, stores, "main", request))
    assert {e.output for e in [*new.train, *new.holdout]} >= {"better 0", "better 1", "better 2"}
    off = request.model_copy(update={"settings": Settings(data=DataSettings(conversations=False))})
    with pytest.raises(LunaError, match="inbox is empty"):
        data.collect(home, stores, "main", off)


def test_a_correction_is_learned_though_a_file_has_the_same_words_without_weight_or_group(home, stores):
    turn = a_turn(1)
    stores.conversations.add_turn(turn)
    stores.conversations.add_label(turn.id, Label(correction="better", at=AT), KarmaSettings())
    (lesson,) = new_lessons(stores, "main")
    of_file = make_example(
        role=lesson.role, stage="manual", category="x", kind=lesson.kind, input=lesson.input, output=lesson.output,
        weight=0.0, source="file",
    )  # fmt: skip
    assert of_file.id == lesson.id
    for weight in (0.0, 1.0):
        sha = write_examples(home.inbox_dir, [replace(of_file, weight=weight)])
        assert data.new_examples(home, stores, "main", asked_for(sha)) == ([lesson], 0)


@pytest.mark.parametrize("of_role", [("creative", 1.0), ("logical", 0.0)])
def test_pairs_that_teach_another_role_or_weigh_nothing_are_no_data_for_a_role_without_examples(home, stores, of_role):
    role, weight = of_role
    pairs = [
        make_preference(
            role=role, prompt=f"{i}?", chosen="a", rejected="b", margin=1.0, weight=weight, origin="imported"
        )
        for i in range(20)
    ]  # fmt: skip
    own = [e for e in even_numbers(0, 60) if e.role != "logical"]
    held_out = [
        e for e in found(home, collected_from(home, stores, even_numbers(0, 60))).holdout if e.role == "logical"
    ]
    request = asked_for(write_examples(home.inbox_dir, [*own, *held_out]))
    request = request.model_copy(update={"preferences": freeze_preferences(pairs, home)})
    with pytest.raises(LunaError, match="no new examples for logical to train on"):
        data.collect(home, stores, "main", request)


def test_a_plan_warns_of_too_little_to_recall_only_if_the_whole_line_has_too_little(home, stores, caplog):
    """Replay may be off, or drawn from a part of the line: recall is asked of all of it."""
    few = Settings(
        train=TrainSettings(steps=1, batch_size=4), gates=GateSettings(min_items=5), data=DataSettings(replay_share=0)
    )

    def planned(gen_id, start):
        asked = asked_for(write_examples(home.inbox_dir, even_numbers(start, 60))).model_copy(update={"settings": few})
        run = stores.journal.create_run(f"run-{gen_id}", "main", gen_id, asked.model_dump(mode="json"))
        caplog.clear()
        plan = make_plan(
            RunSpec.of(home, run), stores.ledger, data.collect(home, stores, "main", asked), (), nobody
        ).examples
        stores.journal.finish_run(run.run_id, "done", "accepted")
        return plan, [text for text in caplog.messages if "recall of the next generation" in text]

    plan, warned = planned(0, 0)
    assert len(warned) == 3
    assert "trained on 4 examples" in warned[0]
    rows = make_trio(
        0,
        data_delta_sha=plan.delta_sha,
        holdout_sha=plan.holdout_sha,
        base_sha="a" * 64,
        parent_sha="a" * 64,
        collected_sha="c" * 64,
    )
    stores.ledger.record_judgement(rows, [], make_move(None, 0))
    _, warned = planned(1, 100)
    assert not warned, "4 and 4 are 8, and 5 are needed"
