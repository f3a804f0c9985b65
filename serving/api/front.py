"""What stands before the engine's OpenAI application: it binds each request to one adapter and keeps the rest out.

A request's public model name is looked up once, in the table of that moment, and replaced by the adapter's own name.
So a swap is one assignment: requests in flight finish on the adapter they began with, later ones get the new.
Chat messages become a role's raw prompt through the curriculum's render function; engines get it as one message.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from curriculum.transcript import Talk, render_talk, talk_of
from ledger.errors import LunaError
from serving.api.errors import Refused, send_error
from serving.api.guard import close, read_body, replay
from serving.engine import Asked, Reader, Stopped
from serving.settings import ServingSettings
from serving.table import Adapter, Table

_GENERATE = ("/v1/completions", "/v1/chat/completions")
_READ = ("/v1/models",)
_MOST_ANSWERS = 8
_HALF = re.compile("[\ud800-\udfff]")
_SPEAKERS = ("system", "developer", "user", "assistant", "tool", "function")


class Leases:
    """Requests in flight for each generation, so that none is unloaded under its user; None counts the base."""

    def __init__(self) -> None:
        self._held: Counter[int | None] = Counter()
        self._used: dict[int | None, int] = {}
        self._clock = 0

    @property
    def total(self) -> int:
        return sum(self._held.values())

    def held(self, gen: int) -> int:
        return self._held[gen]

    @contextmanager
    def on(self, gen: int | None) -> Iterator[None]:
        """Hold a generation while a request uses it."""
        self._held[gen] += 1
        self._clock += 1
        self._used[gen] = self._clock
        try:
            yield
        finally:
            self._held[gen] -= 1

    def least_recently_used(self, gens: list[int]) -> int | None:
        """Of these generations the one that no request holds and that was asked longest ago; None if all are held."""
        free = [gen for gen in gens if not self._held[gen]]
        return min(free, key=lambda gen: (self._used.get(gen, 0), gen), default=None)


class Front:
    """The ASGI application for /v1.

    Args:
        inner: the engine's OpenAI application, which knows adapters by their own names and the base by `base_name`.
        table: gives the table of this moment.
        reader: makes a chat's prompt.
    """

    def __init__(
        self,
        inner: ASGIApp,
        table: Callable[[], Table],
        leases: Leases,
        settings: ServingSettings,
        reader: Reader,
        base_name: str,
    ):
        self.inner, self.table, self.leases, self.settings = inner, table, leases, settings
        self.reader, self.base_name = reader, base_name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.inner(scope, receive, send)
            return
        if scope["type"] != "http":
            await close(scope, send)
            return
        scope = {**scope, "root_path": ""}  # Serve says /v1, which the paths of OpenAI's routes hold themselves.
        try:
            if scope["path"] in _GENERATE and scope["method"] == "POST":
                await self._generate(scope, receive, send)
            elif scope["path"] in _READ and scope["method"] == "GET":
                await self.inner(scope, receive, send)
            else:
                raise Refused(404, f"there is nothing at {scope['method']} {scope['path']}.")
        except Refused as refusal:
            await send_error(send, refusal)

    async def _generate(self, scope: Scope, receive: Receive, send: Send) -> None:
        refuse_when_full(self.leases, self.settings)
        body = _object(await read_body(receive, self.settings.max_body_kib << 10))
        table = self.table()
        adapter = resolve(table, body.get("model"))
        asked = self._bound(body, adapter)
        headers = {"x-luna-table": str(table.version), "x-luna-generation": "base", "x-luna-adapter-sha": ""}
        if adapter:
            headers |= {"x-luna-generation": f"G{adapter.gen}", "x-luna-adapter-sha": adapter.sha}
        with self.leases.on(adapter.gen if adapter else None):
            if scope["path"].endswith("/chat/completions"):
                dropped = await self._read(asked, adapter)
                headers["x-luna-context-dropped"] = str(dropped)
            payload = json.dumps(asked).encode()
            await self.inner(_sized(scope, len(payload)), replay(payload, receive), _with_headers(send, headers))

    def _bound(self, body: dict[str, Any], adapter: Adapter | None) -> dict[str, Any]:
        """The request under the adapter's own name, limits kept."""
        limit = self.settings.max_tokens
        for name in ("max_tokens", "max_completion_tokens"):
            if _number(body, name, limit) > limit:
                raise Refused(400, f"{name} is {body[name]}; at most {limit} are allowed here.")
        if max(_number(body, "n", 1), _number(body, "best_of", 1)) > _MOST_ANSWERS:
            raise Refused(400, f"at most {_MOST_ANSWERS} answers to one request are allowed here.")
        return {**body, "model": adapter.name if adapter else self.base_name}

    async def _read(self, asked: dict[str, Any], adapter: Adapter | None) -> int:
        """Put the rendered prompt in the place of a chat's messages; returns how many exchanges had no room."""
        talk = _talk(asked.get("messages"))
        question = Asked(talk.question, render_talk(talk.exchanges, talk.system))
        try:
            read = await self.reader.read(adapter.role if adapter else None, question)
        except LunaError as error:
            raise refusal_of(error) from error
        # As in training: the raw prompt with the tokenizer's own beginning, no chat template.
        asked |= {"messages": [{"role": "user", "content": read.prompt}], "add_special_tokens": True}
        asked["add_generation_prompt"] = False
        left = self.reader.text.max_tokens - read.tokens
        for name in ("max_tokens", "max_completion_tokens"):
            if _number(asked, name, left) > left:  # an answer ends with the room, as everywhere
                asked[name] = left
        return read.dropped


def _talk(messages: Any) -> Talk:
    """A chat's messages, told apart. What was said is the context of the last message, which must be the user's.

    System and developer messages are the system text. What a tool said is left out, and so is an assistant's message
    without text, by which it called one: nobody said it. A last message of the assistant is refused, since no answer
    here goes on from a beginning.
    """
    if not isinstance(messages, list) or not messages:
        raise Refused(400, "messages must be a list of at least one message.")
    said = []
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise Refused(400, f"message {number} needs a role and a content.")
        if message["role"] not in _SPEAKERS:
            raise Refused(400, f"message {number} has the role {message['role']!r}; use one of {', '.join(_SPEAKERS)}.")
        text = _text(message.get("content"), message["role"])
        if _HALF.search(text):
            raise Refused(400, f"message {number} holds half a character (a lone surrogate), which is no text.")
        said.append((message["role"], text))
    talk = talk_of(said)
    if said[-1][0] != "user" or not talk.question:
        last = f"is of the {said[-1][0]}" if said[-1][0] != "user" else "is empty"
        raise Refused(400, f"the last message {last}; end messages with what the user asks.")
    return talk


def _text(content: Any, speaker: str) -> str:
    """The text of a message's content, which may come in parts; of an assistant's or a tool's there may be none."""
    if content is None and speaker not in ("user", "system", "developer"):
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content):
        return "\n".join(filter(None, (part["text"].strip() for part in content)))  # as the importer does
    raise Refused(400, "only text can be answered: content must be a string or a list of text parts.")


def refuse_when_full(leases: Leases, settings: ServingSettings) -> None:
    """At most `max_concurrent_requests` requests are in work."""
    if leases.total >= settings.max_concurrent_requests:
        raise Refused(429, f"{settings.max_concurrent_requests} requests are in work; try again.", {"retry-after": "1"})


def refusal_of(error: LunaError) -> Refused:
    """What an engine's error is to a client: its own doing, but for an engine that is not there."""
    return Refused(503 if isinstance(error, Stopped) else 400, str(error))


def resolve(table: Table, name: Any) -> Adapter | None:
    """What a request's model name means.

    Raises:
        Refused: nothing of that name is served.
    """
    if not isinstance(name, str):
        raise Refused(400, "the request needs a model; /v1/models lists what is served.")
    try:
        return table.resolve(name)
    except LunaError as error:
        raise Refused(404, str(error)) from error


def _object(payload: bytes) -> dict[str, Any]:
    try:
        body = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the request is not valid JSON: {error}.") from error
    if not isinstance(body, dict):
        raise Refused(400, "the request must be a JSON object.")
    return body


def _number(body: dict[str, Any], name: str, default: int) -> float:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):  # an engine may read "900" as a number
        raise Refused(400, f"{name} must be a number.")
    return value


def _sized(scope: Scope, length: int) -> Scope:
    kept = [(key, value) for key, value in scope["headers"] if key != b"content-length"]
    return {**scope, "headers": [*kept, (b"content-length", str(length).encode())]}


def _with_headers(send: Send, headers: dict[str, str]) -> Send:
    extra = [(key.encode(), value.encode()) for key, value in headers.items()]

    async def send_with(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *extra]}
        await send(message)

    return send_with
