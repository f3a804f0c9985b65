"""What the page is told of a lineage's generations."""

from __future__ import annotations

from pathlib import Path

from ledger.home import Home
from ledger.roles import ROLES
from ledger.rules.gates import GateSettings
from serving.api.lineage import lineage_state
from tests.ledger.builders import add_generation, make_eval, make_ledger


def test_style_that_an_earlier_version_asked_of_fewer_probes_is_held_to_the_bound_alone(tmp_path: Path) -> None:
    """Each accepted generation of such a home was shown as failed."""
    with make_ledger(tmp_path) as ledger:
        for gen_id, value in enumerate((0.0, 0.4)):
            evals = [make_eval(role, "style_drift", value, n=10, gen_id=gen_id) for role in ROLES]
            add_generation(ledger, gen_id, None, evals, eval_style_drift=value)
    shown = [
        each["roles"][0]["evals"][0] for each in lineage_state(Home(tmp_path), GateSettings(), None)["generations"]
    ]
    assert [one["passed"] for one in shown] == [True, False]


def test_a_loss_of_base_ability_that_is_only_told_is_not_shown_as_failed(tmp_path: Path) -> None:
    with make_ledger(tmp_path) as ledger:
        add_generation(ledger, 0, None, [make_eval(role, "base_ability", 0.5) for role in ROLES])
    for asked, passed in ((True, False), (False, None)):
        state = lineage_state(Home(tmp_path), GateSettings(base_ability=asked), None)
        assert state["generations"][0]["roles"][0]["evals"][0]["passed"] is passed
