"""Work that waits for others, several pieces at a time."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


async def in_parallel(
    items: Iterable[Item], work: Callable[[Item], Awaitable[Result]], at_once: int
) -> AsyncGenerator[tuple[Item, Result], None]:
    """Each item with its result, as they are done. The first error is raised here; what is still going is cancelled."""
    waiting = iter(items)
    going = {asyncio.ensure_future(work(item)): item for item in islice(waiting, at_once)}
    try:
        while going:
            done, _ = await asyncio.wait(going, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                item, result = going.pop(task), task.result()
                going |= {asyncio.ensure_future(work(following)): following for following in islice(waiting, 1)}
                yield item, result
    finally:
        for task in going:
            task.cancel()
        await asyncio.gather(*going, return_exceptions=True)


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM, which `ray job stop` sends, end a command as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
