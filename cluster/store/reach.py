"""How a node comes to the files of a home: it sees the home, or through a store, or through Ray.

A home that is seen has a mark which only it has: what was copied to a node once has an older one.
"""

from __future__ import annotations

import os
import shutil
import socket
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cluster.settings import ClusterSettings, Settings, settings_of
from cluster.store.content import fetch, put
from cluster.store.shelves import FileShelf
from ledger.errors import LunaError
from ledger.files import temporary_beside, write_atomic
from ledger.home import Home
from trainers.models.frozen import Base

MARK = ".luna-home-id"

_OURS = uuid.uuid4().hex
"""What this process, and no other, marks homes with."""

_ANSWER_S = 120

_known: set[tuple[str, Reach, Path]] = set()
"""(node, how, base) that this process has found to work."""


@dataclass(frozen=True)
class Reach:
    """A home, as every node is told of it."""

    root: Path
    mark: str
    settings: ClusterSettings
    depot: Any = field(default=None, compare=False)
    """The actor beside the home; None until a node has needed it."""

    @classmethod
    def of(cls, home: Home, settings: Settings) -> Reach:
        """That of a home on this machine, which is marked. How the rig works is read as it stands now: a run keeps
        its settings for what decides bytes."""
        now = settings_of(home).cluster if home.settings_file.exists() else settings.cluster
        reach = cls(home.root.absolute(), _OURS, now)
        if not reach.sees_home():
            write_atomic(reach.root / MARK, _OURS)
        return reach

    def sees_home(self) -> bool:
        """Whether this process does."""
        try:
            return (self.root / MARK).read_text(encoding="ascii") == self.mark
        except (OSError, ValueError):
            return False

    def under(self, depot: Any) -> Reach:
        """The same, with the actor beside the home."""
        return replace(self, depot=depot)


@dataclass(frozen=True)
class Setup:
    """What all trainers of a session are opened with."""

    base: Base
    settings: Settings
    reach: Reach | None = None
    """None: every node sees every path."""

    @classmethod
    def of(cls, base: Base, settings: Settings, reach: Reach | None = None) -> Setup:
        """With what adapters will call the base, which only its home knows."""
        return cls(replace(base, named=base.loadable), settings, reach)


class HomeNotSeenError(LunaError):
    """A node does not see the home, and was not told of the actor beside it."""

    def __str__(self) -> str:
        return f"the node {socket.gethostname()} does not see the home"


def cache_folder() -> Path:
    """Where this node keeps what it was given: LUNA_CACHE, or `luna` under the user's cache folder."""
    if own := os.environ.get("LUNA_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "luna"


def refuse_unreachable(reach: Reach, base: Base) -> None:
    """Refuse a cluster with a node that may train, does not see the home, and could not be given its files.

    Raises:
        LunaError: naming the node and the path.
    """
    import ray
    from ray.exceptions import GetTimeoutError, RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    nodes = {
        node["NodeID"]: str(node["NodeManagerHostname"])
        for node in ray.nodes()
        if node["Alive"] and node["Resources"].get("CPU", 0.0) >= 1 and node["NodeID"] != here
    }
    new = {node: host for node, host in nodes.items() if (node, reach, base.path) not in _known}
    if not new:
        return
    note = _note_in_store(reach)
    needed = sum(file.stat().st_size for file in base.path.rglob("*") if file.is_file())
    look = ray.remote(num_cpus=0, max_retries=0)(why_unreachable)
    asked = {
        node: look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
            reach, note, needed
        )
        for node in new
    }
    for node, reference in asked.items():
        try:
            reason = ray.get(reference, timeout=_ANSWER_S)
        except (GetTimeoutError, RayError) as error:
            reason = f"it does not say what it sees ({type(error).__name__}); look at it in the Ray dashboard."
        if reason:
            raise LunaError(
                f"the node {new[node]} does not see the home {reach.root}, and cannot be given its files: {reason} "
                "Nothing was recorded. Mend it, share the home under the same path, or take the node out."
            )
        _known.add((node, reach, base.path))


def why_unreachable(reach: Reach, note: str, needed_bytes: int) -> str:
    """What keeps this node from the files of a home, as a sentence; empty where it sees it or can be given them.

    Args:
        note: SHA-256 of what lies in the store, where there is one.
        needed_bytes: what it has to have room for at least.
    """
    if reach.sees_home():
        return ""
    cache = cache_folder()
    probe = temporary_beside(cache / "probe")
    try:
        if note:
            fetch(FileShelf(reach.settings.store), note, probe)
        else:
            write_atomic(probe, b"")
    except LunaError as error:
        return str(error)
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    room = shutil.disk_usage(cache).free + sum(_sizes((cache / "files").glob("*")))
    if room < needed_bytes:
        return (
            f"its cache {cache} has room for {room >> 20} MiB, the base alone takes {needed_bytes >> 20}; make room, "
            "or set LUNA_CACHE there to a larger disk."
        )
    return ""


def _note_in_store(reach: Reach) -> str:
    """SHA-256 of a note that is put in the store for nodes to find; empty where none is configured.

    Raises:
        LunaError: the store cannot be written from here.
    """
    if not reach.settings.store:
        return ""
    note = temporary_beside(reach.root / MARK)
    write_atomic(note, reach.mark)
    try:
        return put(FileShelf(reach.settings.store), note)
    finally:
        note.unlink()


def _sizes(files: Iterable[Path]) -> Iterable[int]:
    for file in files:
        with suppress(OSError):
            yield file.stat().st_size
