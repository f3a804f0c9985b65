"""Files by their content: taken from a shelf into a node's cache, put on a shelf, and never used unverified."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cluster.store.shelves import Shelf, parts_of
from ledger.errors import LunaError
from ledger.files import explain_write_errors, sha256_file, temporary_beside, write_atomic


class WrongContentError(LunaError):
    """What lies or arrived under a name is not what the name says."""


def content_of(file: Path) -> tuple[str, int]:
    """(SHA-256, size) of a file as it is now."""
    size, digest = file.stat().st_size, hashlib.sha256()
    for part in parts_of(file, size):
        digest.update(part)
    return digest.hexdigest(), size


def put(shelf: Shelf, file: Path, content: tuple[str, int] | None = None) -> str:
    """Put a file's content on a shelf that lacks it; returns its SHA-256. A file that only grows may grow meanwhile.

    Args:
        content: what :func:`content_of` has found; None: it is asked.

    Raises:
        LunaError: the file or the shelf cannot be read or written.
    """
    sha, size = content or content_of(file)
    if not shelf.has(sha, size):
        shelf.write(sha, parts_of(file, size))
    return sha


def fetch(shelf: Shelf, sha: str, into: Path) -> None:
    """Write what a shelf has under a name to a file, whole and verified, or not at all.

    Raises:
        WrongContentError: it is something else, at the second try as well.
        LunaError: the shelf lacks it, or the disk refuses.
    """
    with suppress(WrongContentError):
        write_atomic(into, _verified(shelf.read(sha), sha))
        return
    try:  # what was cut off on its way arrives whole this time
        write_atomic(into, _verified(shelf.read(sha), sha))
    except WrongContentError as error:
        raise WrongContentError(
            f"{shelf} has other bytes under {sha} than its name says; delete what lies there and run the same command "
            "again."
        ) from error


def _verified(parts: Iterable[bytes], sha: str) -> Iterator[bytes]:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
        yield part
    if digest.hexdigest() != sha:
        raise WrongContentError(f"what arrived as {sha} has another SHA-256, {digest.hexdigest()}.")


class Store:
    """Content under its SHA-256 on a shelf, with a cache that the processes of a node share."""

    def __init__(self, shelf: Shelf, cache: Path):
        self._shelf, self._files = shelf, cache / "files"
        self._verified: dict[str, tuple[int, ...]] = {}
        """What this process has hashed, as it was then."""

    def put(self, file: Path) -> str:
        """See :func:`put`."""
        return put(self._shelf, file)

    def get(self, sha: str) -> Path:
        """A file of the cache with this content, fetched if it is not there or is broken. It must not be changed.

        Raises:
            LunaError: as :func:`fetch` does.
        """
        file = self._files / sha
        with _held(file.with_name(f".{sha[0]}.lock")):  # of several trainers on a node one fetches
            if not self._is_whole(file, sha):
                fetch(self._shelf, sha, file)
                self._verified[sha] = stamp(file)
            with suppress(OSError):  # what was used last is dropped last
                os.utime(file, ns=(time.time_ns(), file.stat().st_mtime_ns))
        return file

    def lay(self, sha: str, at: Path) -> None:
        """Give a content of the cache another name, without a copy where the disk can.

        Raises:
            LunaError: as :meth:`get` does.
        """
        file, temporary = self.get(sha), temporary_beside(at)
        with explain_write_errors(at):
            at.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file, temporary)
                temporary.replace(at)
            except FileNotFoundError:  # another process has just dropped it to make room
                fetch(self._shelf, sha, at)
            except OSError:  # another disk, or one without links
                write_atomic(at, parts_of(file, file.stat().st_size))
            finally:
                temporary.unlink(missing_ok=True)

    def trim(self, most_bytes: int) -> None:
        """Drop what was not used for longest, until the cache holds no more. What a trainer has laid stays."""
        found = []
        for file in self._files.glob("[0-9a-f]*"):
            with suppress(OSError):
                found.append((file.stat(), file))
        total = sum(state.st_size for state, _ in found)
        for state, file in sorted(found, key=lambda one: one[0].st_atime_ns):
            if total <= most_bytes:
                return
            if state.st_nlink == 1:
                with suppress(OSError):
                    file.unlink()
                    total -= state.st_size

    def _is_whole(self, file: Path, sha: str) -> bool:
        if not file.exists():
            return False
        if self._verified.get(sha) == stamp(file):
            return True
        if sha256_file(file) == sha:
            self._verified[sha] = stamp(file)
            return True
        file.unlink()
        return False


def stamp(file: Path) -> tuple[int, ...]:
    """What changes with a file's content, as long as nobody turns back clocks."""
    state = file.stat()
    return state.st_size, state.st_mtime_ns, state.st_ino


@contextmanager
def _held(lock: Path) -> Iterator[None]:
    """Hold a lock file that other processes of the node wait for.

    Raises:
        LunaError: the folder cannot be written.
    """
    with explain_write_errors(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
