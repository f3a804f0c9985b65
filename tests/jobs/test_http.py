"""`luna chat` and `luna compare` against a server that is Luna's, something else, or breaks off: always a sentence."""

from __future__ import annotations

import json
import os
import socket

import pytest
from pydantic import TypeAdapter
from typer.testing import CliRunner

import jobs.http
from jobs.chat import _completion
from jobs.cli import app
from jobs.http import answered, asked, events, is_this_machine, without_proxies
from ledger.errors import LunaError
from ledger.home import Home
from tests.jobs.servers import http, listening

ANY = TypeAdapter(object)


def frames(*pairs):
    return "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in pairs).encode()


TURN = {"id": "a" * 32, "conversation": "b" * 32}
START = {"role": "logical", "conversation": TURN["conversation"], "turn": TURN["id"], "context_dropped": 0}
WHOLE = frames(("start", START), ("token", {"text": "Good evening."}), ("turn", TURN), ("end", {}))


def home_at(tmp_path, port):
    home = Home(tmp_path / "home").create()
    home.settings_file.write_text(f'profile = "tiny"\n[serving]\nport = {port}\n')
    return home


def chat(home):
    return CliRunner().invoke(app, ["chat", "--home", str(home.root)], input="Good evening.\n/quit\n")


# -- proxies ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def _behind_a_proxy(tmp_path, monkeypatch):
    """A proxy where nobody listens, and a .netrc with an entry for this machine."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.mark.usefixtures("_behind_a_proxy")
def test_a_talk_goes_to_this_machine_whatever_proxy_and_netrc_say(tmp_path, monkeypatch):
    monkeypatch.setenv("LUNA_API_KEY", "the-key")
    with listening(http(WHOLE, kind="text/event-stream")) as (port, requests):
        done = chat(home_at(tmp_path, port))
    assert "Good evening." in done.output
    assert b"bearer the-key" in requests[0].lower()
    assert b"Basic" not in requests[0]


@pytest.mark.usefixtures("_behind_a_proxy")
def test_rays_job_client_goes_to_this_machine_whatever_proxy_and_netrc_say():
    from ray.dashboard.modules.dashboard_sdk import SubmissionClient

    with listening(http({"version": "4", "ray_version": "x", "ray_commit": "y"})) as (port, requests):
        url = f"http://127.0.0.1:{port}"
        with without_proxies(url):
            assert SubmissionClient(url)._do_request("GET", "/api/version").status_code == 200
    assert b"authorization" not in requests[0].lower()


def test_the_environment_is_put_back_and_kept_for_other_machines(monkeypatch):
    monkeypatch.setenv("no_proxy", "inside.example")
    monkeypatch.delenv("NO_PROXY", raising=False)
    before = dict(os.environ)
    with without_proxies("http://rig.example:8265"):
        assert dict(os.environ) == before
    with without_proxies("http://localhost:8265"):
        assert os.environ["no_proxy"] == "127.0.0.1,localhost,::1,inside.example"
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("host", "here"),
    [("127.0.0.1", 1), ("127.9.9.9", 1), ("[::1]", 1), ("localhost", 1), ("LOCALHOST.", 1), ("0.0.0.0", 1),
     ("a.localhost", 1), ("10.0.0.1", 0), ("localhost.example", 0), ("rig", 0)],
)  # fmt: skip
def test_which_addresses_are_this_machines(host, here):
    assert is_this_machine(f"http://{host}:1/v1") == bool(here)


# -- what may answer --------------------------------------------------------------------------------------------------

REFUSALS = {
    "openai": (http({"error": {"message": "this server needs an API key"}}, "401 No"), "needs an API key"),
    "a text": (http({"error": "busy"}, "503 Busy"), r"\(503\): busy"),
    "detail": (http({"detail": "Not Found"}, "404 No"), r"\(404\): Not Found"),
    "FastAPI's list": (
        http({"detail": [{"loc": ["body", "message"], "msg": "too long"}]}, "422 No"),
        r"\(422\): body.message: too long",
    ),
    "a page": (http(b"<html><style>x{}</style><h1>Bad gateway</h1></html>", "502 No", "text/html"), ": Bad gateway"),
    "nothing": (http(b"", "500 No"), r"\(500\): without a reason"),
    "a number": (http(b"7", "400 No"), "without a reason"),
    "deep": (http(b"[" * 100_000, "400 No"), r"\(400\)"),
    "a redirect": (http(b"", "302 Found", Location="http://127.0.0.1:9/"), r"\(302\)"),
    "Latin-1": (http(b'{"error": "\xfcber"}', "400 No"), r"\(400\)"),
}
FOREIGN = {
    "a page": http(b"<html>hello</html>", kind="text/html"),
    "nothing": http(b""),
    "cut JSON": http(b'{"choices": [{"mess'),
    "an array": http([1, 2]),
    "no choices": http({"choices": []}),
    "choices of null": http({"choices": None}),
    "a message of text": http({"choices": [{"message": "hello"}]}),
    "deep": http(b"[" * 100_000),
    "half a character": http(b'{"choices": "\\ud800"}'),
    "UTF-16": http('{"choices": 1}'.encode("utf-16")),
}
BROKEN = {
    "promised more": http(b'{"choices": [', more=1000),
    "chunks cut": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{",
    "bad chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "bad gzip": http(b"no gzip", Content_Encoding="gzip"),
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "hangs up": b"",
    "bad status": b"HTTP/1.1 abc OK\r\n\r\n",
}


@pytest.mark.parametrize("kind", sorted(REFUSALS))
def test_a_refusal_in_any_form_is_told_with_its_reason(tmp_path, kind):
    reply, told = REFUSALS[kind]
    with (
        listening(reply) as (port, _),
        pytest.raises(LunaError, match=told),
        asked(home_at(tmp_path, port), "POST", "/x", {}),
    ):
        pass


@pytest.mark.parametrize("kind", sorted(FOREIGN))
def test_an_answer_of_another_program_is_named_as_such(tmp_path, kind):
    with listening(FOREIGN[kind]) as (port, _), pytest.raises(LunaError, match="is not Luna's server"):
        _completion(home_at(tmp_path, port), {})


@pytest.mark.parametrize("kind", sorted(BROKEN))
def test_a_connection_that_fails_is_a_sentence(tmp_path, kind):
    with listening(BROKEN[kind]) as (port, _):
        home = home_at(tmp_path, port)
        with pytest.raises(LunaError, match=r"broke off|nothing answers|could not be asked|is not Luna's"):
            answered(home, "GET", "/x", ANY)


def test_a_reset_and_a_port_where_nobody_listens(tmp_path):
    with listening(http(b"{", more=10), reset=True) as (port, _):
        home = home_at(tmp_path, port)
        with pytest.raises(LunaError, match=r"broke off|nothing answers"):
            answered(home, "GET", "/x", ANY)
    with pytest.raises(LunaError, match="start it with `luna serve`"):
        answered(home, "GET", "/x", ANY)


def test_a_server_that_does_not_answer_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs.http, "_ANSWER_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        home = home_at(tmp_path, server.getsockname()[1])
        with pytest.raises(LunaError, match=r"gave no answer in 0.2 s"):
            answered(home, "GET", "/x", ANY)


STREAMS = {
    "half a frame": WHOLE[:40] + b"event: tok",
    "half of the data": WHOLE[:-40],
    "no end": frames(("token", {"text": "Good"})),
    "no JSON": b"event: token\ndata: Good evening\n\n",
    "a list": b"event: token\ndata: [1]\n\n",
    "no text": frames(("token", {})),
    "a turn without an id": frames(("turn", {"conversation": "b"})),
    "an error without a message": frames(("error", {})),
    "bytes": b"event: \xff\xfe\ndata: \xff\n\n",
    "a page": b"<html>\n</html>",
}


@pytest.mark.parametrize("kind", sorted(STREAMS))
def test_a_broken_stream_of_an_answer_is_a_sentence_and_the_talk_goes_on(tmp_path, kind):
    with listening(http(STREAMS[kind], kind="text/event-stream")) as (port, _):
        done = chat(home_at(tmp_path, port))
    assert done.exit_code == 0, done.output
    assert "broke off" in done.output or "is not Luna's server" in done.output


def test_an_error_within_a_stream_is_told(tmp_path):
    stream = frames(("token", {"text": "Go"}), ("error", {"message": "the engine stopped"}))
    with listening(http(stream, kind="text/event-stream")) as (port, _):
        home = home_at(tmp_path, port)
        assert list(events(home, "/generate", {}))[-1] == ("error", {"message": "the engine stopped"})
        assert "broke off: the engine stopped" in chat(home).output
