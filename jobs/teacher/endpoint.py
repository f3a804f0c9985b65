"""Asking an OpenAI-compatible endpoint: paced, within a time and a size, counted. The `openai` client does the retries.

`curriculum.teacher.asking` decides what to ask and what to accept; this is the network.
"""

from __future__ import annotations

import asyncio
import json
import time
import zlib
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2
import openai

from curriculum.teacher.answers import LabelRefused, answer_text, error_parameter, error_told, status_of
from curriculum.teacher.asking import (
    Dialect,
    Message,
    Usage,
    adapted,
    after_failure,
    request_body,
    retry_after_s,
    usage_of,
)
from curriculum.teacher.settings import TeacherSettings, api_key, endpoint_url
from jobs.http import is_this_machine
from jobs.teacher.budget import GivenUp
from jobs.teacher.rows import Row
from ledger.clock import utc_now
from ledger.errors import LunaError

T = TypeVar("T")

_CONNECT_S = 10.0
_NO_CONNECTION = "no connection, or it broke off"
_SENT_HEADERS = ("accept", "content-length", "content-type", "host", "user-agent")


Record = Callable[[Row], None]


class Pace:
    """When the next request may begin: evenly spaced, and not while the endpoint asked for a pause."""

    def __init__(self, per_minute: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s = 60 / per_minute if per_minute else 0.0
        self._clock = clock
        self._next_at = self._paused_until = clock()

    def take(self) -> float:
        """0 and the turn is taken, or the seconds after which to ask again."""
        now, ready = self._clock(), max(self._next_at, self._paused_until)
        if now < ready:
            return ready - now
        self._next_at = now + self._every_s
        return 0.0

    def pause(self, seconds: float) -> None:
        """No request begins before `seconds` have passed."""
        self._paused_until = max(self._paused_until, self._clock() + seconds)


@dataclass
class _Tries:
    """The requests made for one item so far."""

    item: str
    asked: Sequence[Message]
    sent: int = 0
    begun: float = 0.0
    adapted: int = 0
    """How many of them only found out what the endpoint takes."""
    problem: str = ""
    """What was wrong with the last one."""

    def record(self, record: Record, status: int | None, outcome: str, reply: Any = None, text: str = "") -> None:
        """Write the last request down with what it cost."""
        # What a lost reply cost is not known; its prompt is counted as an estimate. Refusals and failed calls are free.
        billed = status == 200 or (status is None and outcome != _NO_CONNECTION)
        usage = usage_of(reply if isinstance(reply, dict) else {}, self.asked, text) if billed else Usage()
        seconds = round(time.monotonic() - self.begun, 3)
        asked = {"item": self.item, "attempt": self.sent - 1, "status": status, "outcome": outcome}
        record({**asked, **asdict(usage), "seconds": seconds, "at": utc_now()})


_tries: ContextVar[_Tries] = ContextVar("luna_teacher_tries")


class Endpoint:
    """One endpoint for one run; its tasks share it.

    Args:
        record: called once for every request that was sent.

    Raises:
        LunaError: the settings name no usable endpoint.
    """

    def __init__(self, settings: TeacherSettings, record: Record) -> None:
        self.settings = settings
        self._url, self._record = endpoint_url(settings), record
        self._dialect = Dialect(structured=settings.structured != "plain")
        transport = _Transport(settings, self._url, api_key(settings), record)
        # Redirects are not followed: the key and the texts go to the address in the settings and nowhere else.
        http = httpx2.AsyncClient(transport=transport, trust_env=False, follow_redirects=False, timeout=None)
        try:
            self._client = openai.AsyncOpenAI(base_url=self._url, api_key="set by the transport", http_client=http)
        except httpx2.InvalidURL as error:
            raise LunaError(f"[teacher] base_url is {self._url!r}: {error}. Write an address such as "
                            "http://127.0.0.1:1234/v1.") from error  # fmt: skip

    async def close(self) -> None:
        """Close its connections."""
        await self._client.close()

    async def complete(
        self,
        item: str,
        model: str,
        messages: Sequence[Message],
        read: Callable[[str], T],
        *,
        writing: bool,
        again: Callable[[str], Sequence[Message]] | None = None,
    ) -> T:
        """Ask until `read` takes the answer.

        Args:
            item: names the item in records.
            read: the answer's text as a result, or `LabelRefused`.
            writing: whether a candidate is written, instead of a label given.
            again: the messages after an answer was refused, from the reason; default the same.

        Raises:
            GivenUp: retries are used up, or the endpoint refuses this item.
            LunaError: the endpoint refuses every item (key, address), or asks for too long a wait.
        """
        tries = _Tries(item, messages)
        _tries.set(tries)
        while True:
            dialect = self._dialect
            body = request_body(self.settings, model, tries.asked, dialect, writing=writing, attempt=tries.sent)
            response = await self._send(body, tries)
            reply = None if response is None else _parsed(response)
            status = None if response is None else status_of(response.status_code, reply)
            if response is not None and status == 200:
                text = ""
                try:
                    text, finish = answer_text(reply)
                    if finish == "length" and not writing:
                        raise LabelRefused("it was cut off at label_tokens")
                    result = read(text)
                    tries.record(self._record, status, "ok", reply, text)
                    return result
                except LabelRefused as refused:
                    tries.problem = str(refused)
                    tries.record(self._record, status, tries.problem, reply, text)
                    tries.asked = again(tries.problem) if again and text else tries.asked
            elif response is not None and response.status_code == 200:
                tries.problem = f"an error in a reply of status 200: {error_told(reply, '')}"
                tries.record(self._record, status, tries.problem)
            if not self._adapts(dialect, status, tries, reply):
                self._go_on(tries, response, status, dialect.structured and not writing)

    async def _send(self, body: dict[str, Any], tries: _Tries) -> httpx2.Response | None:
        """The endpoint's last reply, after the client's retries; None if none came."""
        left = max(0, self.settings.max_retries - (tries.sent - tries.adapted))
        try:
            return await self._client.post(
                "/chat/completions", body=body, cast_to=httpx2.Response, options={"max_retries": left}
            )
        except openai.APIStatusError as error:
            return error.response
        except openai.APIConnectionError:
            return None

    def _adapts(self, asked: Dialect, status: int | None, tries: _Tries, reply: object) -> bool:
        """Whether the endpoint refused a field that the next request, of whatever item, does without."""
        if status not in (400, 415, 422, 501):
            return False
        changed = adapted(asked, tries.problem, error_parameter(reply))
        if changed is None:
            return False
        if self._dialect == asked:  # else another task has learned of it meanwhile
            self._dialect = changed
        tries.adapted += 1
        return True

    def _go_on(self, tries: _Tries, response: httpx2.Response | None, status: int | None, structured: bool) -> None:
        """Return if it is worth to ask once more, or raise what ends the tries."""
        following = after_failure(status, tries.sent - tries.adapted - 1, self.settings, structured)
        if following == "plain":
            self._dialect = replace(self._dialect, structured=False)
        elif following == "stop":
            raise LunaError(self._refusal(status, tries.problem))
        elif following == "give_up":
            raise GivenUp(f"{tries.problem} (after {tries.sent} tries)" if tries.sent > 1 else tries.problem)
        elif response is not None and response.status_code != 200:
            # The client would have tried again, were it not asked to wait longer than it waits.
            wait_s = retry_after_s(response.headers.get("Retry-After"), datetime.now(UTC))
            if wait_s is None:
                raise GivenUp(tries.problem)
            raise LunaError(
                f"{self._url} asks to wait {wait_s:.0f} s, which is too long. Run the same command later; it goes on "
                "where it stopped."
            )

    def _refusal(self, status: int | None, problem: str) -> str:
        hint = {
            401: f"Put a valid key into {self.settings.api_key_env or 'a variable that api_key_env names'}, in the "
            "environment of this command (of the Ray head, for a submitted job).",
            403: f"The key in {self.settings.api_key_env or 'no variable'} may not use this model.",
            404: "Check [teacher] base_url, which ends with /v1 at most endpoints, and model.",
        }.get(status or 0, "Check [teacher] base_url.")
        return f"{self._url}/chat/completions answers {problem}. {hint}"


class _Transport(httpx2.AsyncBaseTransport):
    """Sends each request of the client, retries too: in its turn, to this endpoint alone, bounded, and recorded."""

    def __init__(self, settings: TeacherSettings, url: str, key: str | None, record: Record) -> None:
        self._settings, self._key, self._record = settings, key, record
        self._pace = Pace(settings.requests_per_minute)
        self._network = _network(url)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        while wait_s := self._pace.take():
            await asyncio.sleep(wait_s)
        tries = _tries.get()
        tries.sent, tries.begun = tries.sent + 1, time.monotonic()
        try:
            response = await self._reply(self._stripped(request))
        except (httpx2.HTTPError, OSError) as error:
            tries.problem = str(error) if isinstance(error, _Lost) else _NO_CONNECTION
            tries.record(self._record, None, tries.problem)
            raise
        if response.status_code != 200:  # what a good one was worth is recorded by who reads it
            tries.problem = f"{response.status_code} {self._told(response)}".strip()
            tries.record(self._record, response.status_code, tries.problem)
            if (asked_s := retry_after_s(response.headers.get("Retry-After"), datetime.now(UTC))) is not None:
                self._pace.pause(asked_s)  # for everyone
        return response

    async def aclose(self) -> None:
        await self._network.aclose()

    def _stripped(self, request: httpx2.Request) -> httpx2.Request:
        """Without what the client adds from its own environment variables and about this machine."""
        headers = {name: request.headers[name] for name in _SENT_HEADERS if name in request.headers}
        headers["Accept-Encoding"] = "identity"
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        connect_s = min(_CONNECT_S, self._settings.timeout_s)
        timeout = {"connect": connect_s, "read": None, "write": None, "pool": None}
        return httpx2.Request(
            request.method, request.url, headers=headers, stream=request.stream, extensions={"timeout": timeout}
        )

    async def _reply(self, request: httpx2.Request) -> httpx2.Response:
        """The whole reply, no later than `timeout_s` and no larger than `max_reply_kib`."""
        begun, parts, size = False, [], 0
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                response = await self._network.handle_async_request(request)
                begun = True
                try:
                    async for part in response.aiter_raw():
                        parts.append(part)
                        size += len(part)
                        if size > self._settings.max_reply_kib * 1024:
                            raise _Lost(f"the reply is larger than {self._settings.max_reply_kib} KiB")
                finally:
                    await response.aclose()
        except TimeoutError as error:
            waited = f"no whole reply in {self._settings.timeout_s:g} s" if begun else "no reply in time"
            raise _Lost(waited) from error
        body = self._decoded(b"".join(parts), response.headers.get("content-encoding", ""))
        headers = [(name, value) for name, value in response.headers.items() if name != "content-encoding"]
        return httpx2.Response(response.status_code, headers=headers, content=body, request=request)

    def _decoded(self, body: bytes, encoding: str) -> bytes:
        """A body that is compressed although that was not asked for, no larger than others may be."""
        if encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
            return body
        most = self._settings.max_reply_kib * 1024
        try:
            plain = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32).decompress(body, most + 1)
        except zlib.error:
            return b""
        if len(plain) > most:
            raise _Lost(f"the reply is larger than {self._settings.max_reply_kib} KiB")
        return plain

    def _told(self, response: httpx2.Response) -> str:
        """The message of an error reply, without the key, which some endpoints repeat."""
        reply, body = _parsed(response), response.content[:20_000].decode("utf-8", "replace")
        if self._key:
            body = body.replace(self._key, "(the key)")
            reply = _without(reply, self._key)
        return error_told(reply, body)


def _without(value: Any, key: str) -> Any:
    """A reply with the key taken out of its texts."""
    return json.loads(json.dumps(value).replace(json.dumps(key)[1:-1], "(the key)"))


class _Lost(httpx2.TransportError):
    """A reply that takes too long or is too large."""


def _parsed(response: httpx2.Response) -> Any:
    """The reply's JSON, or None."""
    try:
        return json.loads(response.content)
    except (ValueError, RecursionError):
        return None


def _network(url: str) -> httpx2.AsyncHTTPTransport:
    """Connections to an address, through a proxy where the environment names one for it.

    Raises:
        LunaError: that proxy is of a kind that cannot be used.
    """
    try:
        return httpx2.AsyncHTTPTransport(proxy=_proxy_for(url))
    except (ImportError, ValueError, httpx2.InvalidURL) as error:
        parts = urlsplit(url)
        raise LunaError(
            f"the proxy that {parts.scheme}_proxy names cannot be used: {error}. Name one that begins with http://, or "
            f"put {parts.hostname} into no_proxy."
        ) from error


def _proxy_for(url: str) -> str | None:
    """The proxy that the environment names for an address; none for this machine's own."""
    parts = urlsplit(url)
    return None if is_this_machine(url) or proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
