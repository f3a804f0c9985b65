"""Conversations that are stored as a tree of messages, since an answer can be asked for again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from curriculum.importing.formats.values import kind_of
from curriculum.importing.found import Note
from ledger.errors import LunaError


def branch(nodes: object, current: object, parent: str) -> list[Mapping[str, Any]]:
    """The nodes from the root to the current one, by each node's link to its parent. Without a current node, to the
    last one that has no children.

    Raises:
        LunaError: it is no tree.
    """
    if not isinstance(nodes, Mapping):
        raise LunaError(f"its messages must be an object of nodes, found {kind_of(nodes)}")
    if not isinstance(current, str) or current not in nodes:
        parents = {_link(node, parent) for node in nodes.values()}
        current = next((name for name in reversed(list(nodes)) if name not in parents), None)
    path: list[Mapping[str, Any]] = []
    seen: set[str] = set()
    while isinstance(current, str) and current in nodes:
        if current in seen:
            raise LunaError("its messages are each other's parents")
        seen.add(current)
        node = nodes[current]
        if not isinstance(node, Mapping):
            raise LunaError(f"one of its messages is {kind_of(node)}, not an object")
        path.append(node)
        current = _link(node, parent)
    return path[::-1]


def note_others(nodes: Mapping[str, Any], shown: Sequence[Mapping[str, Any]], note: Note) -> None:
    """Tell of the messages beside the branch that is read, such as an answer that was asked for again."""
    read = {id(node) for node in shown}
    for node in nodes.values():
        if id(node) not in read and isinstance(node, Mapping) and node.get("message", node) is not None:
            note("messages of branches other than the one last shown")


def _link(node: object, parent: str) -> str | None:
    link = node.get(parent) if isinstance(node, Mapping) else None
    return link if isinstance(link, str) else None
