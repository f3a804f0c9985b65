"""`luna plan` and `luna doctor`: what they show, their exit statuses, and that they start nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.settings import write_settings
from jobs.cli import app
from jobs.rig.doctor import LEAST_FREE, disk_check
from ledger.home import Home
from tests.ledger.builders import add_generation, make_ledger

RUN = CliRunner()


def luna(*arguments: object) -> Any:
    return RUN.invoke(app, [*map(str, arguments)], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home of the tiny profile with its base and data, made without Ray."""
    from cluster.settings import settings_of
    from jobs.curriculum import build_into_inbox
    from trainers.models.frozen import prepare_base

    root = tmp_path_factory.mktemp("rig") / "home"
    with make_ledger(root) as ledger:
        add_generation(ledger, 0, None)
    home = Home(root).create()
    write_settings(home, "tiny")
    prepare_base(settings_of(home).base, home)
    build_into_inbox(home, "recipe", 60, seed=1)
    return home


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else runs on this machine."""
    monkeypatch.setattr("cluster.ray_head.join_running", lambda: False)


@pytest.mark.usefixtures("no_ray")
def test_the_plan_is_shown_and_nothing_is_started(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.ray_head.start_head", lambda: pytest.fail("a plan starts nothing"))
    done = luna("plan", "--home", home.root)
    assert done.exit_code == 0, done.output
    assert "creative+logical+dialectical" in done.stdout
    assert "GiB of" in done.stdout
    assert "from nothing to the last step" in done.stdout


@pytest.mark.usefixtures("no_ray")
def test_the_plan_as_json(home: Home) -> None:
    done = luna("plan", "--home", home.root, "--json")
    found = json.loads(done.stdout)
    assert found["fits"] is True
    assert [seat["placement"]["roles"] for seat in found["seats"]] == [["creative", "logical", "dialectical"]]
    assert {device["kind"] for device in found["devices"]} >= {"cpu"}


@pytest.mark.usefixtures("no_ray")
def test_a_plan_that_does_not_fit_says_by_how_much_and_ends_with_no(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cluster.devices import CPU, Device, NodeFacts

    small = Device("here", 0, CPU, "CPU", "2", 64 << 20, 64 << 20, share=0.0)
    facts = NodeFacts("here", "here", "2.13.0+cpu", 0, devices=(small,))
    monkeypatch.setattr("cluster.devices.probe.facts_here", lambda: facts)
    done = luna("plan", "--home", home.root)
    assert done.exit_code == 3
    assert "it does not fit" in done.stdout
    assert "GiB are missing" in done.stdout


def test_without_a_home_the_plan_says_what_to_do(tmp_path: Path) -> None:
    done = luna("plan", "--home", tmp_path / "none")
    assert done.exit_code == 1
    assert "luna init" in done.stderr


@pytest.mark.usefixtures("no_ray")
def test_the_doctor_shows_devices_and_the_home(home: Home) -> None:
    done = luna("doctor", "--home", home.root)
    assert done.exit_code == 0, done.output
    for word in ("GPUs by Ray", "by torch", "free under", "head G0", "none runs here"):
        assert word in done.stdout


@pytest.mark.usefixtures("no_ray")
def test_the_doctor_finds_cards_that_torch_does_not_use(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    from cluster.devices import NodeFacts

    facts = NodeFacts("here", "here", "2.13.0+cpu", 0, driver="6.14", driver_gpus=2)
    monkeypatch.setattr("jobs.rig.doctor.facts_here", lambda: facts)
    done = luna("doctor", "--home", home.root, "--json")
    assert done.exit_code == 3
    (problem,) = [check for check in json.loads(done.stdout)["checks"] if check["is_problem"]]
    assert "lists 2 cards" in problem["said"]
    assert "make setup" in problem["said"]


def test_a_full_disk_is_a_problem() -> None:
    assert disk_check(Path("/"), LEAST_FREE - 1).is_problem
    assert not disk_check(Path("/"), LEAST_FREE).is_problem


@pytest.mark.ray
@pytest.mark.slow
def test_the_doctor_looks_at_the_cluster_that_runs(home: Home, ray_head: dict[str, str]) -> None:
    done = luna("doctor", "--home", home.root, "--json")
    found = json.loads(done.stdout)
    assert done.exit_code == 0, done.output
    assert [node["gpus"] for node in found["nodes"]] == [0.0]
    said = {check["name"]: check["said"] for check in found["checks"]}
    assert ray_head["address"].rpartition(":")[2] in said["cluster"], "Ray may name the machine by another address"
    assert "count the same cards" in said["devices"]
