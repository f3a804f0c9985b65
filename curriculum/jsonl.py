"""Files of one JSON value a line, and the lines that could not be read."""

from __future__ import annotations

import codecs
import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from ledger.errors import LunaError

NOT_UTF8 = "not UTF-8 text; save the file as UTF-8"

_HEAD = 4096
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


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
        data = path.read_bytes()
    except OSError as error:
        raise LunaError(f"{path} could not be read: {error}. Name a JSONL file in UTF-8.") from error
    encoding = encoding_of(data[:_HEAD])
    if encoding != "utf-8":
        data = data.decode(encoding, "replace").encode()
    # Not splitlines: an answer may hold other separators, such as U+2028.
    lines = data.removeprefix(codecs.BOM_UTF8).split(b"\n")
    return [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def encoding_of(head: bytes) -> str:
    """The encoding by a file's first bytes: its byte order mark; or, where every second byte is zero as in most of
    UTF-16, that; else UTF-8."""
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    pairs = len(head) // 2
    first, second = head[: 2 * pairs : 2].count(0), head[1 : 2 * pairs : 2].count(0)
    if pairs and second > 0.4 * pairs and first < 0.1 * pairs:
        return "utf-16-le"
    if pairs and first > 0.4 * pairs and second < 0.1 * pairs:
        return "utf-16-be"
    return "utf-8"


def parse_line(line: bytes) -> object:
    """The JSON value of a line.

    Raises:
        LunaError: it is not UTF-8, not JSON, or holds half of a character, which no file can hold.
    """
    try:
        value: object = json.loads(line.decode())
        if b"\\ud" in line.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise LunaError(NOT_UTF8) from error
    except UnicodeEncodeError as error:
        half = error.object[error.start : error.start + 1].encode("ascii", "backslashreplace").decode()
        raise LunaError(f"it holds half of a character ({half}); remove it, or write the whole one") from error
    except (ValueError, RecursionError) as error:
        raise LunaError(f"not JSON: {error}") from error
    return value


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
