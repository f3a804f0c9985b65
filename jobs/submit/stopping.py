"""Ending a job: the generation that it raises pauses at a safe point first, so that nothing trained is lost."""

from __future__ import annotations

import time
from typing import Any

from jobs.submit.request import RAISING
from jobs.submit.server import ENDED, JobServer, job_of
from ledger.errors import LunaError

_LOOK_EVERY_S = 0.5


def stop(server: JobServer, job_id: str, wait_s: float) -> str:
    """Stop a job and wait until it has ended and its generation stands still; returns what came of it, a sentence.

    Args:
        wait_s: longest wait. What was asked for goes on behind it.

    Raises:
        LunaError: there is no such job, or it did not end in time.
    """
    found = job_of(server, job_id)
    if str(found.status) in ENDED:
        return f"{job_id} had ended already: {found.status}"
    coordinator = _coordinator_of(found.metadata or {})
    deadline, asked = time.monotonic() + wait_s, False
    while True:
        at_rest = coordinator is None or _paused(coordinator)
        if not asked:
            server.client.stop_job(job_id)  # after the coordinator was asked: Ray's patience ends after seconds
            asked = True
        ended = str(job_of(server, job_id).status)
        if at_rest and ended in ENDED:
            return f"{job_id}: {ended}{_where_it_stands(coordinator)}"
        if time.monotonic() > deadline:
            raise LunaError(
                f"{job_id} was asked to stop and has not come to a safe point within {wait_s:g} s "
                f"({ended}); it goes on towards one. `luna status` and `luna jobs list` show when it is there."
            )
        time.sleep(_LOOK_EVERY_S)


def _coordinator_of(metadata: dict[str, str]) -> Any | None:
    """The coordinator that raises a job's generation; None where it raises none, or only a job server is known.

    With a job server alone the job itself asks for the pause, when Ray tells it to end.
    """
    import ray

    from cluster.client.coordinator import ask, find_coordinator

    if metadata.get("job") not in RAISING or not ray.is_initialized():
        return None
    actor = find_coordinator()
    return actor if actor is not None and ask(actor, "home") == metadata.get("home") else None


def _paused(coordinator: Any) -> bool:
    """Ask what runs to pause; whether nothing runs any longer."""
    from cluster.client.coordinator import ask

    return not ask(coordinator, "pause")


def _where_it_stands(coordinator: Any | None) -> str:
    """How the coordinator's run ended, as the rest of a sentence."""
    from cluster.client.coordinator import ask

    if coordinator is None:
        return ""
    state = ask(coordinator, "state")
    if state.ended is None:
        return ""
    if state.ended.state == "paused":
        return f"; G{state.gen_id} is paused, `luna generation run` resumes it"
    return f"; G{state.gen_id}: {state.ended.state}, {state.ended.reason}"
