"""Append-only JSONL files that a killed run goes on with.

A row counts once its line feed is written. A last line without one, or one that is not JSON, is what a kill leaves: it
is cut off, and its item is done again. Beside the rows lies a manifest that says what they were made with; rows made
with something else are never mixed in.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from ledger.errors import LunaError
from ledger.files import explain_write_errors, write_atomic

Row = dict[str, Any]


class RowFile:
    """An open JSONL file that one process appends to; threads may share it.

    Raises:
        LunaError: another process writes it, it cannot be written, or a line before the last is not an object.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        with explain_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise LunaError(f"{path} is being written by another run; wait for it, or use another --set.") from error
        try:
            self._file.seek(0)
            self.rows, whole = _parse(path, self._file.read())
        except LunaError:
            self._file.close()
            raise
        self.dropped = self._file.seek(0, os.SEEK_END) - whole
        """Bytes of a half-written last line that were cut off."""
        if self.dropped:
            self._file.truncate(whole)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one row; it is the system's when this returns, and on the disk after `sync`."""
        line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8", errors="replace") + b"\n"
        with self._lock, explain_write_errors(self.path):
            self._file.write(line)
            self._file.flush()
            self.rows.append(dict(row))

    def sync(self) -> None:
        """Make the rows survive a power cut."""
        with self._lock, explain_write_errors(self.path):
            os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sync()
        self._file.close()


def read_rows(path: Path) -> list[Row]:
    """The whole rows of a file that a run may be writing. An absent file has none.

    Raises:
        LunaError: a line before the last is not an object.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LunaError(f"{path} could not be read: {error.strerror}. Fix the file's permissions.") from error
    return _parse(path, data)[0]


def claim_manifest(path: Path, identity: Mapping[str, Any]) -> Row:
    """The manifest of a run that begins or goes on, with `identity` in it.

    Raises:
        LunaError: the rows beside it were made with something else; the message says with what.
    """
    manifest = read_manifest(path)
    if not manifest:
        return {"identity": dict(identity)}
    found = dict(manifest["identity"])
    differing = sorted(key for key in {*found, *identity} if found.get(key) != identity.get(key))
    if differing:
        told = "; ".join(f"{key} was {found.get(key)!r}, now {identity.get(key)!r}" for key in differing)
        raise LunaError(f"the rows beside {path} were made otherwise: {told}. Use another --set, or move them away.")
    return manifest


def read_manifest(path: Path) -> Row:
    """A manifest, or nothing where there is none yet.

    Raises:
        LunaError: the file is no manifest.
    """
    if not path.exists():
        return {}
    try:
        manifest: Row = json.loads(path.read_text(encoding="utf-8"))
        dict(manifest["identity"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise LunaError(f"{path} is not a manifest ({error!r}); move the folder {path.parent} away.") from error
    return manifest


def write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """Write a manifest whole."""
    write_atomic(path, json.dumps(manifest, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


def _parse(path: Path, data: bytes) -> tuple[list[Row], int]:
    """The rows, and the number of bytes that hold them."""
    rows: list[Row] = []
    whole = 0
    lines = data.split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            if number == len(lines) - 1 and lines[-1] == b"":
                return rows, whole  # a last line that a power cut left
            raise LunaError(f"{path}:{number} is not a JSON object; the file was changed. Remove that line.")
        rows.append(row)
        whole += len(line) + 1
    return rows, whole
