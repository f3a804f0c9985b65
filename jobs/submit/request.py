"""What is submitted: the command, where it works, what it says of itself, and its id."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

from jobs.context import UsageError
from ledger.errors import LunaError
from ledger.home import Home
from ledger.roles import ROLES
from ledger.store import Stores

ROOT = Path(__file__).resolve().parent.parent.parent
"""The checkout, or where an installed Luna's packages lie."""

HOME_FILES = frozenset({"luna.toml", "luna.db"})
"""What makes a folder a home."""

JOBS = {
    "age-up": ("age-up",),
    "curriculum": ("curriculum",),
    "demo": ("demo",),
    "generation": ("generation", "run"),
    "regress": ("regress",),
    "reproduce": ("reproduce",),
    "reward": ("reward",),
    "teach": ("teach",),
}
"""What can be submitted, and the command of the command line that it is."""

RAISING = frozenset({"age-up", "demo", "generation"})
"""Jobs whose work is a generation in the coordinator, which can pause."""

_NAMING_A_GENERATION = frozenset({"regress", "reproduce"})


@dataclass(frozen=True)
class JobRequest:
    """All that Ray's job server is given."""

    entrypoint: str
    runtime_env: dict[str, Any]
    metadata: dict[str, str]
    submission_id: str


def job_request(job: str, arguments: Sequence[str], home: Home, submission_id: str | None = None) -> JobRequest:
    """The request for a job of a home.

    Args:
        submission_id: the user's own; asked for again it means the job that has it.

    Raises:
        UsageError: there is no such job, or the id cannot be one.
    """
    command, metadata = entrypoint(job, arguments), metadata_of(job, arguments, home)
    chosen = new_id(job, metadata) if submission_id is None else _checked_id(submission_id)
    return JobRequest(command, runtime_env(home, ROOT), metadata, chosen)


def entrypoint(job: str, arguments: Sequence[str]) -> str:
    """The command line that Ray runs.

    Raises:
        UsageError: there is no such job.
    """
    if job not in JOBS:
        raise UsageError(f"there is no job {job!r}; use one of {', '.join(JOBS)}.")
    return shlex.join(["python", "-m", "jobs.cli", *JOBS[job], *arguments])


def metadata_of(job: str, arguments: Sequence[str], home: Home) -> dict[str, str]:
    """What the dashboard shows of a job and `luna jobs list` tells: strings, as Ray keeps them.

    `lineage` and `generation` are missing where the home is not on this machine or has none yet.
    """
    told = {"luna": version("luna"), "job": job, "home": str(home.root.resolve()), "role": _role(arguments)}
    lineage, following = _lineage_and_next(home)
    if lineage is not None:
        told["lineage"] = lineage
    if job in RAISING and following is not None:
        told["generation"] = f"G{following}"
    elif job in _NAMING_A_GENERATION and arguments and re.fullmatch(r"[gG]?\d+", arguments[0]):
        told["generation"] = f"G{arguments[0].lower().removeprefix('g')}"
    return told


def _role(arguments: Sequence[str]) -> str:
    """The role that the arguments name; all three if none."""
    named = [value for name, value in pairwise(arguments) if name == "--role"]
    named += [one.removeprefix("--role=") for one in arguments if one.startswith("--role=")]
    return named[-1] if named else "+".join(ROLES)


def _lineage_and_next(home: Home) -> tuple[str | None, int | None]:
    """The current lineage and the number of the generation that is in work there or would be next."""
    try:
        with Stores.open(home) as stores:
            if not stores.ledger.lineages():
                return None, None
            lineage = stores.ledger.current_lineage()
            run = stores.journal.open_run(lineage)
            return lineage, run.gen_id if run else stores.ledger.next_gen_id(lineage)
    except LunaError:  # the job may make its home, or it lies on the cluster
        return None, None


def new_id(job: str, metadata: dict[str, str]) -> str:
    """An id that tells what the job is: `luna-generation-main-g3-1f0c22ab`."""
    named = "-".join(["luna", job, metadata.get("lineage", ""), metadata.get("generation", "").lower()])
    return re.sub(r"[^A-Za-z0-9_]+", "-", f"{named}-{secrets.token_hex(4)}")


def _checked_id(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", text):
        raise UsageError(
            f"{text!r} cannot be a job's id: use up to 100 letters, digits, dots, hyphens and underscores."
        )
    return text


def runtime_env(home: Home, root: Path) -> dict[str, Any]:
    """Where the job works: in a copy of the checkout's program (`.rayignore`) without any home; an installed Luna needs
    none."""
    environment: dict[str, Any] = {"env_vars": {"LUNA_HOME": str(home.root)}}
    if is_checkout(root):
        environment["working_dir"] = str(root)
        homes = {place.relative_to(root) for place in (home.root, *homes_within(root)) if place.is_relative_to(root)}
        environment["excludes"] = [_exactly(place) for place in sorted(homes - {Path()})]
    return environment


def is_checkout(root: Path) -> bool:
    """Whether a folder is Luna's checkout: packages of others leave a pyproject.toml among the installed ones, too."""
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
    except (OSError, ValueError):
        return False
    return isinstance(project, dict) and project.get("name") == "luna"


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
