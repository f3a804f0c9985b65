"""Reading records out of the chain, inside a transaction that the caller holds."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from typing import TypeVar

from pydantic import ValidationError

from ledger.database import chain
from ledger.errors import LunaError
from ledger.files import canonical_json
from ledger.records import GenerationRow, Lineage, Record

AnyRecord = TypeVar("AnyRecord", bound=Record)


def append_record(
    connection: sqlite3.Connection,
    kind: str,
    lineage: str,
    record: Record,
    gen_id: int | None = None,
    role: str | None = None,
) -> chain.Entry:
    """Add a record to the chain."""
    body = canonical_json(record.model_dump(mode="json"))
    return chain.append(connection, kind, lineage, body, gen_id=gen_id, role=role)


def parse(model: type[AnyRecord], entry: chain.Entry) -> AnyRecord:
    """The record inside an entry.

    Raises:
        LunaError: if it cannot be read, which only damage causes.
    """
    try:
        return model.model_validate_json(entry.body)
    except ValidationError as error:
        raise LunaError(
            f"{entry.where} of the ledger cannot be read: {error.errors()[0]['msg']}. "
            "See what `luna ledger verify` names, and restore a copy of luna.db."
        ) from error


def records(
    connection: sqlite3.Connection,
    model: type[AnyRecord],
    kind: str,
    lineage: str,
    gen_id: int | None = None,
) -> list[AnyRecord]:
    """All records of one kind in a lineage, oldest first."""
    return [parse(model, entry) for entry in chain.read(connection, kind, lineage, gen_id)]


def generations(
    connection: sqlite3.Connection, lineage: str, wanted: Iterable[int | None]
) -> dict[int, list[GenerationRow]]:
    """The rows of those of the generations that were judged, by number."""
    found: dict[int, list[GenerationRow]] = {}
    for gen_id in sorted({number for number in wanted if number is not None}):
        if rows := records(connection, GenerationRow, "generation", lineage, gen_id):
            found[gen_id] = rows
    return found


def find_lineage(connection: sqlite3.Connection, name: str) -> Lineage | None:
    """The lineage of this name, if there is one."""
    found = records(connection, Lineage, "lineage", name)
    return found[0] if found else None


def known_lineage(connection: sqlite3.Connection, name: str) -> Lineage:
    """The lineage of this name.

    Raises:
        LunaError: listing the names there are, if there is none.
    """
    found = find_lineage(connection, name)
    if found is None:
        names = ", ".join(entry.lineage for entry in chain.read(connection, "lineage")) or "none yet"
        raise LunaError(f"there is no lineage {name!r}; there is: {names}.")
    return found


def lineage_number(connection: sqlite3.Connection, name: str) -> int:
    """The number under which a known lineage stands in the derived tables: that of its own entry."""
    (number,) = connection.execute("SELECT seq FROM entries WHERE lineage = ? AND kind = 'lineage'", (name,)).fetchone()
    return int(number)


def current_lineage(connection: sqlite3.Connection) -> str:
    """Name of the lineage made current last.

    Raises:
        LunaError: if the home has no lineage yet.
    """
    chosen = chain.last(connection, "current")
    if chosen is None:
        raise LunaError("this home has no lineage yet; `luna init` begins one.")
    return chosen.lineage


def make_current(connection: sqlite3.Connection, name: str) -> None:
    """Make a lineage the current one, unless it is."""
    chosen = chain.last(connection, "current")
    if chosen is None or chosen.lineage != name:
        chain.append(connection, "current", name, json.dumps({}))
