"""The tables beside the chain against what the chain says: generations, the head's line, what was taken, the CSV's
length.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ledger.database import chain
from ledger.database.csv_export import columns_of, csv_lines, expected
from ledger.database.queries import parse
from ledger.records import GenerationRow
from ledger.taken import TakenNote
from ledger.verification.problems import Problem

RESTORE = "restore luna.db from a copy made before the change"

Key = tuple[int, int]
"""Number of a lineage's own entry, number of a generation."""


@dataclass
class TakenSums:
    """Count and sums of one generation's rows in `taken`, as :class:`ledger.taken.TakenNote` has them."""

    examples: int = 0
    held_out: int = 0
    id_sum: int = 0


@dataclass
class Tables:
    """What stands in the derived tables; empty for a database of a Luna that had none."""

    present: bool = False
    generations: dict[Key, tuple[int | None, int]] = field(default_factory=dict)
    """(parent, age)"""
    line: set[Key] = field(default_factory=set)
    taken: dict[Key, TakenSums] = field(default_factory=dict)
    sides: dict[int, tuple[int, int]] = field(default_factory=dict)
    """(rows, sum of 2 · key + side)"""
    csv: tuple[str, int] | None = None


def read_tables(connection: sqlite3.Connection) -> Tables:
    """Read every derived table once, inside the caller's transaction."""
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'csv_state'").fetchone() is None:
        return Tables()
    tables = Tables(present=True, csv=expected(connection))
    for lineage, gen_id, parent, age in connection.execute("SELECT lineage, gen_id, parent_gen, age FROM generations"):
        tables.generations[lineage, gen_id] = (parent, age)
    tables.line = {(lineage, gen_id) for lineage, gen_id in connection.execute("SELECT lineage, gen_id FROM line")}
    for lineage, gen_id, example, side in connection.execute(
        f"{_TAKEN} FROM taken UNION ALL {_TAKEN} FROM latest_taken"
    ):
        sums = tables.taken.setdefault((lineage, gen_id), TakenSums())
        sums.examples += 1
        sums.held_out += side
        sums.id_sum += int.from_bytes(example if isinstance(example, bytes) else str(example).encode())
    for lineage, rows, held_out, high, low in connection.execute(
        f"{_SUMS} FROM sides GROUP BY lineage UNION ALL {_SUMS} FROM latest_sides GROUP BY lineage"
    ):
        before, sum_before = tables.sides.get(lineage, (0, 0))
        tables.sides[lineage] = (before + rows, sum_before + 2 * ((high << 32) + low) + held_out)
    return tables


_TAKEN = "SELECT lineage, gen_id, example, side"
_SUMS = "SELECT lineage, count(*), sum(side), sum(key >> 32), sum(key & 4294967295)"
"""By halves, since SQLite's own sum may not go beyond 64 bits."""


def derived_problems(
    entries: Sequence[chain.Entry], rows: Sequence[tuple[GenerationRow, chain.Entry]], tables: Tables
) -> Iterator[Problem]:
    """Every table holds what a chain that is whole says; `rows` are those of its entries that have a generation."""
    if not tables.present:
        return
    numbers = {entry.lineage: entry.seq for entry in entries if entry.kind == "lineage"}
    names = {number: name for name, number in numbers.items()}
    parents = {(numbers.get(row.lineage, 0), row.gen_id): row.parent_gen for row, _ in rows}
    heads = {numbers.get(entry.lineage, 0): entry.gen_id for entry in entries if entry.kind == "head"}
    notes = [entry for entry in entries if entry.kind == "taken"]
    yield from _compared("generation", names, _with_ages(parents), tables.generations)
    line = {(number, gen_id) for number, head in heads.items() for gen_id in _ancestry(parents, number, head)}
    yield from _compared("line", names, dict.fromkeys(line, "in it"), dict.fromkeys(tables.line, "in it"))
    yield from _taken_problems(notes, numbers, names, tables)
    if tables.csv is None:
        return
    columns = columns_of(tables.csv[0])
    bytes_ = sum(len(line.encode()) for line in csv_lines(((row, entry.row_sha) for row, entry in rows), columns))
    if tables.csv[1] != bytes_:
        hint = "the next command that writes the ledger corrects it"
        yield Problem("length of the CSV wrong", "csv_state", f"{bytes_} bytes", f"{tables.csv[1]} bytes", hint)


def _with_ages(parents: Mapping[Key, int | None]) -> dict[Key, tuple[int | None, int]]:
    found: dict[Key, tuple[int | None, int]] = {}
    for (lineage, gen_id), parent in sorted(parents.items()):
        age = 0 if parent is None else found.get((lineage, parent), (None, -1))[1] + 1
        found[lineage, gen_id] = (parent, age)
    return found


def _ancestry(parents: Mapping[Key, int | None], lineage: int, head: int | None) -> Iterator[int]:
    while head is not None:
        yield head
        head = parents.get((lineage, head))


def _taken_problems(
    notes: Iterable[chain.Entry], numbers: Mapping[str, int], names: Mapping[int, str], tables: Tables
) -> Iterator[Problem]:
    taken: dict[Key, str] = {}
    sides: dict[int, tuple[int, int]] = {}
    for entry in notes:
        note, number = parse(TakenNote, entry), numbers.get(entry.lineage, 0)
        if note.examples:
            taken[number, entry.gen_id or 0] = _sums(note.examples, note.held_out, int(note.id_sum, 16))
        if note.keys:
            rows, total = sides.get(number, (0, 0))
            sides[number] = (rows + note.keys, total + int(note.key_sum, 16))
    found = {key: _sums(sums.examples, sums.held_out, sums.id_sum) for key, sums in tables.taken.items()}
    yield from _compared("taken", names, taken, found)
    for number in sorted(sides.keys() | tables.sides.keys()):
        right, is_ = (
            f"{rows} keys with the sum {total % (1 << 64):016x}"
            for rows, total in (sides.get(number, (0, 0)), tables.sides.get(number, (0, 0)))
        )
        if right != is_:
            where = f"sides of {names.get(number, number)}"
            yield Problem("sides differ from the chain", where, right, is_, RESTORE)


def _sums(examples: int, held_out: int, id_sum: int) -> str:
    return f"{examples} examples, {held_out} held out, with the sum {id_sum % (1 << 128):032x}"


def _in_order(key: Key) -> tuple[object, ...]:
    """Numbers first: a damaged table may hold anything."""
    return tuple((0, part, "") if isinstance(part, int) else (1, 0, str(part)) for part in key)


def _compared(
    table: str, names: Mapping[int, str], right: Mapping[Key, object], found: Mapping[Key, object]
) -> Iterator[Problem]:
    for key in sorted(right.keys() | found.keys(), key=_in_order):
        is_, should = found.get(key, "nothing"), right.get(key, "nothing")
        if is_ != should:
            where = f"{table} {names.get(key[0], key[0])} G{key[1]}"
            yield Problem(f"{table} differs from the chain", where, str(should), str(is_), RESTORE)
