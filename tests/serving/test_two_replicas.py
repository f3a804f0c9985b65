"""Two copies of the engine: one may die while users talk, and what is deployed is deployed on both."""

from __future__ import annotations

import os
import signal
import threading
import time

import httpx
import pytest
from typer.testing import CliRunner

from jobs.reward import commands as reward
from ledger.store import Stores
from tests.serving.builders import PROMPTS, free_port, make_home, use_reward_model

openai = pytest.importorskip("openai", reason="comes with vLLM")

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def twice(ray_head, tmp_path_factory):
    """The transformers engine, which starts in seconds; who answers does not matter here."""
    from cluster.client.coordinator import coordinator_for
    from cluster.ray_head import connect
    from cluster.server.client import serving
    from cluster.server.start import start
    from serving import app

    home = make_home(tmp_path_factory.mktemp("twice") / "home", generations=2)
    port = free_port()
    home.settings_file.write_text(
        f'profile = "tiny"\n[serving]\nport = {port}\nengine = "transformers"\nreplicas = 2\n'
        "requests_per_minute = 100000\n"
    )
    connect()
    app.stop()  # what another test may have left
    start(home, coordinator_for)
    yield home, f"http://127.0.0.1:{port}", serving(home)
    app.stop()


def pair(response="I hear you."):
    return {"prompt": "Why?", "response": response}


def states(handle):
    """Of the replicas that live."""
    found = handle.broadcast("state").results(timeout_s=30, return_exceptions=True)
    return [state for state in found if not isinstance(state, Exception)]


def test_what_is_deployed_is_deployed_on_every_replica(twice):
    from cluster.server.client import deploy

    home, url, handle = twice
    assert len({state["pid"] for state in states(handle)}) == 2
    deploy(home, 0)
    assert {state["current"] for state in states(handle)} == {0}
    body = {"model": "luna-logical", "prompt": "x", "max_tokens": 2}
    seen = {httpx.post(f"{url}/v1/completions", json=body).headers["x-luna-generation"] for _ in range(12)}
    assert seen == {"G0"}


def test_when_one_replica_is_killed_no_client_fails_and_it_comes_back_with_the_same_names(twice):
    """The openai client tries again by itself, as it does for everybody."""
    from cluster.server.client import deploy

    home, url, handle = twice
    deploy(home, 0)
    stop, problems, answers = threading.Event(), [], []

    def talk():
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
        while not stop.is_set():
            try:
                answer = client.completions.with_raw_response.create(
                    model="luna-logical", prompt=PROMPTS[0], max_tokens=4, temperature=0
                )
                answers.append((answer.headers["x-luna-generation"], answer.parse().choices[0].text))
            except Exception as error:
                problems.append(repr(error))

    clients = [threading.Thread(target=talk) for _ in range(4)]
    for client in clients:
        client.start()
    time.sleep(2)
    victim = states(handle)[0]["pid"]
    os.kill(victim, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        time.sleep(0.5)
        found = states(handle)
        if len(found) == 2 and victim not in {state["pid"] for state in found}:
            break
    stop.set()
    for client in clients:
        client.join(60)
    assert problems == []
    assert len(answers) > 20
    assert len(set(answers)) == 1, "every answer is G0's own greedy text"
    assert [state["current"] for state in states(handle)] == [0, 0]


def test_the_first_reward_model_is_served_when_it_is_there_and_a_new_one_is_taken_over_without_a_failure(twice):
    from cluster.server.reward import follow_reward

    home, url, _ = twice
    answer = httpx.post(f"{url}/reward", json=pair())
    assert (answer.status_code, follow_reward(home)) == (503, None)
    assert "no reward model yet" in answer.json()["error"]["message"]
    body = {"message": "Why?", "role": "logical", "max_tokens": 8, "temperature": 0}
    turns = [httpx.post(f"{url}/generate", json=body | {"message": f"Why {n}?"}, timeout=60).json() for n in range(4)]
    encoder = home.root / "encoder"
    first = use_reward_model(home, encoder, seed=1)
    assert follow_reward(home) == first
    done = CliRunner().invoke(reward.app, ["score-conversations", "--home", str(home.root)])
    assert done.exit_code == 0, done.output
    whole = [turn for turn in turns if turn["answer"].strip()]
    assert whole
    with Stores.open(home) as stores:
        assert stores.conversations.unscored(10) == []
        found = [stores.conversations.turns(turn["conversation"])[0] for turn in whole]
    assert all(turn.score.model == first and turn.karma is not None for turn in found)
    stop, problems, models = threading.Event(), [], []

    def ask():
        with httpx.Client(base_url=url, timeout=30) as client:
            while not stop.is_set():
                answer = client.post("/reward", json=[pair(), pair("Stop whining.")])
                if answer.status_code == 200:
                    models.extend(one["model"] for one in answer.json())
                else:
                    problems.append(answer.text)

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for client in clients:
        client.start()
    second = use_reward_model(home, encoder, seed=2)
    before = len(models)
    assert follow_reward(home) == second != first
    after = len(models)
    time.sleep(1)
    stop.set()
    for client in clients:
        client.join(60)
    assert problems == []
    assert set(models) == {first, second}
    assert after > before, "answers were given while the new model was loaded"
    assert set(models[-8:]) == {second}
