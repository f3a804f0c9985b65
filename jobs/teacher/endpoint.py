"""Asking an OpenAI-compatible endpoint: paced, within a time and a size, counted. The `openai` client does the retries.

`curriculum.teacher.asking` decides what to ask and what to accept; this is the network.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2
import openai

from curriculum.teacher.asking import (
    LabelRefused,
    Message,
    Usage,
    after_failure,
    answer_text,
    request_body,
    retry_after_s,
    usage_of,
)
from curriculum.teacher.settings import TeacherSettings, api_key, endpoint_url
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
        self._structured = settings.structured != "plain"
        transport = _Transport(settings, self._url, api_key(settings), record)
        # Redirects are not followed: the key and the texts go to the address in the settings and nowhere else.
        self._client = openai.AsyncOpenAI(
            base_url=self._url,
            api_key="set by the transport",
            http_client=httpx2.AsyncClient(transport=transport, trust_env=False, follow_redirects=False, timeout=None),
        )

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
            structured = self._structured and not writing
            body = request_body(
                self.settings, model, tries.asked, structured=structured, writing=writing, attempt=tries.sent
            )
            response = await self._send(body, tries)
            status = response.status_code if response is not None else None
            if response is not None and status == 200:
                text, reply = "", _parsed(response)
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
            self._go_on(tries, response, structured)

    async def _send(self, body: dict[str, Any], tries: _Tries) -> httpx2.Response | None:
        """The endpoint's last reply, after the client's retries; None if none came."""
        left = max(0, self.settings.max_retries - tries.sent)
        try:
            return await self._client.post(
                "/chat/completions", body=body, cast_to=httpx2.Response, options={"max_retries": left}
            )
        except openai.APIStatusError as error:
            return error.response
        except openai.APIConnectionError:
            return None

    def _go_on(self, tries: _Tries, response: httpx2.Response | None, structured: bool) -> None:
        """Return if it is worth to ask once more, or raise what ends the tries."""
        status = None if response is None else response.status_code
        following = after_failure(status, tries.sent - 1, self.settings, structured)
        if following == "plain":
            self._structured = False
        elif following == "stop":
            raise LunaError(self._refusal(status, tries.problem))
        elif following == "give_up":
            raise GivenUp(f"{tries.problem} (after {tries.sent} tries)" if tries.sent > 1 else tries.problem)
        elif response is not None and status != 200:
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
        self._network = httpx2.AsyncHTTPTransport(proxy=_proxy_for(url))

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
        headers = [(name, value) for name, value in response.headers.items() if name != "content-encoding"]
        return httpx2.Response(response.status_code, headers=headers, content=b"".join(parts), request=request)

    def _told(self, response: httpx2.Response) -> str:
        """The message of an error reply, short, printable, and without the key, which some endpoints repeat."""
        reply = _parsed(response)
        error = reply.get("error") if isinstance(reply, dict) else None
        message = error.get("message") if isinstance(error, dict) else error
        text = message if isinstance(message, str) else ""
        if self._key:
            text = text.replace(self._key, "(the key)")
        return "".join(character if character.isprintable() else " " for character in text)[:200]


class _Lost(httpx2.TransportError):
    """A reply that takes too long or is too large."""


def _parsed(response: httpx2.Response) -> Any:
    """The reply's JSON, or None."""
    try:
        return json.loads(response.content)
    except (ValueError, RecursionError):
        return None


def _proxy_for(url: str) -> str | None:
    """The proxy that the environment names for an address; none for this machine's own."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        local = ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    return None if local or proxy_bypass(host) else getproxies().get(parts.scheme)
