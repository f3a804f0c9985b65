"""`luna teach` against endpoints that speak other dialects of the API, and against broken ones."""

from __future__ import annotations

import gzip
import json

import pytest

from jobs.teacher.endpoint import _network
from jobs.teacher.tasks import set_folder
from ledger.errors import LunaError
from ledger.home import Home
from tests.jobs.fake_endpoint import GOOD, Reply, completion, good_label, serving
from tests.jobs.servers import http, listening
from tests.jobs.test_teach import label

pytestmark = pytest.mark.usefixtures("short_waits")


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


def rows(home):
    return [json.loads(line) for line in (set_folder(home, "s") / "labels.jsonl").read_text().splitlines()]


def refuses(told, status=400, **error):
    return Reply({"error": {"message": told, "type": "invalid_request_error", **error}}, status)


def new_model(asked):
    if "max_tokens" in asked.body:
        return refuses("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.", param="max_tokens")
    if asked.body.get("temperature", 1) != 1:
        return refuses("Only the default value (1) of 'temperature' is supported.", param="temperature")
    return good_label(asked)


def test_what_an_endpoint_does_not_take_is_left_out_and_remembered(home):
    with serving(new_model) as fake:
        label(home, fake, concurrency=1, max_retries=0)
    assert len(rows(home)) == 4
    assert len(fake.asked) == 2 + 4, "found out once, for all"
    assert fake.asked[-1].body["max_completion_tokens"] == 700
    assert not {"max_tokens", "temperature"} & set(fake.asked[-1].body)
    assert "response_format" in fake.asked[-1].body, "the schema was never in question"


def test_several_at_once_find_out_together(home):
    with serving(new_model) as fake:
        label(home, fake, concurrency=4, max_retries=1)
    assert len(rows(home)) == 4
    assert len(fake.asked) <= 4 * 3


def strict_fields(asked):
    extra = sorted({"seed", "stream", "response_format"} & set(asked.body))
    if extra:
        return Reply({"detail": [{"loc": ["body", x], "msg": "Extra inputs are not permitted"} for x in extra]}, 422)
    return good_label(asked)


def test_an_endpoint_that_forbids_unknown_fields_is_asked_without_them(home):
    with serving(strict_fields) as fake:
        label(home, fake, n=2, concurrency=1, max_retries=1)
    assert len(rows(home)) == 2
    assert len(fake.asked) == 4 + 1


@pytest.mark.parametrize("kind", ["thought", "parts", "gzip", "utf-16"])
def test_a_label_in_another_form_of_reply_is_taken(home, kind):
    def answer(asked):
        whole = {**GOOD, "check": asked.check}
        if kind == "thought":
            return completion(f"The person asks.\n</think>\n\n{json.dumps(whole)}")
        good = completion(whole)
        if kind == "parts":
            thought = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
            good.body["choices"][0]["message"]["content"] = [thought, {"type": "text", "text": json.dumps(whole)}]
            return good
        data = json.dumps(good.body)
        if kind == "gzip":
            return Reply(gzip.compress(data.encode()), headers={"Content-Encoding": "gzip"})
        return Reply(data.encode("utf-16"))

    with serving(answer) as fake:
        label(home, fake, n=1)
    assert (len(rows(home)), len(fake.asked)) == (1, 1)


TOLD = {
    "error in a 200": (Reply({"error": {"message": "the upstream is overloaded", "code": 502}}), "is overloaded"),
    "FastAPI's detail": (Reply({"detail": "the model 'judge' is not loaded"}, 400), "'judge' is not loaded"),
    "an older vLLM": (Reply({"object": "error", "message": "2048 tokens", "code": 400}, 400), "400 2048 tokens"),
    "a page": (Reply(b"<html><h1>Bad gateway</h1></html>", 502), "502 Bad gateway"),
    "an empty body": (Reply(b"", 500), "500"),
    "a page as an answer": (Reply(b"<html>hello</html>"), "the reply is not JSON"),
    "cut JSON": (Reply(b'{"choices": [{"mess'), "the reply is not JSON"),
    "a stream": (Reply(b'data: {"choices": [{"delta": {}}]}\n\ndata: [DONE]\n\n'), "the reply is not JSON"),
    "a bomb": (Reply(gzip.compress(bytes(3 << 20)), headers={"Content-Encoding": "gzip"}), "larger than 1024 KiB"),
    "no gzip": (Reply(b"{}", headers={"Content-Encoding": "gzip"}), "not JSON"),
    "null": (Reply({"choices": [{"message": {"content": None, "refusal": "No."}}]}), "refused"),
    "deep": (Reply(b"[" * 100_000), "the reply is not JSON"),
    "503 without a wait": (Reply({"error": "busy"}, 503), "503 busy"),
    "an odd wait": (Reply({"error": "busy"}, 429, {"Retry-After": "soon"}), "429 busy"),
}


@pytest.mark.parametrize("kind", sorted(TOLD))
def test_what_is_no_answer_is_told_in_the_endpoints_words(home, kind):
    reply, told = TOLD[kind]
    with serving(lambda _: reply) as fake, pytest.raises(LunaError):
        label(home, fake, n=1, max_retries=1)
    (failure,) = json.loads((set_folder(home, "s") / "labels.manifest.json").read_text())["failures"].values()
    assert told in failure


BROKEN = {
    "hangs up": b"", "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n", "promised more": http(b"{", more=1000),
    "chunks cut": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{",
    "bad chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "bad status": b"HTTP/1.1 abc\r\n\r\n", "a switch of protocols": b"HTTP/1.1 101 Go\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(BROKEN))
def test_a_connection_that_fails_is_tried_again_and_told(home, kind):
    with listening(BROKEN[kind]) as (port, asked):
        fake = type("Fake", (), {"url": f"http://127.0.0.1:{port}/v1"})
        with pytest.raises(LunaError):
            label(home, fake, n=1, max_retries=1)
    assert len(asked) == 2


def test_a_redirect_is_not_followed_and_named(home):
    moved = Reply(b"", 302, {"Location": "http://127.0.0.1:9/v1"})
    with serving(lambda _: moved) as fake, pytest.raises(LunaError, match=r"answers 302.*base_url"):
        label(home, fake, n=1)
    assert len(fake.asked) == 1


@pytest.mark.parametrize(
    "url", ["http://[::1/v1", "http://a b/v1", "http://x:99999/v1", "http://\ud800/v1", "http:///"]
)
def test_an_address_that_is_none_is_refused(home, url):
    with pytest.raises(LunaError, match="base_url"):
        label(home, type("Fake", (), {"url": url}), n=1)


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "nonsense://x", "http://[::1"])
def test_a_proxy_that_cannot_be_used_is_named(monkeypatch, proxy):
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(LunaError, match="http_proxy"):
        _network("http://rig.example/v1")
    _network("http://127.0.0.1:1/v1")
