"""Jobs on a real cluster: submitted from an installed wheel, listed, joined again, stopped and resumed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import tomllib

import pytest

from curriculum.parquet import write_examples
from ledger.home import Home
from ledger.store import Ledger, Stores
from ledger.verification.ledger import verify
from tests.cluster.builders import even_numbers
from tests.cluster.test_generations import LENIENT, adapters, unbroken, wait_for_step
from tests.repository import ROOT

__all__ = ["unbroken"]  # a fixture

pytestmark = [pytest.mark.ray, pytest.mark.slow]

PAUSED_WITHIN_S = 20


@pytest.fixture
def home(ray_head, tmp_path):
    from jobs.home import make_home as make

    place = Home(tmp_path / "home").create()
    place.settings_file.write_text(LENIENT.replace("steps = 12", "steps = 80"))
    make(place, "tiny", None)
    write_examples(place.inbox_dir, even_numbers(0, 150))
    return place


def luna(*arguments, cwd=ROOT, **environment):
    """The command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "jobs.cli", *map(str, arguments)], capture_output=True, text=True, timeout=240,
        cwd=cwd, env={**os.environ, **environment}, check=False,
    )  # fmt: skip


def listed(ray_head):
    done = luna("jobs", "list", "--json", "--address", ray_head["dashboard"])
    assert done.returncode == 0, done.stderr
    return {one["job"]: one for one in json.loads(done.stdout)}


def installed_wheel(folder):
    """A folder of installed packages with Luna's wheel, and with what a careless package of others leaves there."""
    clone, site = folder / "clone", folder / "site-packages"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    for name in sorted({pattern.rstrip("*").rstrip(".") for pattern in project}):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "wheel", *options, "-w", folder, clone], check=True, capture_output=True, timeout=240)
    (wheel,) = folder.glob("luna-*.whl")
    subprocess.run([*pip, "install", *options, "--target", site, wheel], check=True, capture_output=True, timeout=240)
    (site / "pyproject.toml").write_text('[project]\nname = "another"\n')
    return site


def test_an_installed_wheel_submits_without_a_checkout_and_the_server_knows_whose_the_job_is(
    ray_head, home, tmp_path_factory
):
    site = installed_wheel(tmp_path_factory.mktemp("wheel"))
    submit = ["submit", "generation", "--submission-id", "from-a-wheel", "--address", ray_head["dashboard"],
              "--home", home.root, "--", "--help"]  # fmt: skip
    done = luna(*submit, cwd=site, PYTHONPATH=str(site))
    assert done.returncode == 0, done.stderr
    assert "Usage: luna generation run" in done.stdout, "the job's log"
    job = listed(ray_head)["from-a-wheel"]
    assert job["status"] == "SUCCEEDED"
    assert job["metadata"].items() >= {
        "job": "generation", "lineage": "main", "generation": "G0", "role": "creative+logical+dialectical",
        "home": str(home.root),
    }.items()  # fmt: skip
    again = luna(*submit, cwd=site, PYTHONPATH=str(site))
    assert again.returncode == 0, again.stderr
    assert "from-a-wheel was submitted before; joining it" in again.stderr
    other = luna("submit", "teach", *submit[2:], cwd=site, PYTHONPATH=str(site))
    assert other.returncode == 1
    assert "already that of another job" in other.stderr
    logs = luna("jobs", "logs", "from-a-wheel", "--address", ray_head["address"])
    assert (logs.returncode, logs.stdout) == (0, done.stdout)


def test_a_stopped_job_leaves_its_generation_paused_and_it_ends_with_the_bytes_of_an_undisturbed_one(
    ray_head, home, unbroken
):
    where = ("--address", ray_head["address"])
    submitted = luna("submit", "generation", "--no-wait", "--submission-id", "to-stop", *where, "--home", home.root)
    assert submitted.returncode == 0, submitted.stderr
    assert submitted.stdout == "to-stop\n"
    wait_for_step(20)
    began = time.monotonic()
    stopped = luna("jobs", "stop", "to-stop", *where)
    assert stopped.returncode == 0, stopped.stderr
    assert stopped.stdout == "to-stop: STOPPED; G0 is paused, `luna generation run` resumes it\n"
    assert time.monotonic() - began < PAUSED_WITHIN_S
    with Stores.open(home) as stores:
        run = stores.journal.open_run("main")
        assert run is not None
        assert (run.next_step, stores.journal.at_rest(run)) == ("train", "paused")
    assert listed(ray_head)["to-stop"]["status"] == "STOPPED"
    again = luna("jobs", "stop", "to-stop", *where)
    assert (again.returncode, again.stdout) == (0, "to-stop had ended already: STOPPED\n")
    resumed = luna("submit", "generation", *where, "--home", home.root)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "resuming G0" in resumed.stdout
    assert adapters(home, 0) == unbroken
    assert verify(home) == []
    with Ledger.open(home) as ledger:
        assert len(ledger.rows()) == 3


def test_a_job_that_does_not_exist_is_told_so(ray_head):
    for name in ("logs", "stop"):
        done = luna("jobs", name, "nowhere", "--address", ray_head["dashboard"])
        assert done.returncode == 1
        assert "there is no job nowhere" in done.stderr
