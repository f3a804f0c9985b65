"""What the front lets through, and how a request looks to vLLM behind it."""

from __future__ import annotations

import asyncio
import json

import pytest

from curriculum.render import render_prompt
from curriculum.transcript import LengthSettings
from serving.api.front import Front, Leases
from serving.engine import Reader, Stopped
from serving.settings import ServingSettings
from serving.table import Table
from tests.serving.test_table import make_table, shas_of

READER = Reader(LengthSettings(), len)
"""A token is a letter."""


class Behind:
    """Stands where vLLM's application stands: keeps what it was sent, answers 200."""

    def __init__(self):
        self.seen, self.gate = [], None

    async def __call__(self, scope, receive, send):
        message = await receive()
        self.seen.append(json.loads(message["body"]) if message["body"] else None)
        if message["body"]:
            assert int(dict(scope["headers"])[b"content-length"]) == len(message["body"])
        if self.gate:
            await self.gate.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


async def ask(front, path="/v1/completions", body=None, method="POST", headers=()):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
    given, sent = [{"type": "http.request", "body": raw, "more_body": False}], []

    async def receive():
        return given.pop() if given else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    await front(
        {"type": "http", "method": method, "path": path, "headers": [(b"content-length", b"1"), *headers]},
        receive,
        send,
    )
    answered = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
    return sent[0]["status"], answered, sent[1]["body"].decode()


def make_front(table=None, **settings):
    behind, leases = Behind(), Leases()
    served = table or make_table(1, 2)
    return Front(behind, lambda: served, leases, ServingSettings(**settings), READER, "base-weights"), behind


def get(front, **request):
    return asyncio.run(ask(front, **request))


@pytest.mark.parametrize(("name", "gen"), [("luna-logical", 2), ("luna-logical-g1", 1), ("luna-logical-g2", 2)])
def test_a_public_name_becomes_the_adapters_own_and_the_answer_says_which(name, gen):
    front, behind = make_front()
    status, headers, _ = get(front, body={"model": name, "prompt": "x"})
    assert status == 200
    assert behind.seen[0]["model"] == f"luna-logical-g{gen}-{shas_of(gen)['logical'][:12]}"
    assert headers["x-luna-generation"] == f"G{gen}"
    assert headers["x-luna-adapter-sha"] == shas_of(gen)["logical"]
    assert headers["x-luna-table"] == "4"


def test_chat_messages_become_the_roles_raw_prompt():
    front, behind = make_front()
    messages = [
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": [{"type": "text", "text": "Why?"}]},
    ]
    get(front, path="/v1/chat/completions", body={"model": "luna-creative", "messages": messages})
    (message,) = behind.seen[0]["messages"]
    assert message["content"] == render_prompt("creative", "Why?", "User: Hello.\nLuna: Hi.")
    get(front, path="/v1/chat/completions", body={"model": "base", "messages": messages[:1]})
    assert behind.seen[1]["messages"][0]["content"] == "Hello."
    assert behind.seen[1]["model"] == "base-weights"


@pytest.mark.parametrize(
    ("request_", "status", "says"),
    [
        ({"body": {"model": "gpt-4", "prompt": "x"}}, 404, "'gpt-4'"),
        ({"body": {"prompt": "x"}}, 400, "needs a model"),
        ({"body": b"{"}, 400, "not valid JSON"),
        ({"body": []}, 400, "JSON object"),
        ({"body": {"model": "base", "prompt": "x", "max_tokens": 5000}}, 400, "at most 512"),
        ({"body": {"model": "base", "prompt": "x", "n": 100}}, 400, "at most 8 answers"),
        ({"body": {"model": "base", "prompt": "x", "max_tokens": "5000"}}, 400, "max_tokens must be a number"),
        ({"body": {"model": "base", "prompt": "x", "n": "100"}}, 400, "n must be a number"),
        ({"body": {"model": "base", "prompt": "x" * 3_000_000}}, 413, "2048 KiB"),
        ({"path": "/v1/chat/completions", "body": {"model": "base"}}, 400, "messages"),
        ({"path": "/v1/chat/completions", "body": {"model": "base", "messages": ["x"]}}, 400, "role"),
        ({"path": "/v1/load_lora_adapter", "body": {"lora_name": "x", "lora_path": "/"}}, 404, "nothing at"),
        ({"path": "/v1/models", "method": "DELETE"}, 404, "nothing at"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_a_reason_before_vllm(request_, status, says):
    front, behind = make_front()
    found, _, text = get(front, **request_)
    assert (found, behind.seen) == (status, [])
    assert says in json.loads(text)["error"]["message"]


def test_an_engine_that_is_not_there_is_no_fault_of_the_request():
    def count(_):
        raise Stopped("the engine is not running.")

    front, behind = make_front()
    front.reader = Reader(LengthSettings(), count)
    body = {"model": "base", "messages": [{"role": "user", "content": "Hello."}]}
    status, _, _ = get(front, path="/v1/chat/completions", body=body)
    assert (status, behind.seen) == (503, [])


def test_a_full_queue_says_when_to_come_back():
    front, behind = make_front(max_concurrent_requests=2)
    body = {"model": "base", "prompt": "x"}

    async def crowd():
        behind.gate = asyncio.Event()
        waiting = [asyncio.create_task(ask(front, body=body)) for _ in range(2)]
        await asyncio.sleep(0.01)
        status, headers, _ = await ask(front, body=body)
        behind.gate.set()
        return status, headers, [(await task)[0] for task in waiting]

    status, headers, others = asyncio.run(crowd())
    assert (status, headers["retry-after"], others) == (429, "1", [200, 200])
    assert front.leases.total == 0


def test_a_request_keeps_the_adapter_it_began_with_while_the_table_changes():
    tables = [make_table(1, 2)]
    behind = Behind()
    front = Front(behind, lambda: tables[-1], Leases(), ServingSettings(), READER, "base-weights")

    async def swap():
        behind.gate = asyncio.Event()
        early = asyncio.create_task(ask(front, body={"model": "luna-logical", "prompt": "x"}))
        await asyncio.sleep(0.01)
        tables.append(tables[-1].switch(1))
        held = front.leases.held(2)
        behind.gate.set()
        late = await ask(front, body={"model": "luna-logical", "prompt": "x"})
        return held, (await early)[1]["x-luna-generation"], late[1]["x-luna-generation"]

    assert asyncio.run(swap()) == (1, "G2", "G1")


def test_an_empty_table_still_serves_the_base():
    front, behind = make_front(table=Table())
    assert get(front, body={"model": "base", "prompt": "x"})[0] == 200
    assert get(front, body={"model": "luna-logical", "prompt": "x"})[0] == 404
    assert len(behind.seen) == 1
