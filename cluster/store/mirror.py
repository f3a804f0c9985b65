"""The trainer's edge: on a node that does not see the home, the part of it that a call names, and what comes of that.

What a call reads is taken from the node's cache, or fetched into it; what it writes is sent back when a checkpoint has
been saved and when it ends, however it ends. The trainer's own code opens paths as everywhere.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import socket
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cluster.store.content import Store, content_of, fetch, put, stamp
from cluster.store.depot import ArrivalsShelf, Back, HomeShelf, arrivals_shelf, asked
from cluster.store.paths import Named, from_to, moved, named, named_by
from cluster.store.reach import HomeNotSeenError, Reach, cache_folder
from cluster.store.shelves import FileShelf, Shelf
from ledger.errors import LunaError
from ledger.files import explain_write_errors

Value = TypeVar("Value")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Same:
    """A file that is as the home has it."""

    sha: str
    stamp: tuple[int, ...]


class Mirror:
    """A part of a home on this node, of one process, gone with it. One call at a time."""

    def __init__(self, reach: Reach):
        if reach.depot is None:
            raise HomeNotSeenError()
        self._home, self._depot, self._name = reach.root, reach.depot, uuid.uuid4().hex
        self._most_bytes = reach.settings.cache_gib << 30
        self._cache = cache_folder()
        with _naming_this_node():
            self._root = _own_folder(self._cache / "mirrors", self._name)
        place = reach.settings.store
        self._home_shelf = None if place else HomeShelf(reach.depot)
        self._shelf: Shelf = self._home_shelf or FileShelf(place)
        self._back: Shelf = arrivals_shelf(place, self._name) if place else ArrivalsShelf(reach.depot, self._name)
        self._store = Store(self._shelf, self._cache)
        self._same: dict[Path, _Same] = {}
        """By path relative to the home."""
        self._now = Named()
        self._checkpoints: set[Path] = set()
        how = f"through {self._shelf}" if place else "through Ray"
        logger.info("%s does not see the home %s; files go %s", socket.gethostname(), self._home, how)

    def opened(self, value: Value) -> Value:
        """An argument with its files here, such as the base."""
        here = self._to_mirror(value)
        self._bring(named(value))
        return here

    def through(self, method: str, arguments: tuple[Any, ...], work: Callable[..., Any]) -> Any:
        """Do a trainer's work on files of this node; the home has then what it wrote, and the answer the home's paths.

        Raises:
            LunaError: a file could not be brought or sent, or what the work raises.
        """
        here = self.brought(method, arguments)
        try:
            answer = work(*here)
        finally:  # a checkpoint may have been saved for whoever goes on
            self.send_back()
        return moved(answer, from_to(self._root, self._home))

    def brought(self, method: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments of a call under paths of this node, with what it reads there."""
        if method == "train":
            self._make_room()
        here = self._to_mirror(arguments)
        self._now = named_by(method, arguments)
        self._bring(self._now)
        self._checkpoints = self._found_checkpoints()
        return here

    def send_new_checkpoint(self) -> None:
        """Send what the present call has written if it has saved a checkpoint since it was sent last."""
        if (found := self._found_checkpoints()) != self._checkpoints:
            self.send_back()
            self._checkpoints = found

    def send_back(self) -> None:
        """Let the home have what the present call has written up to now."""
        folders = [self._relative(folder) for folder in (*self._now.state, *self._now.added)]
        changed: dict[Path, _Same] = {}
        for path in self._files_under(folders):
            file, known = self._root / path, self._same.get(path)
            before = stamp(file)
            if known is None or known.stamp != before:
                content = content_of(file)
                if known is None or known.sha != content[0]:
                    changed[path] = _Same(put(self._back, file, content), before)
        states = [self._relative(folder) for folder in self._now.state]
        gone = [path for path in self._same if not (self._root / path).exists() and _is_under(path, states)]
        if changed or gone:
            shas = {str(path): one.sha for path, one in changed.items()}
            asked(self._depot.lay, self._name, Back(tuple(map(str, folders)), shas, tuple(map(str, gone))))
        self._same.update(changed)
        for path in gone:
            del self._same[path]

    def _bring(self, wanted: Named) -> None:
        with _naming_this_node():
            self._have(wanted)

    def _have(self, wanted: Named) -> None:
        """Have here what a call reads, as the home has it."""
        paths = [*wanted.read, *wanted.state]
        if not paths:
            return
        offered: dict[str, str] = asked(self._depot.offer, [str(self._relative(path)) for path in paths])
        if self._home_shelf is not None:
            self._home_shelf.paths.update({sha: path for path, sha in offered.items()})
        states = [self._relative(folder) for folder in wanted.state]
        for stale in [path for path in self._files_under(states) if str(path) not in offered]:
            (self._root / stale).unlink()
            self._same.pop(stale, None)
            with suppress(OSError):
                (self._root / stale).parent.rmdir()
        for name, sha in offered.items():
            path, file = Path(name), self._root / name
            known = self._same.get(path)
            if known is not None and file.exists() and known == _Same(sha, stamp(file)):
                continue
            if _is_under(path, states):  # written on, so that it must share no bytes with the cache
                fetch(self._shelf, sha, file)
            else:
                self._store.lay(sha, file)
            self._same[path] = _Same(sha, stamp(file))
        for folder in (*wanted.state, *wanted.added):
            local = self._root / self._relative(folder)
            with explain_write_errors(local):
                local.mkdir(parents=True, exist_ok=True)

    def _make_room(self) -> None:
        """Drop what earlier generations left here and in the cache; the base stays, which some engines load anew."""
        for folder in ("runs", "models/adapters", "data"):
            shutil.rmtree(self._root / folder, ignore_errors=True)
        self._same = {path: one for path, one in self._same.items() if (self._root / path).exists()}
        self._store.trim(self._most_bytes)

    def _found_checkpoints(self) -> set[Path]:
        """The checkpoints of the present call's run; those that are being written have another name."""
        folders = [self._root / self._relative(folder) for folder in self._now.state]
        return {found for folder in folders for found in folder.rglob("checkpoint-*")}

    def _files_under(self, folders: Iterable[Path]) -> list[Path]:
        """Files here, relative to the home, without those that are being written."""
        return [path for folder in folders for path in _files(self._root, folder)]

    def _to_mirror(self, value: Value) -> Value:
        try:
            return moved(value, from_to(self._home, self._root))
        except ValueError as error:
            raise LunaError(
                f"the node {socket.gethostname()} does not see the home {self._home}, and can only be given files that "
                f"lie in it: {error}."
            ) from error

    def _relative(self, path: Path) -> Path:
        return path.relative_to(self._home)


@contextmanager
def _naming_this_node() -> Iterator[None]:
    try:
        yield
    except LunaError as error:
        raise LunaError(f"on the node {socket.gethostname()}, which does not see the home: {error}") from error


def _files(root: Path, folder: Path) -> Iterator[Path]:
    for place, inner, files in os.walk(root / folder):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        yield from ((Path(place) / name).relative_to(root) for name in sorted(files) if not name.startswith("."))


def _is_under(path: Path, folders: Iterable[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def _own_folder(mirrors: Path, name: str) -> Path:
    """A new folder of this process; those of processes that have ended are removed.

    Raises:
        LunaError: the node's cache cannot be written.
    """
    with explain_write_errors(mirrors):
        mirrors.mkdir(parents=True, exist_ok=True)
        for lock in mirrors.glob("*.lock"):
            if (ended := _lock(lock)) is not None:
                shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                lock.unlink(missing_ok=True)
                os.close(ended)
        _lock(mirrors / f"{name}.lock")  # held until this process ends
        (mirrors / name).mkdir()
    return mirrors / name


def _lock(file: Path) -> int | None:
    """A descriptor with the lock on a file, or None where another process holds it."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
