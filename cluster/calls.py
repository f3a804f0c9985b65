"""Asking actors, with a user's errors unwrapped, and asking Ray where one is."""

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


def is_placed(actor: Any) -> bool:
    """Whether Ray has found a node for an actor, by its own table: no public call asks for one actor alone."""
    found = ray._private.state.actors(actor._actor_id.hex())
    return bool(found and found["Address"]["NodeID"].strip("f"))  # all f: none yet
