"""What generations took: examples by id, and the side of the split on which their keys stand for good.

Both are tables beside the chain, so that a look-up costs the same however long the ledger is; the chain holds their
counts and sums (:class:`TakenNote`), so that a row removed, added or changed is found. The functions work inside a
transaction that the caller holds. `lineage` is the number of the lineage's own entry in the chain.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, TypeVar, get_args

from pydantic import Field

from ledger.errors import LunaError
from ledger.records import Record

Side = Literal["train", "holdout"]
SIDES: tuple[Side, ...] = get_args(Side)
"""Stored as their place in this tuple."""

ID_BYTES = 16
"""Leading bytes of an example's SHA-256 that are stored: ten million would have to grow to 10^18 before two agreed."""

MOST_WAITING = 20_000
"""Latest keys from which on these, and the latest examples, go into the large tables."""

_ASKED_AT_ONCE = 5_000
"""Values in one statement, well under SQLite's limit of 32,766."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class Taken:
    """One example of a generation's delta or holdout, or a preference pair."""

    example_id: str
    """Hex SHA-256; empty for a pair, which is never taken but has a side."""
    side: Side
    keys: tuple[int, ...]
    """64-bit numbers that say what it is alike: its group, its question, its near copies."""


class TakenNote(Record):
    """What the chain says of the rows that one generation put into the tables."""

    examples: int = Field(ge=0)
    held_out: int = Field(ge=0)
    """How many of them stand on the holdout's side."""
    id_sum: str = Field(pattern=r"^[0-9a-f]{32}$")
    """Sum of the stored ids modulo 2^128: it does not depend on an order."""
    keys: int = Field(ge=0)
    """Pairs of key and side."""
    key_sum: str = Field(pattern=r"^[0-9a-f]{16}$")
    """Sum over them of 2 · key + side, modulo 2^64."""


def insert_taken(connection: sqlite3.Connection, lineage: int, gen_id: int, taken: Sequence[Taken]) -> TakenNote:
    """Store what a generation took, and return what the chain shall say of it."""
    sides = _example_sides(taken)
    _make_room(connection)
    connection.executemany(
        "INSERT INTO latest_taken (lineage, example, gen_id, side) VALUES (?, ?, ?, ?)",
        [(lineage, example, gen_id, side) for example, side in sorted(sides.items())],
    )
    keys = sorted({(key, SIDES.index(item.side)) for item in taken for key in item.keys})
    connection.executemany(
        "INSERT INTO latest_sides (lineage, key, side, gen_id) VALUES (?, ?, ?, ?)",
        [(lineage, key, side, gen_id) for key, side in keys],
    )
    return TakenNote(**examples_of_note(sides.items()), keys=len(keys), key_sum=key_sum(keys))


def note_examples(taken: Sequence[Taken]) -> dict[str, int | str]:
    """The part of a note that depends on the examples alone."""
    return examples_of_note(_example_sides(taken).items())


def examples_of_note(sides: Iterable[tuple[bytes, int]]) -> dict[str, int | str]:
    """The same, of rows as they are stored."""
    count, held_out, total = 0, 0, 0
    for example, side in sides:
        count, held_out, total = count + 1, held_out + side, total + int.from_bytes(example)
    return {"examples": count, "held_out": held_out, "id_sum": f"{total % (1 << 128):032x}"}


def key_sum(rows: Iterable[tuple[int, int]]) -> str:
    """Sum of 2 · key + side over rows, modulo 2^64."""
    return f"{sum(2 * key + side for key, side in rows) % (1 << 64):016x}"


def taken_among(connection: sqlite3.Connection, lineage: int, ids: Collection[str]) -> set[str]:
    """Those of the examples that a generation of the head's line took."""
    asked = {_stored(example_id): example_id for example_id in ids}
    found: set[str] = set()
    for some, table in product(_batches(sorted(asked)), ("taken", "latest_taken")):
        rows = connection.execute(
            f"SELECT example FROM {table} JOIN line ON line.lineage = {table}.lineage "
            f"AND line.gen_id = {table}.gen_id WHERE {table}.lineage = ? AND example IN ({_marks(some)})",
            (lineage, *some),
        )
        found |= {asked[example] for (example,) in rows}
    return found


def sides_of(connection: sqlite3.Connection, lineage: int, keys: Collection[int]) -> dict[int, frozenset[Side]]:
    """Where keys stand already, those that do."""
    found: dict[int, frozenset[Side]] = {}
    asked = json.dumps(sorted(keys))
    for table in ("sides", "latest_sides"):
        # One row a key and side, however many generations put it there.
        for key, side in connection.execute(
            "SELECT asked.value, which.side FROM json_each(?) AS asked "
            "CROSS JOIN (SELECT 0 AS side UNION ALL SELECT 1) AS which WHERE EXISTS ("
            f"SELECT 1 FROM {table} WHERE lineage = ? AND key = asked.value AND side = which.side)",
            (asked, lineage),
        ):
            found[key] = found.get(key, frozenset()) | {SIDES[side]}
    return found


def _make_room(connection: sqlite3.Connection) -> None:
    """Put the latest rows where the others are, once there are many."""
    (waiting,) = connection.execute("SELECT count(*) FROM latest_sides").fetchone()
    if waiting >= MOST_WAITING:
        for table in ("taken", "sides"):
            connection.execute(f"INSERT INTO {table} SELECT * FROM latest_{table}")
            connection.execute(f"DELETE FROM latest_{table}")


def _example_sides(taken: Iterable[Taken]) -> dict[bytes, int]:
    sides: dict[bytes, int] = {}
    for item in taken:
        if not item.example_id:
            continue
        side = SIDES.index(item.side)
        if sides.setdefault(_stored(item.example_id), side) != side:
            raise LunaError(
                f"example {item.example_id[:12]} would be trained on and held out by one generation; "
                "it must stand on one side."
            )
    return sides


def _stored(example_id: str) -> bytes:
    return bytes.fromhex(example_id)[:ID_BYTES]


def _batches(values: Sequence[Value]) -> Iterator[Sequence[Value]]:
    for begin in range(0, len(values), _ASKED_AT_ONCE):
        yield values[begin : begin + _ASKED_AT_ONCE]


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))
