"""Read one file of the user's own data."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from curriculum.example import Example, unique
from curriculum.importing.manuals import manual_examples
from curriculum.importing.records import MESSAGES_KEYS, RECORD_KEYS, Defaults, examples_of
from curriculum.importing.report import ImportReport
from curriculum.jsonl import BadLine, numbered_lines, parse_line
from curriculum.parquet import read_rows
from ledger.errors import LunaError
from ledger.roles import ROLES, Role

OnError = Literal["continue", "stop"]

_JSONL = (".jsonl", ".ndjson")
_PARQUET = (".parquet",)
_MARKDOWN = (".md", ".markdown")
_TEXT = (".txt", ".text")


def import_file(path: str | Path, role: Role, on_error: OnError = "continue", *, created_at: str = "") -> ImportReport:
    """Read a JSONL, Parquet, Markdown or text file, told apart by its ending.

    `role` and `created_at` (ISO-8601 with a zone, or empty) hold for records that do not name their own. A
    bad line is reported with file and line number; `on_error="stop"` raises `LunaError` at the first one
    instead. Raises `LunaError` for a file that is missing, empty, of an unknown kind, or holds nothing to
    learn from.
    """
    path = Path(path)
    if role not in ROLES:
        raise LunaError(f"there is no role {role!r}; use one of {', '.join(ROLES)}.")
    if on_error not in ("continue", "stop"):
        raise LunaError(f"on_error is {on_error!r}; use 'continue' or 'stop'.")
    if not path.is_file():
        raise LunaError(f"there is no file {path}; check the name.")
    examples: list[Example] = []
    problems: list[BadLine] = []
    for found in _read(path, role, created_at):
        if isinstance(found, BadLine):
            if on_error == "stop":
                raise LunaError(f"{found}. Nothing was imported; correct the line, or import with on_error 'continue'.")
            problems.append(found)
        else:
            examples += found
    if not examples and not problems:
        raise LunaError(f"{path} holds nothing to learn from; it is empty or has only headings and code.")
    kept = unique(examples)
    return ImportReport(examples=kept, problems=problems, duplicates=len(examples) - len(kept))


def _read(path: Path, role: Role, created_at: str) -> Iterator[list[Example] | BadLine]:
    suffix = path.suffix.lower()
    if suffix in _JSONL:
        yield from _read_jsonl(path, role, created_at)
    elif suffix in _PARQUET:
        yield from _read_parquet(path, role, created_at)
    elif suffix in _MARKDOWN + _TEXT:
        text, problems = _decode(path)
        yield from problems
        yield manual_examples(text, path.name, role, markdown=suffix in _MARKDOWN, created_at=created_at)
    else:
        known = ", ".join(_JSONL + _PARQUET + _MARKDOWN + _TEXT)
        raise LunaError(f"cannot import {path}: the ending {suffix or '(none)'} is unknown; use one of {known}.")


def _read_jsonl(path: Path, role: Role, created_at: str) -> Iterator[list[Example] | BadLine]:
    for number, line in numbered_lines(path):
        try:
            record = parse_line(line)
        except LunaError as error:
            yield BadLine(str(path), number, str(error))
        else:
            yield _examples_or_bad_line(record, path, number, role, created_at)


def _read_parquet(path: Path, role: Role, created_at: str) -> Iterator[list[Example] | BadLine]:
    for number, row in enumerate(read_rows(path), start=1):
        unknown = sorted(row.keys() - RECORD_KEYS - MESSAGES_KEYS)
        if unknown:
            columns = ", ".join(sorted(RECORD_KEYS | MESSAGES_KEYS))
            raise LunaError(f"{path} has the unknown column {unknown[0]!r}; drop or rename it. Known are {columns}.")
        record = {key: value for key, value in row.items() if value is not None}
        yield _examples_or_bad_line(record, path, number, role, created_at)


def _examples_or_bad_line(
    record: object, path: Path, number: int, role: Role, created_at: str
) -> list[Example] | BadLine:
    defaults = Defaults(role=role, source=f"file/{path.name}:{number}", created_at=created_at)
    try:
        return examples_of(record, defaults)
    except LunaError as error:
        return BadLine(str(path), number, str(error))


def _decode(path: Path) -> tuple[str, list[BadLine]]:
    """The lines of a text file (unreadable ones blank, so that numbers hold), and the problems."""
    lines, problems = [], []
    for number, line in enumerate(path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        try:
            lines.append(line.decode().rstrip("\r"))
        except UnicodeDecodeError:
            lines.append("")
            problems.append(BadLine(str(path), number, "not UTF-8 text; save the file as UTF-8"))
    return "\n".join(lines), problems
