"""Collecting and freezing data: a delta is a set of examples, whatever files it came in."""

from __future__ import annotations

import pytest

from cluster.request import GenerationRequest, PinnedBase
from cluster.settings import Settings
from cluster.steps import data
from curriculum.parquet import NewData, freeze_new_data, read_new_data, write_examples
from ledger.errors import LunaError
from ledger.home import Home
from ledger.records import Stop
from ledger.rules.gates import GateSettings
from ledger.rules.stop_rule import stopped_refusal
from ledger.store import Stores
from tests.cluster.builders import even_numbers
from tests.ledger.builders import make_row


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home").create()


@pytest.fixture
def stores(home):
    with Stores.create(home) as opened:
        opened.ledger.create_lineage("main", "a" * 64)
        yield opened


def asked_for(*shas):
    settings = Settings(gates=GateSettings(min_items=5))
    return GenerationRequest(settings=settings, base=PinnedBase(source="tiny", sha="a" * 64), data=shas)


def collected_from(home, stores, *files):
    shas = [write_examples(home.inbox_dir, own) for own in files]
    return data.collect(home, stores, "main", asked_for(*shas))


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
