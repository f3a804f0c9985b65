"""What every request passes before an application sees it: whose it is, from which page, how many, how large."""

from __future__ import annotations

import hmac
import ipaddress
import json
import math
import time
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.middleware.cors import CORSMiddleware

from serving.engine import App, Message, Receive, Scope, Send
from serving.settings import ServingSettings


class Refused(Exception):
    """A request that is answered with an error. Travels between processes, so its arguments are all it has."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None):
        super().__init__(status, message, dict(headers or {}))
        self.status, self.message, self.headers = status, message, dict(headers or {})

    def __str__(self) -> str:
        return self.message


def guarded(app: App, settings: ServingSettings, key: str | None, open_paths: Collection[str] = ()) -> App:
    """The application behind the guard.

    Args:
        key: what `Authorization: Bearer` must hold; None lets everybody in (loopback only).
        open_paths: what needs no key, exact or, where more than `/` ends with `/`, everything below.
    """
    guard = Guard(app, settings, key, open_paths)
    if not settings.allowed_origins:
        return guard
    exposed = ["x-luna-generation", "x-luna-adapter-sha", "x-luna-table"]
    return CORSMiddleware(
        guard,
        allow_origins=settings.allowed_origins,
        allow_methods=["GET", "POST"],
        allow_headers=["authorization", "content-type"],
        expose_headers=exposed,
    )


class Guard:
    """See :func:`guarded`."""

    def __init__(self, app: App, settings: ServingSettings, key: str | None, open_paths: Collection[str]):
        self.app, self.settings, self.key, self.open_paths = app, settings, key, tuple(open_paths)
        self.limit = RateLimitItemPerMinute(settings.requests_per_minute)
        self.limiter = MovingWindowRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
            self._check_page(headers)
            if not self._is_open(scope["path"]):
                self._check_key(headers)
                self._check_rate(scope, headers)
            if scope["method"] == "POST":
                receive = replay(await read_body(receive, self.settings.max_body_kib << 10), receive)
        except Refused as refusal:
            await answer(send, refusal)
            return
        await self.app(scope, receive, send)

    def _is_open(self, path: str) -> bool:
        return any(
            path == known or (known != "/" and known.endswith("/") and path.startswith(known))
            for known in self.open_paths
        )

    def _check_page(self, headers: Mapping[str, str]) -> None:
        """A page of another site must not talk to a server on its reader's own machine.

        The Host check is against DNS rebinding: the other site's name then resolves to this machine.
        """
        host = headers.get("host", "")
        if self.key is None and not is_loopback(_hostname(host)):
            raise Refused(
                421, f"this server answers to names of this machine only, not to {host!r}; set LUNA_API_KEY otherwise."
            )
        origin = headers.get("origin")
        if origin and origin not in self.settings.allowed_origins and urlsplit(origin).netloc != host:
            raise Refused(403, f"pages of {origin} may not use this server; [serving] allowed_origins lists who may.")

    def _check_key(self, headers: Mapping[str, str]) -> None:
        if self.key is None:
            return
        given = headers.get("authorization", "").encode("latin-1")
        if not hmac.compare_digest(given, b"Bearer " + self.key.encode()):
            raise Refused(
                401,
                "this server needs an API key: Authorization: Bearer <LUNA_API_KEY>.",
                {"www-authenticate": "Bearer"},
            )

    def _check_rate(self, scope: Scope, headers: Mapping[str, str]) -> None:
        client = (scope.get("client") or ("unknown",))[0]
        who = "key" if self.key is not None else f"address {client}"
        if not self.limiter.hit(self.limit, who):
            wait = math.ceil(self.limiter.get_window_stats(self.limit, who).reset_time - time.time())
            raise Refused(
                429,
                f"more than {self.settings.requests_per_minute} requests a minute; try again.",
                {"retry-after": str(max(1, wait))},
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine can be meant."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _hostname(host: str) -> str:
    """`127.0.0.1:8000` and `[::1]:8000` without port and brackets; empty if it is no host."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


async def read_body(receive: Receive, limit: int) -> bytes:
    """The whole body.

    Raises:
        Refused: it is larger than `limit` bytes, or the client went away.
    """
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, "the client went away.")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise Refused(413, f"the body is larger than {limit >> 10} KiB.")
        if not message.get("more_body"):
            return b"".join(parts)


def replay(payload: bytes, receive: Receive) -> Receive:
    """The body once, then whatever the client still sends: its disconnect, by which the generation is stopped."""
    given = False

    async def next_message() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": payload, "more_body": False}

    return next_message


def error_body(refusal: Refused) -> dict[str, Any]:
    """In OpenAI's form."""
    kind = "server_error" if refusal.status >= 500 else "invalid_request_error"
    return {"error": {"message": refusal.message, "type": kind, "param": None, "code": refusal.status}}


async def answer(send: Send, refusal: Refused) -> None:
    """Send an error."""
    payload = json.dumps(error_body(refusal)).encode()
    headers = {"content-type": "application/json", "content-length": str(len(payload)), **refusal.headers}
    pairs = [(key.encode(), value.encode()) for key, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": pairs})
    await send({"type": "http.response.body", "body": payload})
