"""Collecting and freezing data: a delta is a set of examples, whatever files it came in."""

from __future__ import annotations

import pytest

from cluster.request import GenerationRequest, PinnedBase
from cluster.settings import Settings
from cluster.steps import data
from curriculum.parquet import read_examples, write_examples
from ledger.errors import LunaError
from ledger.home import Home
from ledger.records import Stop
from ledger.rules.gates import GateSettings
from ledger.rules.stop_rule import stopped_refusal
from ledger.store import Ledger
from tests.cluster.builders import even_numbers


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home").create()


@pytest.fixture
def ledger(home):
    with Ledger.create(home) as opened:
        opened.create_lineage("main", "a" * 64)
        yield opened


def asked_for(*shas):
    settings = Settings(gates=GateSettings(min_items=5))
    return GenerationRequest(settings=settings, base=PinnedBase(source="tiny", sha="a" * 64), data=shas)


def frozen(home, ledger, *files):
    shas = [write_examples(home.inbox_dir, own) for own in files]
    return data.collect(home, ledger, "main", asked_for(*shas))


def test_the_same_examples_in_other_files_are_the_same_delta(home, ledger):
    first, second = even_numbers(0, 60), even_numbers(60, 60)
    assert frozen(home, ledger, first, second) == frozen(home, ledger, second, first)
    assert frozen(home, ledger, first, second) == frozen(home, ledger, [*second, *first])


def test_no_example_of_the_holdout_is_in_the_delta(home, ledger):
    collected = frozen(home, ledger, even_numbers(0, 100))
    trained, held = (read_examples(home.data_file(sha)) for sha in (collected.delta_sha, collected.holdout_sha))
    assert not {e.id for e in trained} & {e.id for e in held}
    assert {e.id for e in [*trained, *held]} == {e.id for e in even_numbers(0, 100)}


def test_a_stopped_lineage_refuses_both_deltas_put_together(home, ledger):
    first, second = even_numbers(0, 60), even_numbers(60, 60)
    deltas = {frozen(home, ledger, own).delta_sha for own in (first, second)}
    stop = Stop(reason="stopped.", data_delta_shas=(*sorted(deltas), data.freeze_union(home, deltas)))
    together = frozen(home, ledger, first, second).delta_sha
    assert together not in deltas
    assert stopped_refusal(stop, together)
    assert not stopped_refusal(stop, frozen(home, ledger, first, second, even_numbers(120, 30)).delta_sha)


def test_a_holdout_that_would_be_too_small_says_how_much_to_bring(home, ledger):
    with pytest.raises(LunaError, match="Bring about 25 examples"):
        frozen(home, ledger, even_numbers(0, 6))
