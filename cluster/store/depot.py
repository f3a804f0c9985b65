"""The actor beside a home: says what its files hold, hands them out where there is no store, lays what comes back.

It remembers nothing that it could not find again, so that Ray may start it anew at any time.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError

from cluster.calls import get
from cluster.store.content import fetch, put, stamp
from cluster.store.reach import Reach
from cluster.store.shelves import PART_BYTES, FileShelf
from ledger.errors import LunaError
from ledger.files import explain_write_errors, publish_dir, sha256_file, temporary_beside

ARRIVALS = ".luna-arrivals"
"""Folder of what has come back and is not laid yet: in the home, or in the store."""


@dataclass(frozen=True)
class Back:
    """What has come back; paths are relative to the home."""

    folders: tuple[str, ...]
    """These are made first."""
    changed: Mapping[str, str]
    """SHA-256 of each file that is new or another, by path."""
    gone: tuple[str, ...]


class Depot:
    """Threaded. Paths that it is told and tells are relative to the home."""

    def __init__(self, root: str, store: str = ""):
        self._root = Path(root)
        self._place = store or str(self._root)
        self._store = FileShelf(store) if store else None
        self._hashed: dict[Path, tuple[tuple[int, ...], str]] = {}

    def clear(self) -> None:
        """Forget what a process before this one left unlaid."""
        shutil.rmtree(self._root / ARRIVALS, ignore_errors=True)

    def offer(self, paths: Sequence[str]) -> dict[str, str]:
        """SHA-256 by path of every file that is named or lies in a folder that is; a store has them all then.

        What is missing is left out: whoever opens it says what it is.
        """
        found = {}
        for path in dict.fromkeys(paths):
            for file in _files_of(self._within(path)):
                with suppress(FileNotFoundError):  # taken away in this moment
                    found[str(file.relative_to(self._root))] = self._sha(file)
        return found

    def read(self, path: str, at: int) -> bytes:
        """A part of a file, from byte `at`; empty behind its end."""
        try:
            with self._within(path).open("rb") as stream:
                stream.seek(at)
                return stream.read(PART_BYTES)
        except OSError as error:
            raise LunaError(f"{self._root / path} cannot be read: {error.strerror or error}.") from error

    def receive(self, sender: str, sha: str, at: int, part: bytes) -> None:
        """A part of a file that comes back, of which nothing is laid before :meth:`received`."""
        file = self._part(sender, sha)
        with explain_write_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                while part:
                    written = os.pwrite(descriptor, part, at)
                    at, part = at + written, part[written:]
            finally:
                os.close(descriptor)

    def received(self, sender: str, sha: str, size: int) -> None:
        """All parts of a file are there: its content waits under its name to be laid."""
        file = self._part(sender, sha)
        if not size:
            self.receive(sender, sha, 0, b"")
        with explain_write_errors(file):
            os.truncate(file, size)  # of a sender that died there may be more
            file.replace(file.with_name(sha))

    def lay(self, sender: str, back: Back) -> None:
        """Put what a sender's files have come to in its place, then take away what is gone there.

        A folder that is new appears whole: a checkpoint or an adapter is never seen half.
        """
        arrivals = arrivals_shelf(self._place, sender)
        for folder in map(self._within, back.folders):
            with explain_write_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
        for top, files in self._by_new_folder(back.changed).items():
            if top is None:
                for path, sha in files.items():
                    fetch(arrivals, sha, self._within(path))
                continue
            temporary = temporary_beside(top)
            try:
                for path, sha in files.items():
                    fetch(arrivals, sha, temporary / self._within(path).relative_to(top))
                publish_dir(temporary, top)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        for file in map(self._within, back.gone):
            with suppress(OSError):
                file.unlink()
                file.parent.rmdir()  # once it is empty
        for sha in set(back.changed.values()):
            arrivals.delete(sha)
        with suppress(OSError):
            (self._root / ARRIVALS / sender).rmdir()

    def _by_new_folder(self, changed: Mapping[str, str]) -> dict[Path | None, dict[str, str]]:
        """The files by the topmost folder that has to be made for them; None: by none."""
        found: dict[Path | None, dict[str, str]] = {}
        for path, sha in changed.items():
            missing = [folder for folder in self._within(path).parents if not folder.exists()]
            found.setdefault(missing[-1] if missing else None, {})[path] = sha
        return found

    def _sha(self, file: Path) -> str:
        known, now = self._hashed.get(file), stamp(file)
        if known is None or known[0] != now or (self._store and not self._store.has(known[1], now[0])):
            sha = put(self._store, file) if self._store else sha256_file(file)
            self._hashed[file] = known = now, sha
        return known[1]

    def _part(self, sender: str, sha: str) -> Path:
        return self._within(f"{ARRIVALS}/{sender}/.{sha}.tmp")

    def _within(self, path: str) -> Path:
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise LunaError(f"{path} is no path within the home {self._root}.")
        return self._root / path


class HomeShelf:
    """The home's own files as a shelf, asked part by part through the object store."""

    def __init__(self, depot: Any):
        self._depot = depot
        self.paths: dict[str, str] = {}
        """Where the home has a content, as it was offered."""

    def __str__(self) -> str:
        return "the home"

    def has(self, sha: str, size: int) -> bool:
        """See :class:`cluster.store.shelves.Shelf`."""
        return sha in self.paths

    def read(self, sha: str) -> Iterator[bytes]:
        """See :class:`cluster.store.shelves.Shelf`."""
        at = 0
        while part := asked(self._depot.read, self.paths[sha], at):
            yield part
            at += len(part)

    def write(self, sha: str, parts: Iterable[bytes]) -> None:
        """Nothing is put here: what comes back arrives on a shelf of its own."""
        raise NotImplementedError


class ArrivalsShelf:
    """What comes back to the home through the object store, part by part."""

    def __init__(self, depot: Any, sender: str):
        self._depot, self._sender = depot, sender

    def __str__(self) -> str:
        return "the home"

    def has(self, sha: str, size: int) -> bool:
        """See :class:`cluster.store.shelves.Shelf`: what was laid does not wait here any longer."""
        return False

    def read(self, sha: str) -> Iterator[bytes]:
        """The home itself reads it."""
        raise NotImplementedError

    def write(self, sha: str, parts: Iterable[bytes]) -> None:
        """See :class:`cluster.store.shelves.Shelf`."""
        at = 0
        for part in parts:
            asked(self._depot.receive, self._sender, sha, at, part)
            at += len(part)
        asked(self._depot.received, self._sender, sha, at)


def arrivals_shelf(place: str, sender: str) -> FileShelf:
    """Where, in a store or a home, lies what a sender has sent and is not laid yet."""
    return FileShelf(f"{place.rstrip('/')}/{ARRIVALS}/{sender}")


def asked(method: Any, *arguments: Any) -> Any:
    """What the actor beside the home answers.

    Raises:
        LunaError: what it refuses, or that it is gone.
    """
    try:
        return get(method.remote(*arguments))
    except RayActorError as error:
        raise LunaError(
            f"the process that hands out the home's files ended ({type(error).__name__}); run the same command again."
        ) from error


@lru_cache(maxsize=1)
def depot_of(reach: Reach) -> Any:
    """The actor, on the node of this process, which sees the home. It ends with this process, or when neither this
    function nor a trainer knows it any longer."""
    depot = ray.remote(Depot).options(
        num_cpus=0,
        max_concurrency=8,
        max_restarts=-1,
        max_task_retries=3,
        label_selector={"ray.io/node-id": ray.get_runtime_context().get_node_id()},
    )
    actor = depot.remote(str(reach.root), reach.settings.store)
    get(actor.clear.remote())
    return actor


def _files_of(path: Path) -> Iterator[Path]:
    """A file, or those under a folder without what is being written: names that begin with a dot."""
    if path.is_file():
        yield path
        return
    for folder, inner, files in os.walk(path):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        yield from (Path(folder) / name for name in sorted(files) if not name.startswith("."))
