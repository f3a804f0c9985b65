"""Asking actors, with a user's errors unwrapped, and asking Ray whether one runs."""

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
