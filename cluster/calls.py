"""Asking actors, with a user's errors unwrapped, asking Ray whether one runs, and where those run that read luna.db."""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import RayTaskError

from ledger.errors import LunaError


def get(reference: Any, timeout_s: float | None = None) -> Any:
    """`ray.get`, but a LunaError raised in the actor is raised here as itself, without the remote traceback."""
    try:
        return ray.get(reference, timeout=timeout_s)
    except RayTaskError as error:
        if isinstance(error.cause, LunaError):
            raise error.cause from None
        raise


def waits_to_start(actor: Any) -> bool:
    """Whether Ray has yet to start an actor's process, by its own table: no public call asks about one actor."""
    found = ray._private.state.actors(actor._actor_id.hex())
    return bool(found) and found["State"] in ("DEPENDENCIES_UNREADY", "PENDING_CREATION", "RESTARTING")


def ledger_node(node: str = "") -> dict[str, Any]:
    """Options of an actor that keep it on the node whose disk has `luna.db`: SQLite's write-ahead log is safe on one
    machine alone, never over NFS.

    That is the head, where the rig marks it by the resource `luna_head`; else `node`.

    Args:
        node: Ray's id; by default that of the caller, who has just read the home's settings there.
    """
    if "luna_head" in ray.cluster_resources():
        return {"resources": {"luna_head": 0.001}}
    return {"label_selector": {"ray.io/node-id": node or ray.get_runtime_context().get_node_id()}}
