"""Opening ``luna.db``: one writer at a time, readers at any time."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from ledger.database.migrations import NEWEST, migrate, refuse_newer, schema_version
from ledger.errors import LunaError
from ledger.home import Home

BUSY_TIMEOUT_S = 30.0
"""How long a statement waits for another connection before it gives up."""

CACHE_KIB = 32 * 1024
"""Room for the inner pages of the largest table; SQLite's own 2 MiB would have them read again at every look-up."""

_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_DAMAGED_TOLD = ("Could not decode", "unsupported file format")
"""Of Python's own and of SQLite's errors that have no code for it."""
_HELD = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_REFUSED = {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOLFS,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
}


class Database:
    """A connection to a home's database that several threads may share: one lock, one statement at a time."""

    def __init__(self, home: Home, connection: sqlite3.Connection, lock_descriptor: int | None) -> None:
        self.home = home
        self._connection = connection
        self._lock_descriptor = lock_descriptor
        self._mutex = threading.RLock()

    @property
    def is_writer(self) -> bool:
        return self._lock_descriptor is not None

    @classmethod
    def create(cls, home: Home) -> Self:
        """Open as the writer, making the folders and the database where they are missing.

        Raises:
            LunaError: if another process is the writer, or the disk refuses.
        """
        home.create()
        descriptor = acquire_writer_lock(home.lock)
        try:
            with explain_database_errors(home.db):
                connection = connect(home.db, read_only=False)
                migrate(connection, str(home.db))
        except BaseException:
            os.close(descriptor)
            raise
        return cls(home, connection, descriptor)

    @classmethod
    def open(cls, home: Home, writer: bool = False) -> Self:
        """Open an existing home, as its only writer or as one of many readers.

        Raises:
            LunaError: if this is no Luna home, another process is the writer, or the schema is newer (for a
                reader: not the same).
        """
        if not home.db.is_file():
            raise LunaError(
                f"{home.root} is not a Luna home: {home.db.name} is missing. "
                "Make one with `luna init`, or name another with --home or LUNA_HOME."
            )
        if writer:
            return cls.create(home)
        with explain_database_errors(home.db):
            connection = connect(home.db, read_only=True)
            version = schema_version(connection)
        refuse_newer(version, str(home.db))
        if version < NEWEST:
            raise LunaError(
                f"{home.db} has schema version {version}, older than {NEWEST}. "
                "Run a command that writes (for instance `luna init`) once to bring it up to date."
            )
        return cls(home, connection, None)

    def close(self) -> None:
        """Close the connection and give the writer's lock back. Safe to call twice."""
        with self._mutex:
            self._connection.close()
            if self._lock_descriptor is not None:
                os.close(self._lock_descriptor)
                self._lock_descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """One consistent view over several statements."""
        with self._mutex, explain_database_errors(self.home.db), _explain_odd_rows():
            if self._connection.in_transaction:  # inside writing, in the same thread
                yield self._connection
                return
            self._connection.execute("BEGIN")
            try:
                yield self._connection
            finally:
                self._connection.execute("ROLLBACK")

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: everything inside happens, or nothing does."""
        if not self.is_writer:
            raise LunaError(
                f"{self.home.db} was opened for reading; only the coordinator writes the ledger. "
                "Submit the change as a job instead."
            )
        with self._mutex, explain_database_errors(self.home.db):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                # A full disk makes SQLite roll back by itself.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


def connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    """A connection in autocommit mode, so that transactions begin and end only where the code says so."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}",
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.row_factory = sqlite3.Row
    try:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        if not read_only:
            connection.execute("PRAGMA journal_mode = WAL")
            # WAL's default would lose the last commits at a power cut; a judgement must never be lost.
            connection.execute("PRAGMA synchronous = FULL")
    except BaseException:
        connection.close()
        raise
    return connection


def acquire_writer_lock(path: Path) -> int:
    """Take the writer's lock and return its descriptor.

    The system frees the lock when the process ends, however it ends.

    Raises:
        LunaError: naming the process that holds it, or the disk refuses.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise LunaError(f"could not open the lock {path}: {error.strerror}. Fix the folder's permissions.") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(descriptor, 200).decode(errors="replace").strip() or "an unknown process"
        os.close(descriptor)
        raise LunaError(
            f"the ledger in {path.parent} is being written by {holder}. Submit your job to the running "
            "coordinator (`luna status` shows it), or stop that process and try again."
        ) from error
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    except OSError as error:
        os.close(descriptor)
        raise LunaError(
            f"could not write the lock {path}: {error.strerror}. Free some space, then try again."
        ) from error
    return descriptor


@contextmanager
def explain_database_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into sentences that say what to do.

    Raises:
        LunaError: when the disk refuses, the file is damaged, or another connection blocks too long.
    """
    try:
        yield
    except sqlite3.DatabaseError as error:
        advice = _advice(error)
        if advice is None:
            raise  # a bug, or a case that the caller explains
        raise LunaError(f"{path}: {error}. {advice}") from error


@contextmanager
def _explain_odd_rows() -> Iterator[None]:
    try:
        yield
    except (ValidationError, json.JSONDecodeError, RecursionError) as error:
        raise damaged_row(error) from error


def damaged_row(error: Exception) -> LunaError:
    """The error for a row that does not hold what Luna writes."""
    told = str(error)
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        told = f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}"
    return LunaError(
        f"a row of luna.db holds what Luna never writes ({told}). The file is damaged: see what `luna ledger verify` "
        "names, and restore a copy."
    )


def _advice(error: sqlite3.DatabaseError) -> str | None:
    """What to do about an error that is not of our own making; None for the others, such as a wrong column."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary code of an extended one
    if code in _DAMAGED or str(error).startswith(_DAMAGED_TOLD):
        return "The file is damaged: see what `luna ledger verify` names, and restore a copy."
    if code in _HELD:
        return "Another process holds it; wait for it or stop it, then try again."
    if code in _REFUSED:
        return "Nothing was changed; free some space or fix the permissions, then try again."
    return None


@contextmanager
def raw_reader(path: Path) -> Iterator[sqlite3.Connection]:
    """A read-only connection that never fails on damaged text; damaged bytes show as ``\\x..`` escapes."""
    with closing(connect(path, read_only=True)) as connection:
        connection.text_factory = lambda raw: raw.decode(errors="backslashreplace")
        yield connection
