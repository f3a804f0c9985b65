"""What runs now, asked without starting anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ledger.home import Home
from ledger.store import Ledger


def running_now(home: Home) -> tuple[dict[str, Any] | None, str]:
    """(the coordinator's state, dashboard URL); (None, "") when no Ray runs here or it works for another home."""
    Ledger.open(home).close()
    if not Path("/tmp/ray/ray_current_cluster").exists():  # Ray's own note of a local cluster; spares 5 s of import
        return None, ""
    import ray

    from cluster.calls import answer
    from cluster.coordinator import find_coordinator
    from cluster.rig import NAMESPACE, describe, forget_dead_cluster

    forget_dead_cluster()
    try:
        ray.init(address="auto", namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
    except ConnectionError:
        return None, ""
    rig = describe(started=False)
    actor = find_coordinator()
    if actor is None or answer(actor.home.remote(), 10) != str(home.root.resolve()):
        return None, rig.dashboard
    state: dict[str, Any] = answer(actor.state.remote(), 10)
    return state, rig.dashboard
