"""Reward health in the flow of a generation: measured and judged where the home has a reward model."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from ledger.roles import ROLES
from ledger.store import Ledger
from tests.cluster.builders import even_numbers
from tests.cluster.test_generations import LENIENT, make_home, raise_one
from tests.trainers.builders import tiny_encoder
from tests.trainers.test_health_probe import labels
from trainers.config import RewardSettings
from trainers.reward.model import make_current
from trainers.reward.rows import pairs_of_labels, reward_rows
from trainers.reward.train import train_reward_model

pytestmark = [pytest.mark.ray, pytest.mark.slow]

HEALTH = """
[health]
prompts = 10
answer_tokens = 4
"""


def give_reward_model(home, folder):
    made = labels(20)
    settings = RewardSettings(
        encoder=str(tiny_encoder(folder / "encoder")), blocks=(1,), steps=10, hidden_size=8, threads=1
    )
    rows = reward_rows(made, pairs_of_labels(made))
    model = train_reward_model(rows, settings, 1, home.rewards_dir, folder / "run", {})
    make_current(home, model)
    return model.name


def test_a_home_with_a_reward_model_judges_health_too(ray_head, tmp_path):
    from jobs.cli import app

    home = make_home(tmp_path, LENIENT + HEALTH + "rhi_min = 1.0\n")
    sha = give_reward_model(home, tmp_path)
    refused = raise_one(home, even_numbers(0, 150))
    assert refused["verdict"] == "rejected"
    assert "is not above 1.00, weakest" in refused["reason"]
    with Ledger.open(home) as ledger:
        found = {(score.eval, score.role): score for score in ledger.evals(0)}
    for role in ROLES:
        assert found["rhi", role].details["reward_sha"] == sha
        assert found["mss", role].value == found["rhi", role].details["components"]["mss"]
    assert list((home.run_dir(refused["run_id"]) / "health").rglob("events*"))

    accepted = raise_one(home, even_numbers(200, 150), health={"gate": False})
    assert accepted["verdict"] == "accepted", "measured, and the gate is off"
    shown = CliRunner().invoke(app, ["reward", "health", "G1", "--home", str(home.root)])
    assert "LRPS" in shown.output
    compared = CliRunner().invoke(app, ["regress", "G1", "--against", "G0", "--home", str(home.root)])
    assert "against G0" in compared.output
    assert len(list((home.data_dir / "regress").glob("*.json"))) == 2
