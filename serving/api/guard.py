"""What every request passes before an application sees it: whose it is, from which page, how many, how large."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import math
import time
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.api.errors import Refused, send_error, unforeseen
from serving.settings import ServingSettings

logger = logging.getLogger(__name__)

_BODY_S = 30.0
"""How long a client may take to send its body: a slow one holds a place that others wait for."""
_POLICY_VIOLATION = 1008
"""Code with which a websocket is closed."""
_EVERYBODY = "everybody"

KEY_GIVEN = "luna.key_given"
"""In the scope of a request on an open path: whether it may see what needs the key."""


def guarded(app: ASGIApp, settings: ServingSettings, key: str | None, open_paths: Collection[str] = ()) -> ASGIApp:
    """The application behind the guard.

    Args:
        key: what `Authorization: Bearer` must hold; None lets everybody in (loopback only).
        open_paths: what needs no key, exact or, where more than `/` ends with `/`, everything below.
    """
    guard = Guard(app, settings, key, open_paths)
    if not settings.allowed_origins:
        return guard
    exposed = ["x-luna-generation", "x-luna-adapter-sha", "x-luna-table", "x-luna-context-dropped"]
    return CORSMiddleware(
        guard,
        allow_origins=settings.allowed_origins,
        allow_methods=["GET", "POST"],
        allow_headers=["authorization", "content-type"],
        expose_headers=exposed,
    )


class Guard:
    """See :func:`guarded`."""

    def __init__(self, app: ASGIApp, settings: ServingSettings, key: str | None, open_paths: Collection[str]):
        self.app, self.settings, self.key, self.open_paths = app, settings, key, tuple(open_paths)
        self.limit = RateLimitItemPerMinute(settings.requests_per_minute)
        self.limiter = MovingWindowRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # nothing here speaks websocket, and none of the checks below would be made
            await close(scope, send)
            return
        began = False

        async def noted(message: Message) -> None:
            nonlocal began
            began = True
            await send(message)

        try:
            await self._answer(scope, receive, noted)
        except Exception as error:
            if began:  # a framework has answered it in its own way
                raise
            logger.exception("%s %s failed", scope["method"], scope["path"])
            await send_error(send, unforeseen(error))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
            self._check_page(headers)
            if self._is_open(scope["path"]):
                scope = {**scope, KEY_GIVEN: self._has_key(headers)}
            else:
                self._check_key(headers)
                self._check_rate()
            if scope["method"] == "POST":
                receive = replay(await read_body(receive, self.settings.max_body_kib << 10), receive)
        except Refused as refusal:
            await send_error(send, refusal)
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
        if origin and origin not in self.settings.allowed_origins and _netloc(origin) != host:
            raise Refused(403, f"pages of {origin} may not use this server; [serving] allowed_origins lists who may.")

    def _check_key(self, headers: Mapping[str, str]) -> None:
        if not self._has_key(headers):
            raise Refused(
                401,
                "this server needs an API key: Authorization: Bearer <LUNA_API_KEY>.",
                {"www-authenticate": "Bearer"},
            )

    def _has_key(self, headers: Mapping[str, str]) -> bool:
        if self.key is None:
            return True
        given = headers.get("authorization", "").encode("latin-1")
        return hmac.compare_digest(given, b"Bearer " + self.key.encode())

    def _check_rate(self) -> None:
        """One limit for all: behind Ray Serve's proxy every request comes from the proxy's address."""
        if not self.limiter.hit(self.limit, _EVERYBODY):
            wait = math.ceil(self.limiter.get_window_stats(self.limit, _EVERYBODY).reset_time - time.time())
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


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:  # half of a bracket
        return None


async def close(scope: Scope, send: Send) -> None:
    """Refuse a connection that is not HTTP; of other kinds than websockets nothing is heard again."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION})


async def read_body(receive: Receive, limit: int) -> bytes:
    """The whole body.

    Raises:
        Refused: it is larger than `limit` bytes, it takes too long, or the client went away.
    """
    try:
        async with asyncio.timeout(_BODY_S):
            return await _whole_body(receive, limit)
    except TimeoutError as error:
        raise Refused(408, f"the body did not arrive within {_BODY_S:g} s.") from error


async def _whole_body(receive: Receive, limit: int) -> bytes:
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
