"""``lineage_ledger.csv``: one row per role and generation, derived from the chain and never read back.

A judgement adds its lines to the end, so that it costs the same however long the file is. The database says how many
bytes the file must have; one that is shorter by whole lines is continued, anything else is written anew. Not noticed
here is an edit inside the file that keeps its length: `luna ledger verify` compares every line.
"""

from __future__ import annotations

import csv
import io
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ledger.database import chain
from ledger.database.queries import parse
from ledger.files import append_synced, write_atomic
from ledger.records import GenerationRow

FIELDS: tuple[str, ...] = tuple(GenerationRow.model_fields)
HEADER: tuple[str, ...] = ("GEN_ID", *FIELDS[1:], "row_sha")
"""The columns of DESIGN section 4 in their order and spelling, then Luna's own, ``row_sha`` last."""


def columns_of(header: str) -> tuple[str, ...]:
    """The columns of a file with this header, if it is this or an earlier version's, which had fewer; else today's."""
    names = tuple(str(header).strip().split(","))
    is_ours = len(names) > HEADER.index("run_id") and names == (*HEADER[: len(names) - 1], HEADER[-1])
    return names if is_ours else HEADER


def csv_lines(rows: Iterable[tuple[GenerationRow, str]], columns: Sequence[str] = HEADER) -> Iterator[str]:
    """The file line by line, header first, for rows and their ``row_sha`` in the order given.

    Floats are written so that reading them gives the same float back; what was not measured is empty.
    """
    yield _line(columns)
    fields = FIELDS[: len(columns) - 1]
    for row, row_sha in rows:
        yield _line([*(_cell(getattr(row, field)) for field in fields), row_sha])


def csv_text(rows: Iterable[tuple[GenerationRow, str]], columns: Sequence[str] = HEADER) -> str:
    """The whole file."""
    return "".join(csv_lines(rows, columns))


def expected(connection: sqlite3.Connection) -> tuple[str, int] | None:
    """(header, bytes) that the database says the file has; None: nothing is known, it is to be written anew."""
    found = connection.execute("SELECT header, bytes FROM csv_state").fetchone()
    return None if found is None else (found[0], found[1])


def expect_rows(connection: sqlite3.Connection, rows: Iterable[tuple[GenerationRow, str]]) -> None:
    """Note, in the transaction that appends these rows to the chain, that the file grows by their lines."""
    _, *lines = csv_lines(rows)
    grown = sum(len(line.encode()) for line in lines)
    connection.execute("UPDATE csv_state SET bytes = bytes + ?", (grown,))


def continue_csv(connection: sqlite3.Connection, path: Path) -> bool:
    """Add the lines that the file lacks at its end; False where it must be written anew.

    Raises:
        LunaError: if the disk refuses.
    """
    state, size = expected(connection), path.stat().st_size if path.is_file() else 0
    if state is None or state[0] != _line(HEADER) or not size:
        return False
    lines, lacking, held = list[bytes](), state[1] - size, state[0].encode()
    for entry in chain.read(connection, "generation", newest_first=True):
        _, line = (text.encode() for text in csv_lines([(parse(GenerationRow, entry), entry.row_sha)]))
        if lacking == 0:
            held = line
            break
        if lacking < len(line):
            return False
        lines.append(line)
        lacking -= len(line)
    if lacking or not _ends_with(path, size, held):
        return False
    if lines:
        append_synced(path, b"".join(reversed(lines)), size)
    return True


def rewrite_csv(connection: sqlite3.Connection, path: Path) -> None:
    """Write the file anew and note its length, inside a writing transaction.

    Raises:
        LunaError: if the disk refuses; the old file is untouched.
    """
    length = 0

    def counted() -> Iterator[bytes]:
        nonlocal length
        entries = chain.read(connection, "generation")
        for line in csv_lines((parse(GenerationRow, entry), entry.row_sha) for entry in entries):
            length += len(line.encode())
            yield line.encode()

    write_atomic(path, counted())
    connection.execute("INSERT OR REPLACE INTO csv_state (id, header, bytes) VALUES (1, ?, ?)", (_line(HEADER), length))


def _ends_with(path: Path, size: int, line: bytes) -> bool:
    if size < len(line):
        return False
    with path.open("rb") as file:
        file.seek(size - len(line))
        return file.read(len(line)) == line


def _line(cells: Iterable[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _cell(value: object) -> str:
    if value is None:
        return ""
    return repr(value) if isinstance(value, float) else str(value)
