"""Server-sent events over HTTP."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class Events(StreamingResponse):
    """Events whose source is closed with the response, however that ends.

    Starlette leaves what it did not read to its end to the garbage collector: the work for a client who is gone would
    go on until then.

    Args:
        events: the events as text.
        source: what they are made of. It is closed too: closing a generator that was never begun closes nothing else.
    """

    def __init__(
        self,
        events: AsyncGenerator[str, None],
        source: AsyncGenerator[Any, None],
        headers: Mapping[str, str] | None = None,
    ):
        own = {"cache-control": "no-store", **(headers or {})}
        super().__init__(events, media_type="text/event-stream", headers=own)
        self._events, self._source = events, source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._source), aclosing(self._events):
            await super().__call__(scope, receive, send)
