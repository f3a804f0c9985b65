"""The derived tables of generations and of the head's line, inside a transaction that the caller holds.

`lineage` is the number of the lineage's own entry in the chain.
"""

from __future__ import annotations

import sqlite3

from ledger.errors import LunaError


def add_generation(connection: sqlite3.Connection, lineage: int, gen_id: int, parent_gen: int | None) -> None:
    """Note a judged generation with its parent."""
    age = 0 if parent_gen is None else age_of(connection, lineage, parent_gen) + 1
    connection.execute(
        "INSERT INTO generations (lineage, gen_id, parent_gen, age) VALUES (?, ?, ?, ?)",
        (lineage, gen_id, parent_gen, age),
    )


def newest(connection: sqlite3.Connection, lineage: int) -> int | None:
    """The highest number that was judged."""
    (gen_id,) = connection.execute("SELECT max(gen_id) FROM generations WHERE lineage = ?", (lineage,)).fetchone()
    return None if gen_id is None else int(gen_id)


def compared_with(connection: sqlite3.Connection, lineage: int, gen_id: int, parent_gen: int) -> list[int | None]:
    """A new generation's parent, that one's parent, and what was tried from the former last."""
    return [
        *connection.execute(
            "SELECT max(gen_id) FROM generations WHERE lineage = ? AND parent_gen = ? AND gen_id < ?",
            (lineage, parent_gen, gen_id),
        ).fetchone(),
        *connection.execute(
            "SELECT gen_id, parent_gen FROM generations WHERE lineage = ? AND gen_id = ?", (lineage, parent_gen)
        ).fetchone(),
    ]


def age_of(connection: sqlite3.Connection, lineage: int, gen_id: int) -> int:
    """Number of a judged generation's ancestors."""
    found = connection.execute(
        "SELECT age FROM generations WHERE lineage = ? AND gen_id = ?", (lineage, gen_id)
    ).fetchone()
    if found is None or not isinstance(found[0], int):
        raise LunaError(f"the ledger has no age of G{gen_id}: see what `luna ledger verify` names, and restore a copy.")
    return int(found[0])


def ancestry(connection: sqlite3.Connection, lineage: int, gen_id: int) -> list[int]:
    """A judged generation and its ancestors, newest first."""
    rows = connection.execute(
        "WITH RECURSIVE walk (gen_id) AS (SELECT ? UNION SELECT parent_gen FROM walk JOIN generations "
        "ON generations.lineage = ? AND generations.gen_id = walk.gen_id WHERE parent_gen IS NOT NULL) "
        "SELECT gen_id FROM walk ORDER BY gen_id DESC",
        (gen_id, lineage),
    )
    return [found for (found,) in rows]


def head(connection: sqlite3.Connection, lineage: int) -> int | None:
    """The newest generation of the line, ``None`` before the first accepted one."""
    (gen_id,) = connection.execute("SELECT max(gen_id) FROM line WHERE lineage = ?", (lineage,)).fetchone()
    return None if gen_id is None else int(gen_id)


def is_in_line(connection: sqlite3.Connection, lineage: int, gen_id: int) -> bool:
    """Whether a generation is the head or one of its ancestors."""
    found = connection.execute("SELECT 1 FROM line WHERE lineage = ? AND gen_id = ?", (lineage, gen_id)).fetchone()
    return found is not None


def move_line(connection: sqlite3.Connection, lineage: int, to_gen: int) -> None:
    """Make a judged generation the head: its ancestors are looked up until one is met that is in the line."""
    added, met = [], to_gen
    while not is_in_line(connection, lineage, met):
        added.append((lineage, met))
        (parent,) = connection.execute(
            "SELECT parent_gen FROM generations WHERE lineage = ? AND gen_id = ?", (lineage, met)
        ).fetchone()
        if parent is None:
            met = -1  # below every number: nothing of the old line is kept
            break
        met = parent
    connection.execute("DELETE FROM line WHERE lineage = ? AND gen_id > ?", (lineage, met))
    connection.executemany("INSERT INTO line (lineage, gen_id) VALUES (?, ?)", reversed(added))
