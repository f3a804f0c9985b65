"""Atomic writes and SHA-256 hashes of files.

A file is written under a temporary name in its own folder, synced, and renamed over the target; a folder is
filled under a temporary name beside its target and renamed in one step.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import shutil
import tomllib
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ledger.errors import LunaError

_CHUNK_BYTES = 1 << 20


def sha256_bytes(data: bytes) -> str:
    """Lower-case hex SHA-256 of ``data``."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Lower-case hex SHA-256 of a file's bytes, the same figure that ``sha256sum`` prints."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def canonical_json(value: Any) -> str:
    """JSON with one spelling a value: sorted keys, no spaces, no NaN. Hashes are taken over this."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_json(value: Any) -> str:
    """SHA-256 of :func:`canonical_json`."""
    return sha256_bytes(canonical_json(value).encode())


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file in UTF-8, or in UTF-16 with its byte order mark.

    Raises:
        LunaError: it cannot be read, or is not TOML.
    """
    try:
        data = path.read_bytes()
        marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return tomllib.loads(data.decode("utf-16" if marked else "utf-8-sig"))
    except OSError as error:
        raise LunaError(f"{path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise LunaError(f"{path} is not text in UTF-8; save it as UTF-8.") from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is one; so is a number of thousands of digits
        raise LunaError(f"{path} is not valid TOML: {error}.") from error


def temporary_beside(path: Path) -> Path:
    """A name in the same folder (so that a rename is atomic) that no other writer uses."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write into a sentence.

    Raises:
        LunaError: naming the path, the cause, and what to do (disk full, file too large, no permission).
    """
    try:
        yield
    except OSError as error:
        raise LunaError(
            f"could not write {path}: {error.strerror or error}. Nothing was changed; "
            "free some space or fix the folder's permissions, then run the same command again."
        ) from error


def sync(path: Path) -> None:
    """Make a file's content, or the renames inside a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, data: bytes | str | Iterable[bytes]) -> None:
    """Write ``data``, whole or in parts, to ``path`` completely or not at all.

    Raises:
        LunaError: when the disk refuses; the old file, if any, is untouched.
    """
    whole = data.encode() if isinstance(data, str) else data
    temporary = temporary_beside(path)
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.writelines([whole] if isinstance(whole, bytes) else whole)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def append_synced(path: Path, data: bytes, size: int) -> None:
    """Add ``data`` to a file of ``size`` bytes, in one write.

    A reader in this very moment may see a part of it; a full disk or a crash may leave one behind.

    Raises:
        LunaError: when the disk refuses; what was written of it is cut off again.
    """
    with explain_write_errors(path):
        descriptor = os.open(path, os.O_WRONLY)
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(descriptor, data[written:], size + written)
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, size)
            raise
        finally:
            os.close(descriptor)


def publish_dir(temporary: Path, final: Path) -> Path:
    """Rename a filled folder to its final, content-addressed name, synced.

    If ``final`` is already there it holds the same content (its name is a hash), so ``temporary`` is dropped.
    """
    with explain_write_errors(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        # Folders too: else a power cut could leave the named folder with files missing.
        for entry in (temporary, *sorted(temporary.rglob("*"))):
            sync(entry)
        if final.exists():
            shutil.rmtree(temporary)
            return final
        temporary.rename(final)
        sync(final.parent)
    return final
