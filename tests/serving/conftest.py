"""A home that is really served: Ray Serve, vLLM's CPU build, a tiny base; once for all tests that need it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from ledger.roles import ROLES
from ledger.store import Ledger
from tests.serving.builders import PROMPTS, TOKENS, free_port, make_home, use_reward_model, whole
from tests.trainers.builders import CPU, LORA, tiny_base
from trainers.config import TrainSettings
from trainers.models.adapter_set import AdapterSet
from trainers.reference.engine import TrlEngine


class Served:
    """A home that is being served, and how to talk to it."""

    def __init__(self, home, url, handle, ray):
        self.home, self.url, self.handle, self.ray = home, url, handle, ray

    def call(self, name, *arguments):
        """In a thread of its own: beside a browser's tests an event loop runs in this one, which Ray Serve minds."""
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(lambda: getattr(self.handle, name).remote(*arguments).result(timeout_s=60)).result()

    def deploy(self, gen):
        """As `luna deploy` does."""
        self.call("load", gen)
        return self.call("switch", gen)

    def complete(self, model, prompt=PROMPTS[0], **more):
        body = {"model": model, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, **more}
        return httpx.post(f"{self.url}/v1/completions", json=body, timeout=60)

    def text(self, model, prompt=PROMPTS[0]):
        answer = self.complete(model, prompt)
        answer.raise_for_status()
        return whole(answer.json()["choices"][0]["text"])

    @property
    def client(self):
        return {"base_url": f"{self.url}/v1", "api_key": "none", "max_retries": 0, "timeout": 60}


@pytest.fixture(scope="session")
def served(ray_head, tmp_path_factory):
    """Three generations and a reward model; two adapters to a batch, so that a third name in use pushes one out."""
    from cluster.client.coordinator import coordinator_for
    from cluster.ray_head import connect
    from cluster.server.client import serving
    from cluster.server.start import start
    from serving import app

    home = make_home(tmp_path_factory.mktemp("served") / "home")
    home.settings_file.write_text(
        f'profile = "tiny"\n[serving]\nport = {free_port()}\ndtype = "float32"\nmax_loras = 2\n'
        "max_num_seqs = 8\nrequests_per_minute = 100000\n[text]\nanswer_tokens = 16\n"
    )
    use_reward_model(home, tmp_path_factory.mktemp("encoder") / "tiny")
    connect()
    state = start(home, coordinator_for)
    assert state["problems"] == {}
    assert (state["current"], state["previous"]) == (2, 1)
    yield Served(home, state["url"], serving(home), ray_head["address"])
    app.stop()


@pytest.fixture(scope="session")
def expected(served):
    """(role or base, generation, prompt) -> the greedy text that plain PEFT gives."""
    base = tiny_base(served.home)
    engine = TrlEngine(base, TrainSettings(dtype="float32", engine="trl"), LORA, CPU)
    found = {}
    for gen in (0, 1, 2):
        with Ledger.open(served.home) as ledger:
            shas = {row.role: row.child_sha for row in ledger.generation(gen)}
        generator = engine.generator(AdapterSet(served.home.adapters_dir, shas))
        for voice in (*ROLES, "base"):
            answers = generator.generate(voice, PROMPTS, TOKENS)
            found |= {(voice, gen, prompt): whole(one.text) for prompt, one in zip(PROMPTS, answers, strict=True)}
    assert len({found[voice, gen, PROMPTS[0]] for voice in ROLES for gen in (0, 1, 2)}) == 9, "voices differ"
    return found


@pytest.fixture(autouse=True)
def _begin_with_g2(request):
    """Every test begins with G2 current and G1 before it."""
    if "served" in request.fixturenames:
        served = request.getfixturevalue("served")
        for gen in (1, 2):
            served.deploy(gen)
