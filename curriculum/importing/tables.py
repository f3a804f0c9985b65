"""Rows of CSV, TSV and Parquet files as records."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO, TextIO

from curriculum.importing.encoding import NOT_UTF8, has_bytes
from curriculum.importing.json_values import Numbered
from ledger.errors import LunaError

_MOST_CELL = 64 << 20
_DELIMITERS = ",;\t|"
_NUMBERS = ("weight", "margin")
_BATCH = 1024
_MOST_UNCLOSED = 20


def csv_records(text: TextIO, suffix: str) -> Iterator[Numbered]:
    """The rows below the header, with the lines on which they begin; empty cells are left out."""
    csv.field_size_limit(_MOST_CELL)
    lines = _Lines(text)
    header_line = next((line for line in lines if line.strip()), "").removeprefix("\ufeff")
    if not header_line:
        return
    delimiter = "\t" if suffix == ".tsv" else max(_DELIMITERS, key=header_line.count)
    try:
        header = [name.strip() for name in next(csv.reader([header_line], delimiter=delimiter), [])]
    except csv.Error as error:
        raise LunaError(f"its first line is no header of a table: {error}") from error
    lines.begin_row()
    unclosed = 0
    while True:
        quoted = unclosed < _MOST_UNCLOSED
        try:
            for row in csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE):
                if lines.ended:  # in the middle of a row: in a quote
                    break
                begin = lines.begin_row()
                if row:
                    yield begin, _record(header, row)
            else:
                return
        except csv.Error as error:
            yield lines.begin_row(), LunaError(f"no row of a table: {error}")
            continue
        unclosed += 1
        yield lines.go_back(), LunaError("a quote that begins in this row is never closed")


class _Lines:
    """The lines of a text, of which those since a row's beginning can be read again but for the first."""

    def __init__(self, text: TextIO) -> None:
        self._text: Iterator[str] = iter(text)
        self._number = 0
        self._row: list[str] = []
        self.ended = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            line = next(self._text)
        except StopIteration:
            self.ended = True
            raise
        self._number += 1
        self._row.append(line)
        return line

    def begin_row(self) -> int:
        """Begin a row with the next line; returns where the one before it began."""
        begin = self._number - len(self._row) + 1
        self._row = []
        return begin

    def go_back(self) -> int:
        """Read all lines of the row again but its first; returns where it began."""
        again = self._row[1:]
        self._number -= len(again)
        self._row = self._row[:1]
        self._text, self.ended = iter(again), False
        return self.begin_row()


def _record(header: list[str], row: list[str]) -> Mapping[str, Any] | LunaError:
    if any(map(has_bytes, row)):
        return LunaError(NOT_UTF8)
    if len(row) > len(header):
        return LunaError(f"it has {len(row)} cells and the header {len(header)}")
    return {name: _cell(name, cell) for name, cell in zip(header, row, strict=False) if name and cell.strip()}


def _cell(name: str, cell: str) -> object:
    """A cell's text; a number under `weight` and `margin`; a list where it is written as JSON."""
    if name in _NUMBERS:
        try:
            return float(cell.strip().replace(",", "."))
        except ValueError:
            return cell
    if cell.lstrip().startswith(("[{", "[ {")):
        try:
            return json.loads(cell)
        except (ValueError, RecursionError):
            return cell
    return cell


def parquet_records(stream: BinaryIO, label: str) -> Iterator[Numbered]:
    """The rows, null cells left out.

    Raises:
        LunaError: it is no Parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # On one thread: see `curriculum.parquet.read_rows`.
        file = pq.ParquetFile(pa.BufferReader(stream.read()), pre_buffer=False)
        number = 0
        for batch in file.iter_batches(_BATCH, use_threads=False):
            for row in _rows(batch):
                number += 1
                yield number, row
    except (pa.ArrowException, OSError, ValueError, OverflowError, NotImplementedError) as error:
        raise LunaError(f"{label} is not a readable Parquet file ({error}); write it again.") from error


def _rows(batch: Any) -> Iterable[Mapping[str, Any] | LunaError]:
    for row in range(batch.num_rows):
        try:
            [values] = batch.slice(row, 1).to_pylist()
        except (ValueError, OverflowError, ArithmeticError) as error:
            yield LunaError(f"a value cannot be read: {error}")
        else:
            yield {key: value for key, value in values.items() if value is not None}
