"""An OpenAI-compatible endpoint on this machine that answers as a test tells it to."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

GOOD = {
    "rationale": "Sees the person and asks.",
    "empathy": 0.5,
    "social_coherence": 0.25,
    "agency_support": 0,
    "epistemic_integrity": -0.5,
    "harm_avoidance": 1,
    "narrative_alignment": 0.5,
    "curiosity": -1,
    "reward_intensity": 0.75,
    "safety_score": 0.5,
    "scalar_preference": 0.1,
}


@dataclass
class Asked:
    """One request as the endpoint saw it."""

    body: dict[str, Any]
    headers: dict[str, str]
    at: float
    number: int
    """From 0, over all requests."""

    @property
    def text(self) -> str:
        return str(self.body["messages"][-1]["content"])

    @property
    def check(self) -> str:
        found = re.search(r"whose value is the text (\w+)", self.body["messages"][0]["content"])
        return found[1] if found else ""


@dataclass
class Reply:
    """What the endpoint answers: a status, headers, and a body or the pieces of one with waits between."""

    body: object = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    pieces: Iterator[bytes] | None = None


def completion(content: object, usage: object = "default", finish: str = "stop") -> Reply:
    """A chat completion with this text (an object becomes JSON)."""
    text = content if isinstance(content, str) else json.dumps(content)
    reply: dict[str, Any] = {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}]}
    if usage is not None:
        reply["usage"] = {"prompt_tokens": 1000, "completion_tokens": 100} if usage == "default" else usage
    return Reply(reply)


def good_label(asked: Asked, **changed: object) -> Reply:
    """A label of the schema, with some values changed."""
    return completion({**GOOD, "check": asked.check, **changed})


class FakeEndpoint:
    """Counts what it was asked; `answer` decides what it says."""

    def __init__(self, answer: Callable[[Asked], Reply]) -> None:
        self.answer = answer
        self.asked: list[Asked] = []
        self.url = ""
        self.bytes_sent = 0
        self._lock = threading.Lock()

    def take(self, body: dict[str, Any], headers: dict[str, str]) -> Reply:
        with self._lock:
            asked = Asked(body, headers, time.monotonic(), len(self.asked))
            self.asked.append(asked)
        return self.answer(asked)


@contextmanager
def serving(answer: Callable[[Asked], Reply]) -> Iterator[FakeEndpoint]:
    """A running endpoint."""
    fake = FakeEndpoint(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            reply = fake.take(body, dict(self.headers))
            data = b"" if reply.pieces else _bytes(reply.body)
            with suppress(BrokenPipeError, ConnectionResetError):
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                if reply.pieces is None:
                    self.send_header("Content-Length", str(len(data)))
                else:
                    self.send_header("Connection", "close")
                self.end_headers()
                for piece in reply.pieces or iter([data]):
                    self.wfile.write(piece)
                    self.wfile.flush()
                    fake.bytes_sent += len(piece)
            self.close_connection = self.close_connection or reply.pieces is not None

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

    server = Server(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()


def _bytes(body: object) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()
