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
        head = ray_head.started_by_luna()
        if head is None:
            logger.info("no Ray runs here that Luna started")
            return
        running = "" if yes else _running_generation()
        question = f"{running} is being raised. Stop it? It goes on with the next `luna generation run`."
        if running and not typer.confirm(question, err=True):
            raise LunaError("nothing was stopped.")
        ray_head.stop(head)
        logger.info("Ray stopped")


def _running_generation() -> str:
    """Name of the generation that the coordinator of this Ray raises now, and its home; empty if none."""
    from cluster.calls import answer
    from cluster.coordinator import find_coordinator
    from jobs.status import join_running_ray

    if not join_running_ray() or (coordinator := find_coordinator()) is None:
        return ""
    state = answer(coordinator.state.remote(), 10)
    return f"G{state['gen_id']} of {answer(coordinator.home.remote(), 10)}" if state["running"] else ""
