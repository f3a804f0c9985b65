"""What replicas must know of the ledger. They ask the coordinator, which holds `luna.db` open.

SQLite's write-ahead log is safe among the processes of one machine only: its index is shared memory, which no network
file system carries. A replica of the engine runs wherever Ray has a card for it, so it never opens the database; of
the home it reads the base and the adapters, and writes what it serves, all of them files.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ledger.errors import LunaError
from ledger.roles import Role
from ledger.store import Ledger

_ANSWER_S = 30

Coordinator = Callable[[], Any]
"""Gives the Ray handle of the coordinator that writes the home, started if need be."""


@dataclass(frozen=True)
class Line:
    """A lineage's accepted generations."""

    lineage: str
    generations: tuple[int, ...]
    """The head and its accepted ancestors, newest first."""

    @property
    def head(self) -> int | None:
        return self.generations[0] if self.generations else None


@dataclass(frozen=True)
class Recorded:
    """A judged generation of the current lineage."""

    lineage: str
    base_sha: str
    shas: Mapping[Role, str]
    """Its adapters."""


class Accepted(Protocol):
    """Who knows what the ledger says."""

    async def line(self, lineage: str | None = None) -> Line:
        """The current lineage, or a named one."""
        ...

    async def recorded(self, gen: int) -> Recorded:
        """A generation.

        Raises:
            LunaError: it was never judged.
        """
        ...


def line_of(ledger: Ledger, lineage: str | None = None) -> Line:
    """See :class:`Accepted`."""
    name = lineage or ledger.current_lineage()
    head = ledger.head(name)
    return Line(name, () if head is None else tuple(ledger.parent_chain(head, name)))


def recorded_of(ledger: Ledger, gen: int) -> Recorded:
    """See :class:`Accepted`."""
    name = ledger.current_lineage()
    rows = ledger.generation(gen, name)
    return Recorded(name, rows[0].base_sha, {row.role: row.child_sha for row in rows})


class NoAnswer(LunaError):
    """The coordinator could not be asked."""


class RemoteCoordinator:
    """The coordinator through its Ray handle; where it was replaced its successor is found."""

    def __init__(self, find: Coordinator):
        self._find = find
        self._known: Any = None

    async def ask(self, method: str, *arguments: Any) -> Any:
        """What it answers.

        Raises:
            NoAnswer: it does not answer, or none can be started.
            LunaError: what it refuses.
        """
        from ray.exceptions import RayActorError, RayError, TaskCancelledError

        for again in (True, False):
            try:
                if self._known is None:
                    self._known = await self._found()
                return await asyncio.wait_for(getattr(self._known, method).remote(*arguments), _ANSWER_S)
            except RayActorError as error:  # It was replaced: its successor is asked once.
                self._known = None
                if not again:
                    raise NoAnswer("the coordinator does not answer.") from error
            except TaskCancelledError as error:
                # Ray cancels what a cancelled request began, and with a user who goes away even the storing of what
                # was said until then. That is asked again; storing a turn twice adds nothing.
                if not again:
                    raise NoAnswer("asking the coordinator was cancelled.") from error
            except TimeoutError as error:
                raise NoAnswer(f"the coordinator did not answer within {_ANSWER_S} s.") from error
            except RayError as error:
                cause = getattr(error, "cause", None)
                if isinstance(cause, LunaError):
                    raise cause from error
                raise NoAnswer(f"the coordinator failed: {str(error).strip().splitlines()[-1]}") from error
        raise AssertionError("the second answer is returned or raised")

    async def _found(self) -> Any:
        try:
            return await asyncio.to_thread(self._find)
        except LunaError as error:
            raise NoAnswer(str(error)) from error


class RemoteAccepted:
    """What the ledger says, by way of the coordinator."""

    def __init__(self, coordinator: Coordinator):
        self._coordinator = RemoteCoordinator(coordinator)

    async def line(self, lineage: str | None = None) -> Line:
        found: Line = await self._coordinator.ask("line", lineage)
        return found

    async def recorded(self, gen: int) -> Recorded:
        found: Recorded = await self._coordinator.ask("recorded", gen)
        return found
