from __future__ import annotations

import pytest

from ledger.errors import LunaError
from ledger.metadata import (
    METADATA_FILE,
    build_metadata,
    capabilities,
    capability_minimums,
    contradictions,
    read_metadata,
    write_metadata,
)
from ledger.rules.gates import GateSettings
from tests.ledger.builders import make_eval, make_row, sha

MINIMUMS = capability_minimums(GateSettings())


def test_a_capability_is_listed_only_if_its_eval_passed():
    evals = [
        make_eval("logical", "recall", 0.95),
        make_eval("logical", "generalization", 0.85),  # on the bound
        make_eval("logical", "agl_accuracy", 0.99, n=49),  # too few items
        make_eval("logical", "tool_syntax", 0.86, n=50),
        make_eval("logical", "style_drift", 0.9),  # a fault rate
        make_eval("logical", "base_agl", 1.0),  # not the adapter's merit
    ]
    listed = capabilities(evals, MINIMUMS)
    assert listed == [
        {"name": "recall", "score": 0.95, "n": 100, "interval": [0.0, 1.0]},
        {"name": "tool_syntax", "score": 0.86, "n": 50, "interval": [0.0, 1.0]},
    ]


def test_metadata_says_what_the_design_asks_for():
    row = make_row(n_delta=200, n_replay=100)
    metadata = build_metadata(row, n_conversations=50, passed=[], age=1, karma_earned=100.0)
    assert metadata["generation"] == 0
    assert metadata["role"] == "logical"
    assert metadata["model_file"] == {"name": "adapter_model.safetensors", "sha256": row.child_sha}
    assert metadata["training_data"]["base"] == 250
    assert metadata["training_data"]["conversations"] == 50
    assert metadata["training_data"]["total_examples"] == 300
    assert metadata["karma"] == {"earned": 100.0, "threshold": 250, "progress": 0.4, "as_of": row.trained_at}
    assert metadata["age"] == {"number": 1, "name": "vocabulary"}
    assert metadata["next_age_up"] == {"name": "patterns", "karma_missing": 150.0}
    assert metadata["trained_at"] == row.trained_at


def test_metadata_survives_the_disk_and_agrees_with_its_row(tmp_path):
    row = make_row()
    write_metadata(tmp_path, build_metadata(row, n_conversations=0, passed=[], age=0))
    assert contradictions(read_metadata(tmp_path), row) == []
    (only,) = contradictions(read_metadata(tmp_path), row.model_copy(update={"train_sha": sha("other")}))
    assert only.startswith("training_data.train_sha: ")


def test_unreadable_metadata_is_named(tmp_path):
    with pytest.raises(LunaError, match=r"METADATA\.json is missing"):
        read_metadata(tmp_path)
    for content, message in (("{", "cannot be read"), ("[]", "no JSON object")):
        (tmp_path / METADATA_FILE).write_text(content)
        with pytest.raises(LunaError, match=message):
            read_metadata(tmp_path)
    with pytest.raises(LunaError, match="publish the adapter before its metadata"):
        write_metadata(tmp_path / "nowhere", {})


def test_metadata_without_any_field_contradicts_and_does_not_crash():
    assert len(contradictions({"model_file": "x"}, make_row())) == 10
