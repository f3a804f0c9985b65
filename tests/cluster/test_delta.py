"""Collecting and freezing data: a delta is a set of examples, whatever files it came in."""

from __future__ import annotations

import pytest

from cluster.request import GenerationRequest, PinnedBase
from cluster.settings import DataSettings, Settings
from cluster.steps import data
from curriculum.parquet import NewData, freeze_new_data, read_new_data, write_examples
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
from tests.ledger.builders import make_row
from tests.ledger.test_conversations import AT, a_turn


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home").create()


@pytest.fixture
def stores(home):
    with Stores.create(home) as opened:
        opened.ledger.create_lineage("main", "a" * 64)
        yield opened


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
