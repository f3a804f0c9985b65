"""`luna reward health`, `luna reward plot` and `luna regress` on a home whose ledger has measured generations."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from jobs.generation.regress import print_regression
from ledger.home import Home
from ledger.roles import ROLES
from ledger.store import Ledger
from tests.curriculum.reward.test_points import index
from tests.ledger.builders import make_ledger, make_move, make_trio

RUN = CliRunner()


def records(gen_id, role, value):
    top = index(gen_id, role, value)
    top = top.model_copy(update={"details": {**top.details, "reward_sha": "ab" * 32}})
    parts = [
        top.model_copy(update={"eval": name, "value": part, "low": part, "high": part, "details": {}})
        for name, part in top.details["components"].items()
    ]
    return [top, *parts]


@pytest.fixture
def home(tmp_path):
    with make_ledger(tmp_path / "home") as ledger:
        parent = None
        for gen_id, value in enumerate((0.9, 0.8, 0.6)):
            rows = make_trio(gen_id, parent)
            evals = [record for role in ROLES for record in records(gen_id, role, value)]
            ledger.record_judgement(rows, evals, make_move(ledger.head(), gen_id), None)
            parent = {row.role: row for row in rows}
    place = Home(tmp_path / "home").create()
    place.settings_file.write_text('profile = "tiny"\n')
    return place


def luna(home, *arguments):
    return RUN.invoke(app, [*arguments, "--home", str(home.root)])


def test_health_shows_components_the_weakest_and_what_a_falling_course_asks_for(home):
    shown = luna(home, "reward", "health")
    assert shown.exit_code == 0, shown.output
    assert "G2, judged by the reward model abababababab" in shown.output
    assert "CDRS, the judge agrees with itself" in shown.output
    assert "creative: 0.600 is not above 0.70, weakest GVS 0.40" in shown.output
    assert "RHI fell over 3 runs (0.900 → 0.800 → 0.600)" in shown.output
    found = json.loads(luna(home, "reward", "health", "G0", "--json").stdout)
    assert found["gen_id"] == 0
    assert [r["eval"] for r in found["records"]][:6] == ["rhi", "dcs", "gvs", "mss", "cdrs", "lrps"]


def test_health_that_was_never_measured_or_cannot_be_is_explained(home):
    with Ledger.open(home, writer=True) as ledger:
        rows = make_trio(3, {row.role: row for row in ledger.generation(2)})
        ledger.record_judgement(rows, [], make_move(2, 3), None)
    assert "no recorded reward health" in luna(home, "reward", "health", "G3").output
    assert "no reward model yet" in luna(home, "reward", "health", "G3", "--measure").output


def test_the_plot_is_written_as_pictures_and_points(home, tmp_path):
    done = luna(home, "reward", "plot", "--out", str(tmp_path / "plots"))
    assert done.exit_code == 0, done.output
    for name in ("reward_space.png", "reward_health.png"):
        assert (tmp_path / "plots" / name).read_bytes().startswith(b"\x89PNG")
    content = json.loads((tmp_path / "plots" / "reward_plot.json").read_text())
    assert [step["rhi"] for step in content["course"]] == [0.9, 0.8, 0.6]
    assert len(content["points"]) == 9


def test_umap_is_optional_and_says_how_to_get_it(home, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "umap", None)
    assert "luna[umap]" in luna(home, "reward", "plot", "--umap", "--out", str(tmp_path)).output


def test_a_regression_report_shows_the_change_its_faults_and_its_rewards(capsys):
    from rich.console import Console

    def reward(value):
        return {"empathy": value, "curiosity": 0.0, "agency_support": value / 2, "scalar_preference": value}

    outcome = {
        "id": "grief", "role": "dialectical", "answer": "I am here.", "before": "I am sorry.", "verdict": "broken",
        "problems": ["'sorry' is missing"], "problems_before": [],
    }  # fmt: skip
    found = {"gen_id": 2, "against": 1, "outcomes": [outcome], "rewards": {"grief": [reward(0.5), reward(-0.25)]}}
    print_regression(found, Console(width=120, highlight=False))
    shown = capsys.readouterr().out
    assert "I am [-sorry.-] {+here.+}" in shown
    assert "'sorry' is missing" in shown
    assert "preference +0.50 (+0.75); empathy +0.75" in shown
    assert "1 broken" in shown
