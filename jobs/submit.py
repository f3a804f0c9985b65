"""`luna submit`: hand a command to Ray's job server and stream its log."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path
from typing import Any

import typer

from jobs.context import ADDRESS_OPTION, ERROR, HOME_OPTION, INTERRUPTED, UsageError, friendly_errors, resolve_home
from ledger.errors import LunaError
from ledger.home import Home

logger = logging.getLogger(__name__)

_ROOT = Path(__file__).resolve().parent.parent

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
    """Where the job works: in a copy of the checkout without its home; an installed Luna needs none."""
    environment: dict[str, Any] = {"env_vars": {"LUNA_HOME": str(home.root)}}
    if (root / "pyproject.toml").exists():
        environment["working_dir"] = str(root)
        if home.root.is_relative_to(root):
            environment["excludes"] = [f"/{home.root.relative_to(root)}"]
    return environment


def submit_job(job: str, arguments: list[str], address: str | None, home: Home) -> int:
    """Submit a job and follow it; returns its exit status, or 130 after Ctrl-C, which stops following and not the job.

    Raises:
        LunaError: there is no such job, or no cluster answers.
    """
    import asyncio

    from ray.job_submission import JobSubmissionClient

    from cluster.ray_head import connect

    command = entrypoint(job, arguments)
    url = address if address and address.startswith("http") else connect(address).dashboard
    if not url:
        raise LunaError("this Ray cluster runs without a dashboard, which takes the jobs; start it with the dashboard.")
    try:
        client = JobSubmissionClient(url)
        job_id = client.submit_job(
            entrypoint=command,
            runtime_env=runtime_env(home, _ROOT),
        )
    except (ConnectionError, RuntimeError) as error:
        raise LunaError(f"the job server at {url} did not take the job: {error}") from error
    logger.info(f"submitted {job_id} to {url}")

    async def stream() -> None:
        async for lines in client.tail_job_logs(job_id):
            print(lines, end="", flush=True)

    try:
        asyncio.run(stream())
    except KeyboardInterrupt:
        back, end = f"ray job logs --address {url} -f {job_id}", f"ray job stop --address {url} {job_id}"
        logger.info(f"the job goes on. Come back with `{back}`, stop it with `{end}`")
        return INTERRUPTED
    ended = client.get_job_info(job_id)
    logger.info(f"{job_id}: {ended.status}")
    if str(ended.status) == "SUCCEEDED":
        return 0
    return ended.driver_exit_code or ERROR
