"""`luna generation show`: what each gate asks, its bound, and parent and child side by side."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from jobs.generation.gates import ASKS, findings, gates_of
from jobs.generation.show import print_generation
from ledger.home import Home
from ledger.records import EvalRecord
from ledger.roles import ROLES
from ledger.rules.gates import GATES, GateSettings
from ledger.store import Stores
from tests.cluster.builders import gate_scores
from tests.ledger.builders import by_role, make_eval, make_move, make_trio, sha

HELPDESK = {"probe": "Can you help me?", "answer": "I'd be happy\nto assist.", "phrase": "happy to assist"}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """G0, and G1 that is rejected for its logical role and speaks as a helpdesk does."""
    home = Home(tmp_path)
    evals = [score for role in ROLES for score in gate_scores(role, 96 if role != "logical" else 3, before=3)]
    drift = evals[2]
    assert (drift.role, drift.eval) == ("creative", "style_drift")
    evals[2] = drift.model_copy(update={"details": {"found": [HELPDESK] * 5}})
    evals.append(make_eval("logical", "agl_accuracy", 0.5, gen_id=1))
    with Stores.create(home) as stores:
        ledger = stores.ledger
        ledger.create_lineage("main", sha("base"))
        first = make_trio(0)
        ledger.record_judgement(first, [], make_move(None, 0), None)
        shares = {(score.role, score.eval): score.value for score in evals}
        rows = [
            row.model_copy(update={"eval_generalization": shares[row.role, "generalization"]})
            for row in make_trio(1, by_role(first), verdict="rejected", reason="logical learned: nothing new")
        ]
        ledger.record_judgement(rows, evals, None, None)
    return home


def shown(home: Home, gen_id: int, as_json: bool = False) -> str:
    out = StringIO()
    print_generation(home, gen_id, Console(file=out, width=160), as_json)
    return out.getvalue()


def test_parent_and_child_stand_side_by_side_under_what_the_gate_asks(home: Home) -> None:
    text = shown(home, 1)
    assert all(ASKS[gate] in text for gate in GATES)
    assert "generalization > 0.85" in text
    learned = next(line for line in text.splitlines() if "learned: right, G0 → G1" in line)
    assert [cell.strip() for cell in learned.split("│")[2:5]] == ["3 → 96 of 100", "3 → 3 of 100", "3 → 96 of 100"]
    assert text.count("creative, corporate: 'Can you help me?' → \"I'd be happy to assist.\"") == 2
    assert "agl_accuracy" in text


def test_json_has_every_gate_with_who_failed_it_and_why(home: Home) -> None:
    found = json.loads(shown(home, 1, as_json=True))
    gates = {gate["gate"]: gate for gate in found["gates"]}
    assert list(gates) == list(GATES)
    assert list(gates["learned"]["failed"]) == list(gates["generalization"]["failed"]) == ["logical"]
    assert "nothing new was learned" in gates["learned"]["failed"]["logical"]
    assert gates["recall"]["failed"] == {}
    assert len(found["evals"]) == 10


def test_a_generation_that_an_earlier_version_judged_is_shown_with_its_scores_alone(home: Home) -> None:
    assert "gate" not in shown(home, 0).split("adapter")[0].split("score")[0].replace("all gates passed", "")
    old = [EvalRecord.of_share(0, role, "generalization", "choice", [True] * 100) for role in ROLES]
    assert gates_of(make_trio(0), old, GateSettings()) == []


def test_a_confirmed_blend_is_held_against_what_half_of_the_items_can_show() -> None:
    rows = make_trio(1, by_role(make_trio(0)))
    rows[1] = rows[1].model_copy(update={"alpha": 0.5, "child_sha": sha("blend")})
    right = {"creative": (96, 100), "logical": (48, 50), "dialectical": (96, 100)}
    evals = [score for role in ROLES for score in gate_scores(role, right[role][0], n=right[role][1])]
    assert not any(one.failed for one in gates_of(rows, evals, GateSettings()))


def test_no_more_than_two_answers_of_a_role_and_gate_are_shown() -> None:
    glyph = {"probe": "Can both be true?", "answer": "⊥ Both can be true.", "phrase": "⊥"}
    score = EvalRecord.of_share(1, "logical", "bare_glyphs", "phrases", [True] * 3, {"found": [glyph] * 3})
    assert findings([score]) == ["logical, a bare glyph: 'Can both be true?' → '⊥ Both can be true.' (⊥)"] * 2
