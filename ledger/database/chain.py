"""The hash chain: every entry carries the hash of the one before it, so no old entry can change unseen."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from ledger.files import sha256_json

GENESIS = "0" * 64
"""``prev_sha`` of the first entry."""

COLUMNS = "seq, kind, lineage, gen_id, role, body, prev_sha, row_sha"


@dataclass(frozen=True)
class Entry:
    """One line of the chain. ``body`` is the record's JSON, hashed as the text it is stored as."""

    seq: int
    kind: str
    lineage: str
    gen_id: int | None
    role: str | None
    body: str
    prev_sha: str
    row_sha: str

    @property
    def where(self) -> str:
        """The entry's name in a message."""
        generation = f" G{self.gen_id}" if self.gen_id is not None else ""
        role = f" {self.role}" if self.role else ""
        return f"entry {self.seq} ({self.kind} {self.lineage}{generation}{role})"


def entry_sha(entry: Entry) -> str:
    """SHA-256 over the canonical JSON of every column but ``row_sha`` itself."""
    return sha256_json({name: value for name, value in vars(entry).items() if name != "row_sha"})


def append(
    connection: sqlite3.Connection,
    kind: str,
    lineage: str,
    body: str,
    *,
    gen_id: int | None = None,
    role: str | None = None,
) -> Entry:
    """Add an entry at the end. The caller holds the transaction."""
    last = connection.execute("SELECT seq, row_sha FROM entries ORDER BY seq DESC LIMIT 1").fetchone()
    seq, prev_sha = (last[0] + 1, last[1]) if last else (1, GENESIS)
    unsigned = Entry(seq, kind, lineage, gen_id, role, body, prev_sha, "")
    entry = Entry(seq, kind, lineage, gen_id, role, body, prev_sha, entry_sha(unsigned))
    connection.execute(
        f"INSERT INTO entries ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        tuple(vars(entry).values()),
    )
    return entry


def read(
    connection: sqlite3.Connection,
    kind: str | None = None,
    lineage: str | None = None,
    gen_id: int | None = None,
    *,
    newest_first: bool = False,
) -> Iterator[Entry]:
    """Entries in order, all of them or those that match what is given."""
    wanted = {"kind": kind, "lineage": lineage, "gen_id": gen_id}
    conditions = [f"{column} = :{column}" for column, value in wanted.items() if value is not None]
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    for row in connection.execute(
        f"SELECT {COLUMNS} FROM entries {where} ORDER BY seq{' DESC' * newest_first}", wanted
    ):
        yield Entry(*row)


def newest(connection: sqlite3.Connection, kind: str, lineage: str) -> Entry | None:
    """The entry of the highest generation number among those of one kind in a lineage."""
    row = connection.execute(
        f"SELECT {COLUMNS} FROM entries WHERE kind = ? AND lineage = ? ORDER BY gen_id DESC LIMIT 1", (kind, lineage)
    ).fetchone()
    return Entry(*row) if row else None


def last(connection: sqlite3.Connection, kind: str) -> Entry | None:
    """The entry of one kind that was added last."""
    row = connection.execute(
        f"SELECT {COLUMNS} FROM entries WHERE kind = ? ORDER BY seq DESC LIMIT 1", (kind,)
    ).fetchone()
    return Entry(*row) if row else None


def highest_number_given(connection: sqlite3.Connection) -> int:
    """The highest ``seq`` ever written, even if that entry was deleted."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'entries'").fetchone()
    return int(row[0]) if row else 0
