"""Asking an OpenAI-compatible endpoint: paced, within a time and a size, retried, counted.

`curriculum.teacher.asking` decides what to ask, what to accept and what to do after a failure; this is the network.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import requests
from urllib3.exceptions import HTTPError, ProtocolError, ReadTimeoutError

from curriculum.teacher.asking import (
    LabelRefused,
    Message,
    Usage,
    after_failure,
    answer_text,
    request_body,
    retry_after_s,
    usage_of,
    wait_before_retry,
)
from curriculum.teacher.settings import TeacherSettings, api_key, endpoint_url
from ledger.clock import utc_now
from ledger.errors import LunaError

T = TypeVar("T")

_CONNECT_S = 10.0
_CHUNK_BYTES = 16_384
_NO_CONNECTION = "no connection, or it broke off"


class GivenUp(Exception):
    """One item got no usable answer; the message says why."""


class Stopped(Exception):
    """The run is ending; this item was not finished."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it is recorded, whatever came of it."""

    item: str
    attempt: int
    status: int | None
    outcome: str
    """`ok`, or what was wrong."""
    usage: Usage
    seconds: float
    at: str


class Pace:
    """When the next request may begin: evenly spaced, and not while the endpoint asked for a pause."""

    def __init__(self, per_minute: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s = 60 / per_minute if per_minute else 0.0
        self._clock = clock
        self._next_at = self._paused_until = clock()
        self._lock = threading.Lock()

    def take(self) -> float:
        """0 and the turn is taken, or the seconds after which to ask again."""
        with self._lock:
            now, ready = self._clock(), max(self._next_at, self._paused_until)
            if now < ready:
                return ready - now
            self._next_at = now + self._every_s
            return 0.0

    def pause(self, seconds: float) -> None:
        """No request begins before `seconds` have passed."""
        with self._lock:
            self._paused_until = max(self._paused_until, self._clock() + seconds)


class Endpoint:
    """One endpoint for one run; threads share it.

    Args:
        record: called once for every request that was sent.

    Raises:
        LunaError: the settings name no usable endpoint.
    """

    def __init__(self, settings: TeacherSettings, record: Callable[[Asked], None]) -> None:
        self.settings = settings
        self.stopping = threading.Event()
        self._url = f"{endpoint_url(settings)}/chat/completions"
        self._key = api_key(settings)
        self._record = record
        self._pace = Pace(settings.requests_per_minute)
        self._structured = settings.structured != "plain"
        self._sessions = threading.local()

    def complete(
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
            item: names the item in records and decides the jitter of its waits.
            read: the answer's text as a result, or `LabelRefused`.
            writing: whether a candidate is written, instead of a label given.
            again: the messages after an answer was refused, from the reason; default the same.

        Raises:
            GivenUp: retries are used up, or the endpoint refuses this item.
            Stopped: the run ends.
            LunaError: the endpoint refuses every item (key, address), or asks for too long a wait.
        """
        attempt, asked = 0, messages
        while True:
            structured = self._structured and not writing
            body = request_body(self.settings, model, asked, structured=structured, writing=writing, attempt=attempt)
            self._wait_for_turn()
            sent, begun = asked, time.monotonic()
            status, retry_after, reply, problem = self._post(body)
            text = ""
            if not problem:
                try:
                    text, finish = answer_text(reply)
                    if finish == "length" and not writing:
                        raise LabelRefused("it was cut off at label_tokens")
                    result = read(text)
                    self._note(item, attempt, status, "ok", reply, sent, text, begun)
                    return result
                except LabelRefused as refused:
                    problem = str(refused)
                    asked = again(problem) if again and text else asked
            self._note(item, attempt, status, problem, reply, sent, text, begun)
            self._go_on(item, attempt, status, retry_after, problem, structured)
            attempt += 1

    def _go_on(
        self, item: str, attempt: int, status: int | None, retry_after: float | None, problem: str, structured: bool
    ) -> None:
        """Wait for the next try, or raise what ends the tries."""
        following = after_failure(status, attempt, self.settings, structured)
        if following == "plain":
            self._structured = False
        elif following == "give_up":
            raise GivenUp(f"{problem} (after {attempt + 1} tries)" if attempt else problem)
        elif following == "stop":
            raise LunaError(self._refusal(status, problem))
        elif status != 200:
            wait_s = wait_before_retry(item, attempt, retry_after, self.settings)
            if wait_s is None:
                raise LunaError(
                    f"{self._url} asks to wait {retry_after:.0f} s, more than [teacher] max_wait_s = "
                    f"{self.settings.max_wait_s:g}. Run the same command later; it goes on where it stopped."
                )
            if retry_after is not None:
                self._pace.pause(wait_s)
            self._sleep(wait_s)

    def _refusal(self, status: int | None, problem: str) -> str:
        hint = {
            401: f"Put a valid key into {self.settings.api_key_env or 'a variable that api_key_env names'}, in the "
            "environment of this command (of the Ray head, for a submitted job).",
            403: f"The key in {self.settings.api_key_env or 'no variable'} may not use this model.",
            404: "Check [teacher] base_url, which ends with /v1 at most endpoints, and model.",
        }.get(status or 0, "Check [teacher] base_url.")
        return f"{self._url} answers {problem}. {hint}"

    def _post(self, body: dict[str, Any]) -> tuple[int | None, float | None, Any, str]:
        """Send one request; status, Retry-After, the reply's JSON, and what was wrong (empty: nothing)."""
        ends_at = time.monotonic() + self.settings.timeout_s
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        try:
            # No redirects: the key and the texts go to the address in the settings and nowhere else.
            with self._session().post(
                self._url,
                json=body,
                headers=headers,
                auth=self._authorise,
                timeout=(min(_CONNECT_S, self.settings.timeout_s), self.settings.timeout_s),
                stream=True,
                allow_redirects=False,
            ) as response:
                wait_s = retry_after_s(response.headers.get("Retry-After"), datetime.now(UTC))
                raw = self._read(response, ends_at)
                status = response.status_code
        except _TooMuch as error:
            return None, None, None, str(error)
        except (requests.RequestException, HTTPError, OSError) as error:
            return None, None, None, _cause(error)
        try:
            reply = json.loads(raw)
        except (ValueError, RecursionError):
            reply = None
        if status != 200:
            told = _told(reply)
            if self._key:
                told = told.replace(self._key, "(the key)")  # some endpoints repeat it
            return status, wait_s, None, f"{status} {told}".strip()
        return status, None, reply, "" if isinstance(reply, dict) else "the reply is not JSON"

    def _read(self, response: requests.Response, ends_at: float) -> bytes:
        """The body, no longer than `timeout_s` and no larger than `max_reply_kib`."""
        parts, size, most = [], 0, self.settings.max_reply_kib * 1024
        # read1 gives what has come. iter_content would wait for a full chunk, and a reply that drips would never end.
        while chunk := response.raw.read1(_CHUNK_BYTES):
            parts.append(chunk)
            size += len(chunk)
            if size > most:
                raise _TooMuch(f"the reply is larger than {self.settings.max_reply_kib} KiB")
            if time.monotonic() > ends_at or self.stopping.is_set():
                raise _TooMuch(f"no whole reply in {self.settings.timeout_s:g} s")
        return b"".join(parts)

    def _authorise(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """As `auth`, so that no .netrc of the user takes the header's place."""
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def _session(self) -> requests.Session:
        if not hasattr(self._sessions, "session"):
            self._sessions.session = requests.Session()
        session: requests.Session = self._sessions.session
        return session

    def _note(
        self,
        item: str,
        attempt: int,
        status: int | None,
        outcome: str,
        reply: Any,
        messages: Sequence[Message],
        text: str,
        begun: float,
    ) -> None:
        # What a lost reply cost is not known; its prompt is counted as an estimate. Refusals and failed calls are free.
        billed = status == 200 or (status is None and outcome != _NO_CONNECTION)
        usage = usage_of(reply if isinstance(reply, dict) else {}, messages, text) if billed else Usage()
        self._record(Asked(item, attempt, status, outcome, usage, round(time.monotonic() - begun, 3), utc_now()))

    def _wait_for_turn(self) -> None:
        while wait_s := self._pace.take():
            self._sleep(wait_s)
        self._sleep(0)

    def _sleep(self, seconds: float) -> None:
        if self.stopping.wait(seconds) if seconds else self.stopping.is_set():
            raise Stopped


class _TooMuch(Exception):
    """A reply that takes too long or is too large."""


def _cause(error: Exception) -> str:
    """A failed request in a few words; the library's own text holds addresses of objects."""
    if isinstance(error, requests.ReadTimeout | ReadTimeoutError):
        return "no reply in time"
    if isinstance(error, requests.ConnectionError | ProtocolError | OSError) and not isinstance(
        error, requests.exceptions.InvalidURL
    ):
        return _NO_CONNECTION
    return f"the request failed ({type(error).__name__})"


def _told(reply: object) -> str:
    """The message of an error reply, short and printable: it is a stranger's text."""
    error = reply.get("error") if isinstance(reply, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    text = message if isinstance(message, str) else ""
    return "".join(character if character.isprintable() else " " for character in text)[:200]
