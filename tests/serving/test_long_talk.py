"""A talk of any length goes on, with the real engine over a tiny base: as a replica serves it, without Ray."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import httpx
import pytest
import torch

from curriculum.transcript import LengthSettings
from ledger.store import Ledger, Stores
from serving.accepted import line_of, recorded_of
from serving.api.gateway import build
from serving.engine_app import EngineReplica
from serving.settings import ServingSettings, SharedSettings
from tests.serving.builders import make_home
from tests.serving.test_one_dialogue import Keeper, NoJudge, events_of

pytestmark = pytest.mark.slow

LENGTHS = LengthSettings(max_tokens=600, answer_tokens=3)
"""Of the tiny base a token is a byte."""
SETTINGS = ServingSettings(engine="transformers", dtype="float32", requests_per_minute=1_000_000)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield make_home(tmp_path_factory.mktemp("long") / "home", generations=1)
    torch.set_num_threads(threads)


class LedgerHere:
    """See :class:`serving.accepted.Accepted`: read in this process."""

    def __init__(self, home):
        self.home = home

    async def line(self, lineage=None):
        with Ledger.open(self.home) as ledger:
            return line_of(ledger, lineage)

    async def recorded(self, gen):
        with Ledger.open(self.home) as ledger:
            return recorded_of(ledger, gen)


@asynccontextmanager
async def served(home):
    """(client of the gateway, client of /v1)"""
    with Ledger.open(home) as ledger:
        base = ledger.generation(0)[0].base_sha
    plain = SETTINGS.model_dump(mode="json"), LENGTHS.model_dump(mode="json")
    replica = EngineReplica(str(home.root), base, *plain, None, LedgerHere(home))
    v1 = await replica.__serve_build_asgi_app__()
    with Stores.create(home) as stores:
        gateway = build(home, replica, Keeper(stores), NoJudge(), SETTINGS, SharedSettings(text=LENGTHS))
        clients = [
            httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1:8000", timeout=60)
            for app in (gateway, v1)
        ]
        try:
            yield clients
        finally:
            for client in clients:
                await client.aclose()
            replica._stop()


def test_two_hundred_long_turns_of_all_three_are_answered_one_after_another(home):
    async def talk():
        dropped, conversation, cut = [], {}, 0
        async with served(home) as (gateway, _):
            for number in range(200):
                # Every tenth message alone is longer than a prompt may be.
                message = f"Question {number}. " + "Tell me more of it. " * (60 if number % 10 == 9 else 8)
                answer = await gateway.post("/dialogue", json={"message": message, "temperature": 0, **conversation})
                assert answer.status_code == 200, (number, answer.text)
                events = list(events_of(answer.text))
                assert events[-1][0] == "end", (number, events[-1])
                starts = [data for name, data in events if name == "start"]
                turns = [data for name, data in events if name == "turn"]
                assert [turn["role"] for turn in turns] == ["creative", "logical", "dialectical"]
                assert all(turn["prompt_tokens"] <= LENGTHS.room for turn in turns)
                assert all(turn["answer_tokens"] >= 1 for turn in turns)
                assert int(answer.headers["x-luna-context-dropped"]) == starts[0]["context_dropped"]
                dropped.append(starts[-1]["context_dropped"])
                cut += starts[0]["text_cut"]
                conversation = {"conversation": turns[0]["conversation"]}
        return dropped, cut

    dropped, cut = asyncio.run(talk())
    plain = [count for number, count in enumerate(dropped) if number % 10 != 9]
    assert plain == sorted(plain)
    assert (dropped[0], dropped[-1]) == (0, 199)
    assert 190 <= plain[-1] < 199, "the newest exchanges are read"
    assert cut == 20


def test_a_client_of_v1_goes_on_for_sixty_exchanges(home):
    async def talk():
        messages, dropped = [{"role": "system", "content": "You are terse."}], []
        async with served(home) as (_, v1):
            for number in range(60):
                messages.append({"role": "user", "content": f"Question {number}. " + "Tell me more of it. " * 6})
                body = {"model": "luna-logical", "messages": messages, "max_tokens": 4, "temperature": 0}
                answer = await v1.post("/v1/chat/completions", json=body)
                assert answer.status_code == 200, (number, answer.text)
                dropped.append(int(answer.headers["x-luna-context-dropped"]))
                messages.append(answer.json()["choices"][0]["message"])
        return dropped

    dropped = asyncio.run(talk())
    assert dropped == sorted(dropped)
    assert dropped[0] == 0
    assert 55 <= dropped[-1] < 59
