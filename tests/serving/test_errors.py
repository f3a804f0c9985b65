"""The gateway without Ray: what it says when something breaks, and to whom it says how it is."""

from __future__ import annotations

import asyncio
import sqlite3

import httpx
import pytest

from serving.api.errors import Refused
from serving.api.gateway import OPEN_PATHS, build
from serving.api.guard import guarded
from serving.settings import ServingSettings, SharedSettings

STATE = {
    "engine": "vllm", "current": 2, "previous": 1, "generations": [1, 2], "in_work": 0,
    "problems": {"G0": "/srv/somebody/secret/path is broken"},
}  # fmt: skip


class Silent:
    """An engine without an answer, a keeper and a judge that are never asked."""

    def __init__(self, well=True):
        self.well = well

    async def speak(self, model, prompt, sampling):
        return
        yield

    async def state(self):
        if not self.well:
            raise Refused(503, "the engine at /srv/somebody died")
        return STATE

    def exists(self):
        return False

    async def add_scores(self, scores):
        raise AssertionError


def gateway(home, key=None, engine=None):
    silent = engine or Silent()
    app = build(home, silent, silent, silent, ServingSettings(), SharedSettings())
    return guarded(app, ServingSettings(), key, OPEN_PATHS)


def ask(app, method, path, **more):
    async def send():
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
            return await client.request(method, path, **more)

    return asyncio.run(send())


def home_of(tmp_path):
    from ledger.home import Home

    return Home(tmp_path)


def test_an_error_that_nobody_foresaw_has_openais_form_and_tells_no_paths(tmp_path, monkeypatch):
    def fails(_):
        raise sqlite3.OperationalError("unable to open /srv/somebody/luna.db")

    monkeypatch.setattr("serving.api.gateway.Stores.open", fails)
    answer = ask(gateway(home_of(tmp_path)), "GET", "/conversations")
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert "OperationalError" in answer.json()["error"]["message"]
    assert "somebody" not in answer.text


@pytest.mark.parametrize("path", ["/generate", "/dialogue"])
@pytest.mark.parametrize("stream", [True, False])
def test_an_engine_without_an_answer_is_an_error_with_a_reason(tmp_path, path, stream):
    body = {"message": "Why?"} | ({"stream": stream} if path == "/generate" else {})
    answer = ask(gateway(home_of(tmp_path)), "POST", path, json=body)
    assert answer.status_code == 503
    assert "no answer" in answer.json()["error"]["message"]


def test_health_without_the_key_is_a_status_and_nothing_else(tmp_path):
    right = {"authorization": "Bearer secret"}
    for engine, status, word in ((Silent(), 200, "ok"), (Silent(well=False), 503, "unavailable")):
        app = gateway(home_of(tmp_path), "secret", engine)
        for headers in ({}, {"authorization": "Bearer wrong"}):
            answer = ask(app, "GET", "/healthz", headers=headers)
            assert (answer.status_code, answer.json()) == (status, {"status": word})
        told = ask(app, "GET", "/healthz", headers=right).json()
        assert told["engine"] == (STATE if engine.well else None)
        assert ("died" in (told["reason"] or "")) != engine.well


def test_on_this_machine_alone_where_no_key_is_set_health_says_all(tmp_path):
    assert ask(gateway(home_of(tmp_path)), "GET", "/healthz").json()["engine"] == STATE
