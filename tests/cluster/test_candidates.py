"""A candidate is measured through the server that users talk to, and served only if it is accepted."""

from __future__ import annotations

import httpx
import pytest

from curriculum.parquet import write_examples
from ledger.home import Home
from ledger.store import Ledger
from tests.cluster.builders import even_numbers
from tests.cluster.test_generations import LENIENT
from tests.serving.builders import free_port

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def home(ray_head, tmp_path):
    from jobs.home import make_home
    from serving import app

    made = Home(tmp_path / "home").create()
    serving = f'[serving]\nengine = "transformers"\nport = {free_port()}\nrequests_per_minute = 100000\n'
    made.settings_file.write_text(LENIENT + serving)
    make_home(made, "tiny", None)
    yield made
    app.stop()


def raise_one(home, start, **overrides):
    from jobs.generation.run import raise_generation

    return raise_generation(home, None, (write_examples(home.inbox_dir, even_numbers(start, 150)),), overrides)


def test_candidates_are_measured_by_the_server_and_served_when_they_are_accepted(home):
    from cluster.client.coordinator import coordinator_for
    from cluster.server.client import state
    from cluster.server.start import start
    from tests.cluster.test_generations import coordinator_state

    raise_one(home, 0)
    url = start(home, coordinator_for)["url"]
    assert raise_one(home, 1000)["verdict"] == "accepted"
    with Ledger.open(home) as ledger:
        measured = {score.details.get("through") for score in ledger.evals(1)}
        assert {score.details.get("through") for score in ledger.evals(0)} == {None}
    assert measured == {"transformers"}
    assert (state(home)["current"], state(home)["previous"]) == (1, 0)
    body = {"model": "luna-logical", "prompt": "x", "max_tokens": 2}
    assert httpx.post(f"{url}/v1/completions", json=body).headers["x-luna-generation"] == "G1"

    strict = {"gates": {"generalization_min": 1.0}, "blends": {"alphas": (0.5,)}}
    assert raise_one(home, 2000, **strict)["verdict"] == "rejected"
    assert any("parent + 0.5 " in line for line in coordinator_state().lines)
    assert not any("asked instead" in line or "taken again" in line for line in coordinator_state().lines)
    assert (state(home)["current"], state(home)["generations"]) == (1, [0, 1])
    with Ledger.open(home) as ledger:
        assert {score.details.get("through") for score in ledger.evals(2)} == {"transformers"}


def test_a_candidate_of_an_abandoned_run_is_served_no_longer(home):
    import signal
    import subprocess

    from cluster.calls import get
    from cluster.client.coordinator import coordinator_for
    from cluster.server.client import load, state
    from cluster.server.start import start
    from tests.cluster.test_generations import command, wait_for_step

    raise_one(home, 0)
    start(home, coordinator_for)
    write_examples(home.inbox_dir, even_numbers(1000, 150))
    run = subprocess.Popen(command(home, "generation", "run", "--steps", "80"), stderr=subprocess.PIPE, text=True)
    wait_for_step(2)
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=120)
    with Ledger.open(home) as ledger:
        load(home, 1, {row.role: row.child_sha for row in ledger.generation(0)})  # as measuring does
    assert state(home)["generations"] == [0, 1]
    get(coordinator_for(home).abandon.remote())
    assert (state(home)["current"], state(home)["generations"]) == (0, [0])
