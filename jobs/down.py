"""`luna down`: stop the Ray that Luna started on this machine."""

from __future__ import annotations

import logging

import typer

from jobs.context import friendly_errors
from ledger.errors import LunaError

logger = logging.getLogger(__name__)


def down(
    yes: bool = typer.Option(False, "--yes", "-y", help="Do not ask, even if a generation runs."),
) -> None:
    """Stop the Ray that Luna started on this machine. A running generation resumes later."""
    from cluster import ray_head

    with friendly_errors():
        head = ray_head.head_to_stop()
        if head is None:
            logger.info("Ray was not running")
            return
        running = "" if yes else _running_generation(head.address)
        question = f"{running} is being raised. Stop it? It goes on with the next `luna generation run`."
        if running and not typer.confirm(question, err=True):
            raise LunaError("nothing was stopped.")
        ray_head.stop(head)
        logger.info("Ray stopped")


def _running_generation(address: str) -> str:
    """Name of the generation that the coordinator of this Ray raises now, and its home; empty if none."""
    from cluster.calls import get
    from cluster.client.coordinator import find_coordinator
    from cluster.ray_head import connect

    connect(address)
    if (coordinator := find_coordinator()) is None:
        return ""
    state = get(coordinator.state.remote(), 10)
    return f"G{state.gen_id} of {get(coordinator.home.remote(), 10)}" if state.running else ""
