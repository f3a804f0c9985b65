"""Log records that say which generation and role they are about.

Every module logs with ``logging.getLogger(__name__)``. The terminal, a run's log and `luna status` are handlers that
:func:`listening` puts on the loggers of Luna's packages.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

from ledger.roles import Role

PACKAGES = ("cluster", "curriculum", "jobs", "ledger", "serving", "trainers")


@dataclass(frozen=True)
class LogContext:
    """What the work of the present thread is about."""

    generation: int | None = None
    role: Role | None = None


_NOTHING = LogContext()
_context: ContextVar[LogContext] = ContextVar("luna_log_context", default=_NOTHING)


@contextmanager
def log_context(generation: int | None = None, role: Role | None = None) -> Iterator[None]:
    """Mark all records of this thread, until the end of the block; what is not named stays as it was."""
    named = {name: value for name, value in (("generation", generation), ("role", role)) if value is not None}
    token = _context.set(replace(_context.get(), **named))  # type: ignore[arg-type]
    try:
        yield
    finally:
        _context.reset(token)


class LineHandler(logging.Handler):
    """Hands the message of each record to a function, with ``record.generation`` and ``record.role`` set."""

    def __init__(self, tell: Callable[[logging.LogRecord], None], level: int = logging.INFO):
        super().__init__(level)
        self.tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        """Tell one record; a failure is reported as logging reports its own, and does not stop the work."""
        about = _context.get()
        # A record that came from another process says already what it is about.
        record.generation = getattr(record, "generation", about.generation)
        record.role = getattr(record, "role", about.role)
        try:
            self.tell(record)
        except Exception:  # what logging itself asks of every handler
            self.handleError(record)


@contextmanager
def listening(handler: logging.Handler) -> Iterator[None]:
    """Let a handler hear what Luna's packages log, at INFO and above, until the end of the block."""
    with ExitStack() as undo:
        for name in PACKAGES:
            logger = logging.getLogger(name)
            undo.callback(logger.setLevel, logger.level)
            undo.callback(logger.removeHandler, handler)
            logger.setLevel(min(logger.level, logging.INFO) if logger.level else logging.INFO)
            logger.addHandler(handler)
        yield
