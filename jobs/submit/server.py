"""Speaking with Ray's job server: submitting, following a log through broken connections, listing."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobs.context import ERROR
from jobs.http import without_proxies
from jobs.submit.request import JobRequest
from ledger.errors import LunaError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

logger = logging.getLogger(__name__)

ENDED = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})

_LOST_FOR_S = 120.0
"""How long a job server may be away before following gives up."""

_BETWEEN_TRIES_S = 2.0


@dataclass(frozen=True)
class JobServer:
    """A job server that answers."""

    url: str
    client: JobSubmissionClient


@contextmanager
def job_server(address: str | None, start: bool = False) -> Iterator[JobServer]:
    """The job server that --address or RAY_ADDRESS names, or that of the cluster they name or this machine has.

    Args:
        start: whether to start Ray where none is named and none runs.

    Raises:
        LunaError: none answers.
    """
    url = _url(address, start)
    with without_proxies(url):
        yield JobServer(url, _client(url))


def _url(address: str | None, start: bool) -> str:
    from cluster.ray_head import connect, describe, join_running

    named = address or os.environ.get("RAY_ADDRESS") or ""
    if named.lower().startswith(("http://", "https://")):
        return named
    if start or named:
        url = connect(address).dashboard
    elif join_running():
        url = describe(started=False).dashboard
    else:
        raise LunaError("no Ray runs on this machine, so there are no jobs; name another cluster with --address.")
    if not url:
        raise LunaError("this Ray cluster runs without a dashboard, which takes the jobs; start it with the dashboard.")
    return url


def _client(url: str) -> JobSubmissionClient:
    from ray.job_submission import JobSubmissionClient

    from cluster.access.token import agree_with_job_server

    agree_with_job_server(url)
    try:
        return JobSubmissionClient(url)
    except Exception as error:  # Ray passes on whatever a reply that is not its own leads to
        raise LunaError(f"the job server at {url} did not take the job: {_told(error)}") from error


def submitted(server: JobServer, request: JobRequest) -> str:
    """Submit a job; returns its id. One that has the id already is joined if it is the same command.

    Raises:
        LunaError: the server refuses, or the id is another job's.
    """
    try:
        return server.client.submit_job(
            entrypoint=request.entrypoint,
            runtime_env=request.runtime_env,
            metadata=request.metadata,
            submission_id=request.submission_id,
        )
    except Exception as error:  # of whatever client Ray uses for it
        if "already exists" not in str(error):
            raise LunaError(f"the job server at {server.url} did not take the job: {_told(error)}") from error
    other = job_of(server, request.submission_id)
    if other.entrypoint != request.entrypoint:
        raise LunaError(
            f"the id {request.submission_id} is already that of another job, `{other.entrypoint}`; choose another."
        )
    logger.info(f"{request.submission_id} was submitted before; joining it")
    return request.submission_id


def job_of(server: JobServer, job_id: str) -> JobDetails:
    """What the server knows of a job.

    Raises:
        LunaError: there is no such job, or the server does not answer.
    """
    try:
        return server.client.get_job_info(job_id)
    except Exception as error:
        if "does not exist" in str(error):
            raise LunaError(f"there is no job {job_id} at {server.url}; `luna jobs list` shows them.") from error
        raise LunaError(f"the job server at {server.url} does not answer: {_told(error)}") from error


def jobs_of(server: JobServer) -> list[JobDetails]:
    """The jobs that were submitted to this server, newest first.

    Raises:
        LunaError: the server does not answer.
    """
    try:
        found = [one for one in server.client.list_jobs() if one.submission_id]
    except Exception as error:
        raise LunaError(f"the job server at {server.url} does not answer: {_told(error)}") from error
    return sorted(found, key=lambda one: one.start_time or 0, reverse=True)


def follow(server: JobServer, job_id: str) -> JobDetails:
    """Print a job's log until it has ended, from its beginning; a connection that breaks is made again.

    Raises:
        LunaError: the server stays away.
    """
    shown, answered_at = _Shown(), time.monotonic()
    while True:
        whole = _stream_once(server.client, job_id, shown)
        try:
            found = server.client.get_job_info(job_id)
            answered_at = time.monotonic()
            if str(found.status) in ENDED:
                if not whole:
                    _print_rest(server.client, job_id, shown)
                return found
        except Exception as error:
            if time.monotonic() - answered_at > _LOST_FOR_S:
                raise LunaError(
                    f"the job server at {server.url} stays away ({_told(error)}); the job may go on. Come back with "
                    f"`{command('logs', server, job_id)}`."
                ) from error
        time.sleep(_BETWEEN_TRIES_S)


@dataclass
class _Shown:
    characters: int = 0
    """Printed already: a log that is asked for again begins at its beginning."""
    told: bool = False
    """Whether it was said that the connection breaks."""


def _stream_once(client: JobSubmissionClient, job_id: str, shown: _Shown) -> bool:
    """Print what the log has beyond what is shown, until it ends or the connection breaks; whether it ended."""
    try:
        asyncio.run(_stream(client, job_id, shown))
    except Exception as error:  # of whatever client Ray uses for it
        if not shown.told:
            logger.info(f"the job's log broke off ({_told(error)}); it is asked for again")
        shown.told = True
        return False
    return True


def _print_rest(client: JobSubmissionClient, job_id: str, shown: _Shown) -> None:
    """Print the end of the log of a job that ended while the connection was broken."""
    try:
        print(client.get_job_logs(job_id)[shown.characters :], end="", flush=True)
    except Exception as error:
        logger.info(f"the end of the job's log cannot be had ({_told(error)}); the node that it ran on may be gone")


async def _stream(client: JobSubmissionClient, job_id: str, shown: _Shown) -> None:
    read = 0
    async for lines in client.tail_job_logs(job_id):
        new = lines[max(0, shown.characters - read) :]
        read += len(lines)
        if new:
            print(new, end="", flush=True)
            shown.characters = read


def exit_status(found: Any) -> int:
    """What a command that waited for the job ends with."""
    if str(found.status) == "SUCCEEDED":
        return 0
    return found.driver_exit_code or ERROR


def command(name: str, server: JobServer, job_id: str) -> str:
    """A `luna jobs` command for a job, as a user would type it."""
    return f"luna jobs {name} --address {server.url} {job_id}"


def _told(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
