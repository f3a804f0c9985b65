"""What the named paths hold: files, those of folders and zip archives too, and standard input."""

from __future__ import annotations

import io
import os
import stat
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from curriculum.importing.found import Note
from ledger.errors import LunaError

STDIN = "-"

JSON = (".jsonl", ".ndjson", ".json")
TABLES = (".csv", ".tsv")
PARQUET = (".parquet",)
MARKDOWN = (".md", ".markdown")
TEXT = (".txt", ".text")
ZIP = (".zip",)
KNOWN = JSON + TABLES + PARQUET + MARKDOWN + TEXT + ZIP

MOST_FILES = 100_000
MOST_UNPACKED = 8 << 30
"""Bytes that an archive may unpack to."""
MOST_RATIO = 500
"""How many times smaller than its content a large packed file may be; text is 3 to 20 times smaller."""
_RATIO_FROM = 64 << 20

ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError, ValueError)
"""What `zipfile` raises for an archive that is damaged, encrypted, or packed in a way that it does not know."""


@dataclass(frozen=True)
class Source:
    label: str
    """How it is called in messages: its path, in an archive after the archive's."""
    name: str
    """Its file name."""
    suffix: str
    open: Callable[[], BinaryIO]


def sources_of(path: str, note: Note) -> Iterator[Source]:
    """The files that a path stands for, sorted by name. In folders and archives those of other kinds are left out, and
    noted.

    Raises:
        LunaError: there is no such file, or it is of no known kind. An archive that is damaged or larger than the
            limits is a source that cannot be opened.
    """
    place = Path(path)
    if path == STDIN:
        yield from _standard_input(note)
    elif _is(place, stat.S_ISDIR):
        yield from _of_folder(place, note)
    elif not _is(place, stat.S_ISREG):
        raise LunaError(f"there is no file {path}; check the name.")
    elif place.suffix.lower() not in KNOWN:
        raise LunaError(
            f"cannot import {path}: the ending {place.suffix.lower() or '(none)'} is unknown; use one of "
            f"{', '.join(KNOWN)}."
        )
    else:
        yield from _of_file(place, note)


def _is(path: Path, kind: Callable[[int], bool]) -> bool:
    try:
        return kind(path.stat().st_mode)
    except (OSError, ValueError):  # none, or a name that no file can have
        return False


def _of_folder(folder: Path, note: Note) -> Iterator[Source]:
    found = False
    for file in _files(folder, note):
        found = True
        if file.suffix.lower() not in KNOWN:
            note(f"files of other kinds ({file.suffix.lower() or 'without an ending'})")
            continue
        yield from _of_file(file, note)
    if not found:
        raise LunaError(f"the folder {folder} holds no file; name a file, or a folder that has some.")


def _files(folder: Path, note: Note) -> Iterator[Path]:
    """The files below a folder, by name; hidden ones and links to folders are passed over, and noted."""
    count = 0
    for root, folders, names in os.walk(folder, onerror=lambda _: note("folders that could not be read")):
        for name in folders:
            if name.startswith("."):
                note("hidden folders")
            elif Path(root, name).is_symlink():
                note("links to folders")
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            file = Path(root, name)
            if name.startswith(".") or not _is(file, stat.S_ISREG):
                note("hidden files" if name.startswith(".") else "broken links and other entries that are no files")
                continue
            count += 1
            if count > MOST_FILES:
                raise LunaError(f"{folder} holds more than {MOST_FILES:,} files; name a folder with fewer.")
            yield file


def _of_file(path: Path, note: Note) -> Iterator[Source]:
    if path.suffix.lower() in ZIP:
        yield from _members(str(path), path, note)
    else:
        yield Source(str(path), path.name, path.suffix.lower(), partial(_opened, path))


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise LunaError(f"{path} could not be read: {error.strerror}.") from error


def _members(path: str, file: Path | BinaryIO, note: Note) -> Iterator[Source]:
    """The files of an archive, or what says that it cannot be read once it is opened. Nothing is unpacked to disk, so
    where a member's name points does not matter."""
    try:
        archive = _archive(path, file)
    except LunaError as error:
        yield Source(path, Path(path).name, ZIP[0], partial(_refused, error))
        return
    with archive:
        for member in _packed(archive):
            name = PurePosixPath(member.filename.replace("\\", "/"))
            if name.name.startswith(".") or name.parts[0] == "__MACOSX":
                note("hidden files")
                continue
            suffix = name.suffix.lower()
            if suffix in KNOWN and suffix not in ZIP:
                yield Source(f"{path}/{name}", name.name, suffix, partial(_unpacking, archive, member))
            else:
                note(f"files of other kinds ({suffix or 'without an ending'})")


def _archive(path: str, file: Path | BinaryIO) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(file)
    except ZIP_ERRORS as error:
        raise LunaError(f"{path} is no readable zip archive ({error}); pack it again.") from error
    try:
        _check_sizes(path, _packed(archive))
    except LunaError:
        archive.close()
        raise
    return archive


def _packed(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    return sorted((one for one in archive.infolist() if not one.is_dir()), key=lambda one: one.filename)


def _refused(error: LunaError) -> BinaryIO:
    raise error


class _Unpacked(io.RawIOBase):
    """A member of an archive, whose damage is a `LunaError`."""

    def __init__(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
        with _damage_named():
            self._member = archive.open(member)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        with _damage_named():
            data = self._member.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def _damage_named() -> Iterator[None]:
    try:
        yield
    except ZIP_ERRORS as error:
        raise LunaError(f"it could not be unpacked ({error}); pack the archive again, without a password") from error


def _unpacking(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> BinaryIO:
    return io.BufferedReader(cast("io.RawIOBase", _Unpacked(archive, member)))


def _check_sizes(path: str, members: list[zipfile.ZipInfo]) -> None:
    """Refuse what would unpack to far more than an export is. `zipfile` reads no more of a member than is declared."""
    if len(members) > MOST_FILES:
        raise LunaError(f"{path} holds {len(members):,} files; an archive may hold {MOST_FILES:,}.")
    total = sum(member.file_size for member in members)
    if total > MOST_UNPACKED:
        raise LunaError(
            f"{path} unpacks to {total / 2**30:.1f} GiB; the limit is {MOST_UNPACKED >> 30} GiB. Unpack what you need "
            "and import the folder."
        )
    for member in members:
        if member.file_size > max(_RATIO_FROM, MOST_RATIO * member.compress_size):
            raise LunaError(
                f"{path}/{member.filename} unpacks to {member.file_size / max(1, member.compress_size):,.0f} times its "
                f"size; the limit is {MOST_RATIO}. No text is packed so; unpack it yourself if you trust it."
            )


def _standard_input(note: Note) -> Iterator[Source]:
    """All of standard input, told apart by how it begins."""
    data = sys.stdin.buffer.read()
    if (suffix := suffix_by_content(data)) in ZIP:
        yield from _members("standard input", io.BytesIO(data), note)
    else:
        yield Source("standard input", "stdin", suffix, lambda: io.BytesIO(data))


def suffix_by_content(data: bytes) -> str:
    """The ending that a file with this content should have."""
    begin = data[:4096].lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n\0")
    if begin.startswith(b"PAR1"):
        return ".parquet"
    if begin.startswith(b"PK\x03\x04"):
        return ".zip"
    if begin[:1] in (b"{", b"["):
        return ".jsonl"
    first = begin.replace(b"\0", b"").split(b"\n", 1)[0].lower()
    table = any(mark in first for mark in b",;\t") and any(
        word in first for word in (b"input", b"output", b"prompt", b"messages", b"question", b"instruction")
    )
    alone = first.strip(b'\r" ') in (b"messages", b"conversations")  # a table of one column
    return ".csv" if table or alone else ".md"
