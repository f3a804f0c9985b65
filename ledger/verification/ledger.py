"""Recomputing every hash and link of a home, and naming what is wrong.

The checks find accidents, crashes and edits. They do not find someone who rewrites the chain from an entry to
its end with new hashes; against that keep a copy of the newest ``row_sha`` elsewhere, for instance in version
control.
"""

from __future__ import annotations

import csv
import io
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from ledger.database import chain
from ledger.database.connection import raw_reader
from ledger.database.csv_export import HEADER, columns_of, csv_text
from ledger.database.migrations import refuse_newer, schema_version
from ledger.database.queries import parse
from ledger.errors import LunaError
from ledger.home import Home
from ledger.records import GenerationRow, HeadMove, Lineage, Record
from ledger.verification.derived import derived_problems, read_tables
from ledger.verification.files import adapter_problems, base_problems, data_problems
from ledger.verification.problems import Problem

RESTORE_DB = "restore luna.db from a copy made before the change"


@dataclass(frozen=True)
class LedgerContent:
    """What could be read of the chain; rows keep the entry they came from."""

    lineages: list[Lineage]
    rows: list[tuple[GenerationRow, chain.Entry]]
    head_moves: list[tuple[HeadMove, chain.Entry]]


def verify(home: Home) -> list[Problem]:
    """Check the chain, the tables and the CSV derived from it, and every file it names. Empty means all is well.

    Raises:
        LunaError: if ``home`` has no ledger, or one of a newer Luna.
    """
    if not home.db.is_file():
        raise LunaError(f"{home.root} is not a Luna home: {home.db.name} is missing. Make one with `luna init`.")
    try:
        with raw_reader(home.db) as connection:
            refuse_newer(schema_version(connection), str(home.db))
            # One transaction, so that a coordinator at work cannot change what is read in between.
            connection.execute("BEGIN")
            damage = [*file_problems(connection)]
            entries = list(chain.read(connection))
            highest = chain.highest_number_given(connection)
            tables = read_tables(connection)
    except sqlite3.DatabaseError as error:
        return [Problem("database cannot be read", home.db.name, "a SQLite database", str(error), RESTORE_DB)]

    content = read_content(entries)
    rows = [row for row, _ in content.rows]
    damaged = {entry.seq for entry in entries if recomputed_sha(entry) != entry.row_sha}
    broken = [*check_chain(entries, highest), *unreadable_problems(entries, damaged)]
    return [
        *damage,
        *broken,
        # What is derived from a chain that is not whole cannot be told right from wrong.
        *([] if broken else derived_problems(entries, content.rows, tables)),
        *link_problems(content),
        # Before the files, whose hashing takes long: a coordinator at work may rewrite the CSV meanwhile.
        *csv_problems(home, content.rows, damaged, columns_of(tables.csv[0]) if tables.csv else HEADER),
        *base_problems(home, content.lineages),
        *adapter_problems(home, rows),
        *data_problems(home, rows),
    ]


def file_problems(connection: sqlite3.Connection) -> Iterator[Problem]:
    """Damage that SQLite itself notices."""
    for (message,) in connection.execute("PRAGMA integrity_check(5)"):
        if message != "ok":
            yield Problem("database damaged", "luna.db", "ok", str(message), RESTORE_DB)


def recomputed_sha(entry: chain.Entry) -> str:
    """The hash that an entry's content has now."""
    try:
        return chain.entry_sha(entry)
    except (TypeError, ValueError):  # damage can turn a text into bytes, which no JSON can hold
        return "no hashable content"


def check_chain(entries: Sequence[chain.Entry], highest_number_given: int) -> list[Problem]:
    """Every hash, every link to the entry before, and no number missing."""
    problems = []
    previous_seq, previous_sha = 0, chain.GENESIS
    for entry in entries:
        found = recomputed_sha(entry)
        if found != entry.row_sha:
            problems.append(
                Problem("row changed", entry.where, f"row_sha {entry.row_sha}", f"row_sha {found}", RESTORE_DB)
            )
        if entry.seq != previous_seq + 1:
            problems.append(
                Problem("rows missing", f"before {entry.where}", f"entry {previous_seq + 1}", "none", RESTORE_DB)
            )
        elif entry.prev_sha != previous_sha:
            problems.append(
                Problem("chain broken", entry.where, f"prev_sha {previous_sha}", str(entry.prev_sha), RESTORE_DB)
            )
        previous_seq, previous_sha = entry.seq, entry.row_sha
    if highest_number_given > previous_seq:
        problems.append(
            Problem(
                "rows missing",
                "end of the chain",
                f"entries up to {highest_number_given}",
                f"entries up to {previous_seq}",
                RESTORE_DB,
            )
        )
    return problems


def read_content(entries: Iterable[chain.Entry]) -> LedgerContent:
    """The records that can be read."""
    models: dict[str, type[Record]] = {"lineage": Lineage, "generation": GenerationRow, "head": HeadMove}
    found: dict[str, list[tuple[Any, chain.Entry]]] = {kind: [] for kind in models}
    for entry in entries:
        if entry.kind in models:
            with suppress(LunaError):  # named by check_chain or unreadable_problems
                found[entry.kind].append((parse(models[entry.kind], entry), entry))
    return LedgerContent([lineage for lineage, _ in found["lineage"]], found["generation"], found["head"])


def unreadable_problems(entries: Iterable[chain.Entry], damaged: set[int]) -> Iterator[Problem]:
    """Rows whose hash is right but that no record fits: written by a bug, not changed later."""
    for entry in entries:
        if entry.kind == "generation" and entry.seq not in damaged:
            try:
                parse(GenerationRow, entry)
            except LunaError as error:
                yield Problem("row unreadable", entry.where, "a generation row", str(error), RESTORE_DB)


def link_problems(content: LedgerContent) -> Iterator[Problem]:
    """Every child names its parent's adapter, G0 the base's, and the head an accepted generation."""
    by_key = {(row.lineage, row.gen_id, row.role): row for row, _ in content.rows}
    bases = {lineage.name: lineage.base_sha for lineage in content.lineages}
    for row, entry in content.rows:
        if row.parent_gen is None:
            parent, expected = "the base", bases.get(row.lineage)
        else:
            parent_row = by_key.get((row.lineage, row.parent_gen, row.role))
            parent, expected = f"G{row.parent_gen}", parent_row.child_sha if parent_row else None
        if expected is None:
            yield Problem("parent missing", entry.where, parent, "no such row", RESTORE_DB)
        elif row.parent_sha != expected:
            yield Problem("parent link broken", entry.where, f"{parent} {expected}", row.parent_sha, RESTORE_DB)
    accepted = {(row.lineage, row.gen_id) for row, _ in content.rows if row.verdict == "accepted"}
    for move, entry in content.head_moves:
        if (entry.lineage, move.to_gen) not in accepted:
            yield Problem("head misplaced", entry.where, "an accepted generation", f"G{move.to_gen}", RESTORE_DB)


def csv_problems(
    home: Home, rows: Sequence[tuple[GenerationRow, chain.Entry]], damaged: set[int], columns: Sequence[str]
) -> Iterator[Problem]:
    """The CSV says what the chain says. Lines of damaged rows are left out: the row itself has been named.

    `columns` are those that the file must have: until a newer Luna writes the ledger, the version's that wrote it.
    """
    where = str(home.csv.relative_to(home.root))
    hint = "it is derived: delete it, and the next command that writes the ledger (`luna init` is one) writes it anew"
    try:
        text = home.csv.read_bytes().decode(errors="backslashreplace")
    except OSError:
        yield Problem("CSV missing", where, f"{len(rows)} rows", "no file", hint)
        return
    derived_text = csv_text(((row, entry.row_sha) for row, entry in rows), columns)
    derived, found = _cells(derived_text), _cells(text)
    if derived == found and text != derived_text:
        yield Problem("CSV differs", where, "the bytes derived", "other line ends or quotes", hint)
    names = ["header", *(f"G{row.gen_id} {row.role}" for row, _ in rows)]
    skipped = {number for number, (_, entry) in enumerate(rows, start=1) if entry.seq in damaged}
    for number, (right, is_) in enumerate(zip_longest(derived, found)):
        if right == is_ or number in skipped:
            continue
        name = names[number] if number < len(names) else "extra line"
        yield Problem("CSV differs", f"{where} line {number + 1} ({name})", *_difference(derived[0], right, is_), hint)


def _cells(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


def _difference(header: list[str], right: list[str] | None, found: list[str] | None) -> tuple[str, str]:
    """The first cell that differs, as expected and found."""
    if right is None or found is None or len(right) != len(found):
        return (",".join(right) if right else "no line"), (",".join(found) if found else "no line")
    column = next(i for i in range(len(right)) if right[i] != found[i])
    return f"{header[column]} {right[column]}", f"{header[column]} {found[column]}"
