"""`luna submit` and `luna jobs`: hand a command to Ray's job server, follow it, list and stop what it has."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table

from jobs.context import ADDRESS_OPTION, HOME_OPTION, INTERRUPTED, JSON_OPTION, friendly_errors, out, resolve_home
from jobs.submit.request import JOBS, JobRequest, job_request
from jobs.submit.server import JobServer, command, exit_status, follow, job_of, job_server, jobs_of, submitted
from jobs.submit.stopping import stop as stop_and_wait

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

logger = logging.getLogger(__name__)

app = typer.Typer(no_args_is_help=True, help="The jobs that were submitted to Ray: list, follow, stop.")

JOB_ARGUMENT = typer.Argument(..., help="A job's id, as `luna submit` says it.")


def submit(
    job: str = typer.Argument(..., help=f"One of {', '.join(JOBS)}."),
    arguments: list[str] = typer.Argument(None, help="Its own options, after --."),
    wait: bool = typer.Option(True, help="Stream its log until it ends."),
    submission_id: str | None = typer.Option(
        None, help="An id of your own; submitting it again joins the job that has it.", show_default=False
    ),
    address: str | None = ADDRESS_OPTION,
    home: Path | None = HOME_OPTION,
) -> None:
    """Submit a job to Ray and stream its log; ends with the job's exit status. Ctrl-C leaves the job running."""
    with friendly_errors():
        request = job_request(job, arguments or [], resolve_home(home), submission_id)
        raise typer.Exit(submit_job(request, address, wait))


def submit_job(request: JobRequest, address: str | None, wait: bool = True) -> int:
    """Submit a job and follow it; returns its exit status, or 130 after Ctrl-C, which stops following and not the job.

    Raises:
        LunaError: no cluster answers, or it refuses the job.
    """
    with job_server(address, start=True) as server:
        job_id = submitted(server, request)
        logger.info(f"submitted {job_id} to {server.url}")
        if wait:
            return _followed(server, job_id)
        logger.info(f"follow it with `{command('logs', server, job_id)}`")
        out.print(job_id, markup=False)
        return 0


@app.command("list")
def list_(json_: bool = JSON_OPTION, address: str | None = ADDRESS_OPTION) -> None:
    """The jobs of a cluster, newest first."""
    with friendly_errors(), job_server(address) as server:
        found = jobs_of(server)
        if json_:
            out.print_json(json.dumps([_plain(one) for one in found]))
        else:
            out.print(_table(found) if found else "no job was submitted yet")


@app.command()
def logs(job: str = JOB_ARGUMENT, address: str | None = ADDRESS_OPTION) -> None:
    """A job's log from its beginning, followed until it ends; ends with the job's exit status."""
    with friendly_errors(), job_server(address) as server:
        job_of(server, job)
        raise typer.Exit(_followed(server, job))


@app.command()
def stop(
    job: str = JOB_ARGUMENT,
    wait_s: float = typer.Option(60.0, "--wait-s", min=0, help="Longest wait for a safe point, in seconds."),
    address: str | None = ADDRESS_OPTION,
) -> None:
    """Stop a job. A generation that it raises pauses at its next safe point, and the next run resumes it there."""
    with friendly_errors(), job_server(address) as server:
        out.print(stop_and_wait(server, job, wait_s), markup=False, soft_wrap=True)


def _followed(server: JobServer, job_id: str) -> int:
    try:
        ended = follow(server, job_id)
    except KeyboardInterrupt:
        back, end = command("logs", server, job_id), command("stop", server, job_id)
        logger.info(f"the job goes on. Come back with `{back}`, stop it with `{end}`")
        return INTERRUPTED
    logger.info(f"{job_id}: {ended.status}")
    return exit_status(ended)


def _table(found: Sequence[JobDetails]) -> Table:
    table = Table("job", "status", "lineage", "generation", "role", "started", "command")
    for one in found:
        told = one.metadata or {}
        names = (told.get(name, "–") for name in ("lineage", "generation", "role"))
        began = _at(one.start_time)
        table.add_row(
            one.submission_id, str(one.status), *names, began, one.entrypoint.removeprefix("python -m jobs.cli ")
        )
    return table


def _plain(one: JobDetails) -> dict[str, Any]:
    return {
        "job": one.submission_id,
        "status": str(one.status),
        "metadata": one.metadata or {},
        "command": one.entrypoint,
        "started": _at(one.start_time),
        "ended": _at(one.end_time),
        "exit_status": one.driver_exit_code,
    }


def _at(milliseconds: int | None) -> str:
    """A time of Ray's, as the ledger writes times; empty if there is none."""
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}" if milliseconds else ""
