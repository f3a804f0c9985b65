"""Files of one JSON value a line, and the lines that could not be read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from ledger.errors import LunaError


@dataclass(frozen=True)
class BadLine:
    """One line of a text file, or row of a Parquet file, that could not be read."""

    file: str
    line: int
    """Counted from 1."""
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


def numbered_lines(path: Path) -> list[tuple[int, bytes]]:
    """The lines of a file that hold something, each with its number from 1.

    Raises:
        LunaError: the file cannot be read.
    """
    try:
        data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise LunaError(f"{path} could not be read: {error}. Name a JSONL file in UTF-8.") from error
    # Not splitlines: an answer may hold other separators, such as U+2028.
    return [(number, line) for number, line in enumerate(data.split(b"\n"), start=1) if line.strip()]


def parse_line(line: bytes) -> object:
    """The JSON value of a line.

    Raises:
        LunaError: it is not UTF-8, or not JSON.
    """
    try:
        return json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise LunaError("not UTF-8 text; save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise LunaError(f"not JSON: {error}") from error


def explain(error: ValidationError) -> str:
    """Each mistake in a clause: where, what was found, what is wrong with it."""
    clauses = []
    for mistake in error.errors():
        where = ".".join(map(str, mistake["loc"])) or "line"
        found = "" if mistake["type"] == "missing" else f" = {str(mistake['input'])[:60]!r}"
        clauses.append(f"{where}{found}: {mistake['msg'][0].lower()}{mistake['msg'][1:]}")
    return "; ".join(clauses)


def nothing_usable(path: Path, what: str, bad: list[BadLine]) -> LunaError:
    """The error for a file without a single usable line."""
    reason = f" The first: {bad[0]}." if bad else ""
    return LunaError(f"{path} holds no usable {what}.{reason} Each line is an object; see configs/schemas/.")
