"""`luna submit`: hand a job to Ray's job server and stream its log."""

from __future__ import annotations

import shlex
from pathlib import Path

from jobs.context import say
from ledger.errors import LunaError
from ledger.home import Home

_ROOT = Path(__file__).resolve().parent.parent


_JOBS = {
    "age-up": "jobs.age_up",
    "demo": "jobs.demo.run",
    "generation": "jobs.generation.run",
    "reward": "jobs.reward.commands",
    "teach": "jobs.teacher.commands",
}
"""Module of each job that can be submitted, by the spelling of the command line."""


def submit_job(job: str, arguments: list[str], address: str | None, home: Home) -> int:
    """Submit `python -m jobs.<job>` and follow it; returns its exit status.

    Ctrl-C stops following, not the job, and says how to come back.

    Raises:
        LunaError: there is no such job, or no cluster answers.
    """
    import asyncio

    from ray.job_submission import JobSubmissionClient

    from cluster.ray_head import connect

    if job not in _JOBS:
        raise LunaError(f"there is no job {job!r}; use one of {', '.join(_JOBS)}.")
    url = address if address and address.startswith("http") else connect(address).dashboard
    if not url:
        raise LunaError("this Ray cluster runs without a dashboard, which takes the jobs; start it with the dashboard.")
    try:
        client = JobSubmissionClient(url)
        job_id = client.submit_job(
            entrypoint=shlex.join(["python", "-m", _JOBS[job], *arguments]),
            runtime_env={"working_dir": str(_ROOT), "env_vars": {"LUNA_HOME": str(home.root)}},
        )
    except (ConnectionError, RuntimeError) as error:
        raise LunaError(f"the job server at {url} did not take the job: {error}") from error
    say(f"submitted {job_id} to {url}")
    back = f"ray job logs --address {url} -f {job_id}"

    async def stream() -> None:
        async for lines in client.tail_job_logs(job_id):
            print(lines, end="", flush=True)

    try:
        asyncio.run(stream())
    except KeyboardInterrupt:
        say(f"\nthe job goes on. Come back with `{back}`, stop it with `ray job stop --address {url} {job_id}`")
        return 0
    status = client.get_job_status(job_id)
    say(f"{job_id}: {status}")
    return 0 if str(status) == "SUCCEEDED" else 1
