"""The pairs of a generation with two channels: gathered from everywhere, or refused with a reason."""

from __future__ import annotations

import json

import pytest

from cluster.settings import Settings
from curriculum.preferences.pairs import read_preference_set
from jobs.generation.preferences import frozen_preferences, gather
from ledger.conversations import Label
from ledger.errors import LunaError
from ledger.home import Home
from ledger.roles import ROLES
from ledger.store import Stores
from tests.curriculum.preferences.test_pairs import labelled
from tests.ledger.test_conversations import AT, a_turn

DUAL = Settings.model_validate({"channels": {"mode": "dual"}})


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home").create()


def pairs_file(tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps({"prompt": "P", "chosen": "yes", "rejected": "no"}) + "\nnot a pair\n")
    return file


def test_files_labels_and_conversations_come_together(home, tmp_path, caplog):
    caplog.set_level("INFO")
    folder = home.data_dir / "teacher" / "seed"
    folder.mkdir(parents=True)
    labels = [labelled("good", 0.75, intensity=0.5), labelled("bad", -0.75)]
    (folder / "labels.jsonl").write_text("\n".join(one.model_dump_json() for one in labels))
    with Stores.create(home) as stores:
        stores.conversations.add_turn(a_turn(1))
        stores.conversations.add_label(a_turn(1).id, Label(correction="what it should be", at=AT))
    found = gather(home, DUAL, [pairs_file(tmp_path)])
    assert {(pair.origin, pair.role, pair.chosen, pair.weight) for pair in found} == {
        ("correction", "logical", "what it should be", 1.0),
        *(("imported", role, "yes", 1.0) for role in ROLES),
        *(("teacher", role, "good", 0.5) for role in ROLES),
    }
    assert "pairs.jsonl:2: not JSON" in caplog.text
    assert read_preference_set(home.data_file(frozen_preferences(home, DUAL, [pairs_file(tmp_path)]))) == found


def test_a_home_without_pairs_has_none(home):
    assert frozen_preferences(home, DUAL, []) == ""


def test_pairs_for_a_generation_of_examples_alone_are_refused(home, tmp_path):
    assert frozen_preferences(home, Settings(), []) == ""
    with pytest.raises(LunaError, match="add --channels dual"):
        frozen_preferences(home, Settings(), [pairs_file(tmp_path)])
