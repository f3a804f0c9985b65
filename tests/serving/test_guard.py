"""Who and what gets past the guard."""

from __future__ import annotations

import asyncio
import re
import sqlite3

import httpx
import pytest
from pydantic import ValidationError

from serving.api.errors import Refused
from serving.api.guard import guarded
from serving.settings import ServingSettings
from tests.serving.test_front import make_front

OPEN = ("/", "/page/", "/healthz")


async def behind(scope, receive, send):
    """Stands where an application stands: says what it got."""
    body = (await receive())["body"] if scope["method"] == "POST" else b"read"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def ask(app, path="/generate", method="POST", content=b"hello", host="127.0.0.1:8000", times=1, **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    async def send():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
            return [await client.request(method, path, content=content, headers=named) for _ in range(times)]

    return asyncio.run(send())[-1]


def app_with(key=None, **settings):
    return guarded(behind, ServingSettings(**settings), key, OPEN)


def reason(answer):
    return answer.json()["error"]["message"]


def test_without_a_key_everybody_on_this_machine_is_answered():
    answer = ask(app_with())
    assert (answer.status_code, answer.content) == (200, b"hello")


@pytest.mark.parametrize("given", [None, "Bearer wrong", "Bearer ", "secret", "Bearer secre", "Bearer secret2"])
def test_with_a_key_only_the_right_one_is_answered(given):
    app = app_with(key="secret")
    answer = ask(app, **({"authorization": given} if given else {}))
    assert answer.status_code == 401
    assert "LUNA_API_KEY" in reason(answer)
    assert ask(app, authorization="Bearer secret").status_code == 200


def test_the_page_and_health_need_no_key_and_nothing_else_is_open():
    app = app_with(key="secret")
    for path in ("/", "/page/app.js", "/healthz"):
        assert ask(app, path, "GET").status_code == 200
    for path in ("/generate", "/lineage", "/metrics", "/v1/models", "/healthz/x", "/pages"):
        assert ask(app, path, "GET").status_code == 401


@pytest.mark.parametrize("origin", ["https://evil.example", "http://127.0.0.1:9999", "null"])
def test_a_page_of_another_origin_is_refused(origin):
    assert ask(app_with(), origin=origin).status_code == 403
    assert ask(app_with(key="secret"), origin=origin, authorization="Bearer secret").status_code == 403


def test_the_servers_own_page_and_listed_origins_are_answered():
    assert ask(app_with(), origin="http://127.0.0.1:8000").status_code == 200
    app = app_with(allowed_origins=("https://friend.example",))
    answer = ask(app, origin="https://friend.example")
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://friend.example"
    assert "x-luna-generation" in answer.headers["access-control-expose-headers"]
    preflight = ask(app, method="OPTIONS", origin="https://evil.example", access_control_request_method="POST")
    assert "access-control-allow-origin" not in preflight.headers


def test_a_name_that_only_resolves_to_this_machine_is_refused_without_a_key():
    assert ask(app_with(), host="evil.example:8000").status_code == 421
    assert ask(app_with(), host="localhost:8000").status_code == 200
    assert ask(app_with(), host="[::1]:8000").status_code == 200
    assert ask(app_with(key="s"), host="rig.example:8000", authorization="Bearer s").status_code == 200


def test_too_many_requests_are_told_when_to_come_again():
    app = app_with(requests_per_minute=5)
    assert ask(app, times=5).status_code == 200
    answer = ask(app)
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert ask(app, "/healthz", "GET").status_code == 200, "health is not counted"


def test_a_body_over_the_limit_is_refused_while_it_is_read():
    app = app_with(max_body_kib=1)
    assert ask(app, content=b"x" * 1024).status_code == 200
    answer = ask(app, content=b"x" * 1025)
    assert answer.status_code == 413
    assert "1 KiB" in reason(answer)


def test_the_rate_is_one_for_all_clients_for_they_all_come_through_the_proxy():
    app = app_with(requests_per_minute=2)

    async def three():
        found = []
        for client in ("127.0.0.1", "10.0.0.7", "10.0.0.8"):
            transport = httpx.ASGITransport(app, client=(client, 1))
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as asking:
                found.append((await asking.post("/generate", content=b"x")).status_code)
        return found

    assert asyncio.run(three()) == [200, 200, 429]


def test_a_body_that_does_not_arrive_gives_its_place_back(monkeypatch):
    monkeypatch.setattr("serving.api.guard._BODY_S", 0.05)
    sent = []

    async def never_all():
        if not begun:
            begun.append(True)
            return {"type": "http.request", "body": b"{", "more_body": True}
        return await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    begun: list[bool] = []
    scope = {"type": "http", "method": "POST", "path": "/generate", "headers": [(b"host", b"127.0.0.1:8000")]}
    asyncio.run(asyncio.wait_for(app_with()(scope, never_all, send), 5))
    assert sent[0]["status"] == 408


@pytest.mark.parametrize("build", [app_with, lambda: make_front()[0]])
def test_what_is_not_http_is_closed_and_reaches_no_application(build):
    """None of the checks would be made for it. Startup and shutdown pass."""
    sent = []

    async def receive():
        return {"type": "websocket.connect"}

    async def send(message):
        sent.append(message)

    asyncio.run(build()({"type": "websocket", "path": "/v1/realtime", "headers": []}, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_startup_and_shutdown_reach_the_application():
    seen = []

    async def inner(scope, receive, send):
        seen.append(scope["type"])

    asyncio.run(guarded(inner, ServingSettings(), "secret", ())({"type": "lifespan"}, None, None))
    assert seen == ["lifespan"]


@pytest.mark.parametrize(
    ("origin", "says"),
    [
        ("https://friend.example/", "write 'https://friend.example'"),
        ("https://Friend.example", "write 'https://friend.example'"),
        ("https://friend.example:443", "write 'https://friend.example'"),
        ("friend.example", "https://example.org"),
        ("*", "https://example.org"),
        ("https://friend.example:port", "https://example.org"),
    ],
)
def test_an_origin_that_no_browser_would_send_is_refused_with_the_right_spelling(origin, says):
    with pytest.raises(ValidationError, match=re.escape(says)):
        ServingSettings(allowed_origins=(origin,))


def test_origins_as_browsers_send_them_are_taken():
    origins = ("https://friend.example", "http://127.0.0.1:3000", "http://[::1]:3000")
    assert ServingSettings(allowed_origins=origins).allowed_origins == origins


def test_a_refusal_survives_the_way_between_processes():
    import pickle

    refusal = pickle.loads(pickle.dumps(Refused(429, "later", {"retry-after": "3"})))
    assert (refusal.status, str(refusal), refusal.headers) == (429, "later", {"retry-after": "3"})


def test_what_fails_unforeseen_before_an_answer_began_is_answered_in_openais_form():
    async def broken(scope, receive, send):
        raise sqlite3.OperationalError("/secret/path: disk I/O error")

    answer = ask(guarded(broken, ServingSettings(), None, OPEN))
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/json")
    assert reason(answer) == "this server failed (OperationalError); its log says where."


def test_what_fails_after_an_answer_began_is_left_to_the_server():
    async def broken(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise sqlite3.OperationalError

    with pytest.raises(sqlite3.OperationalError):
        ask(guarded(broken, ServingSettings(), None, OPEN))


@pytest.mark.parametrize("origin", ["http://[::1", "http://]", "null", "\xff", "//", "http://" + "a" * 5000])
def test_an_origin_that_is_none_is_another_sites(origin):
    assert ask(app_with(), origin=origin.encode("latin-1")).status_code == 403
