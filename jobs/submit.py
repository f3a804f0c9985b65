"""`luna submit`: hand a command to Ray's job server and stream its log."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from jobs.context import ADDRESS_OPTION, ERROR, HOME_OPTION, INTERRUPTED, UsageError, friendly_errors, resolve_home
from jobs.http import without_proxies
from ledger.errors import LunaError
from ledger.home import Home

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

logger = logging.getLogger(__name__)

_ROOT = Path(__file__).resolve().parent.parent

HOME_FILES = frozenset({"luna.toml", "luna.db"})
"""What makes a folder a home."""

JOBS = {
    "age-up": ("age-up",),
    "demo": ("demo",),
    "generation": ("generation", "run"),
    "regress": ("regress",),
    "reproduce": ("reproduce",),
    "reward": ("reward",),
    "teach": ("teach",),
}
"""What can be submitted, and the command of the command line that it is."""


def submit(
    job: str = typer.Argument(..., help=f"One of {', '.join(JOBS)}."),
    arguments: list[str] = typer.Argument(None, help="Its own options, after --."),
    address: str | None = ADDRESS_OPTION,
    home: Path | None = HOME_OPTION,
) -> None:
    """Submit a job to Ray and stream its log; ends with the job's exit status. Ctrl-C leaves the job running."""
    with friendly_errors():
        raise typer.Exit(submit_job(job, arguments or [], address, resolve_home(home)))


def entrypoint(job: str, arguments: list[str]) -> str:
    """The command line that Ray runs.

    Raises:
        UsageError: there is no such job.
    """
    if job not in JOBS:
        raise UsageError(f"there is no job {job!r}; use one of {', '.join(JOBS)}.")
    return shlex.join(["python", "-m", "jobs.cli", *JOBS[job], *arguments])


def runtime_env(home: Home, root: Path) -> dict[str, Any]:
    """Where the job works: in a copy of the checkout's program (`.rayignore`) without any home; an installed Luna needs
    none."""
    environment: dict[str, Any] = {"env_vars": {"LUNA_HOME": str(home.root)}}
    if (root / "pyproject.toml").exists():
        environment["working_dir"] = str(root)
        homes = {place.relative_to(root) for place in (home.root, *homes_within(root)) if place.is_relative_to(root)}
        environment["excludes"] = [_exactly(place) for place in sorted(homes - {Path()})]
    return environment


def homes_within(root: Path) -> Iterator[Path]:
    """Folders of a checkout that are Luna homes, under whatever name."""
    for folder, inner, files in os.walk(root):
        if Path(folder) != root and (not HOME_FILES.isdisjoint(files) or (Path(folder) / "models" / "base").is_dir()):
            inner.clear()
            yield Path(folder)
        inner[:] = [name for name in inner if not name.startswith(".") and name != "__pycache__"]


def _exactly(place: Path) -> str:
    """A pattern of .gitignore's kind that stands for one path."""
    return "/" + re.sub(r"([\\\[\]*?!# ])", r"\\\1", place.as_posix())


def submit_job(job: str, arguments: list[str], address: str | None, home: Home) -> int:
    """Submit a job and follow it; returns its exit status, or 130 after Ctrl-C, which stops following and not the job.

    Raises:
        LunaError: there is no such job, or no cluster answers.
    """
    command, url = entrypoint(job, arguments), _job_server(address)
    with without_proxies(url):
        client, job_id = _submitted(url, command, runtime_env(home, _ROOT))
        logger.info(f"submitted {job_id} to {url}")
        back, end = f"ray job logs --address {url} -f {job_id}", f"ray job stop --address {url} {job_id}"
        try:
            asyncio.run(_stream(client, job_id))
            ended = client.get_job_info(job_id)
        except KeyboardInterrupt:
            logger.info(f"the job goes on. Come back with `{back}`, stop it with `{end}`")
            return INTERRUPTED
        except Exception as error:  # of whatever client Ray uses for it
            raise LunaError(f"the job's log broke off ({_told(error)}); the job goes on. Come back with `{back}`, stop "
                            f"it with `{end}`.") from error  # fmt: skip
    logger.info(f"{job_id}: {ended.status}")
    if str(ended.status) == "SUCCEEDED":
        return 0
    return ended.driver_exit_code or ERROR


def _job_server(address: str | None) -> str:
    """The job server that --address or RAY_ADDRESS names, or that of the cluster they name or this machine has."""
    from cluster.ray_head import connect

    named = address or os.environ.get("RAY_ADDRESS") or ""
    url = named if named.lower().startswith(("http://", "https://")) else connect(address).dashboard
    if not url:
        raise LunaError("this Ray cluster runs without a dashboard, which takes the jobs; start it with the dashboard.")
    return url


def _submitted(url: str, command: str, environment: dict[str, Any]) -> tuple[JobSubmissionClient, str]:
    from ray.job_submission import JobSubmissionClient

    try:
        client = JobSubmissionClient(url)
        return client, client.submit_job(entrypoint=command, runtime_env=environment)
    except Exception as error:  # Ray passes on whatever a reply that is not its own leads to
        raise LunaError(f"the job server at {url} did not take the job: {_told(error)}") from error


async def _stream(client: JobSubmissionClient, job_id: str) -> None:
    async for lines in client.tail_job_logs(job_id):
        print(lines, end="", flush=True)


def _told(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
