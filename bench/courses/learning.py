"""Teaching a lesson: as a real generation in a home of its own, or with the engine alone in this process."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.courses.arms import Arm
from bench.courses.log import Trained
from cluster.ray_head import Rig, connect, head_to_stop, stop
from cluster.settings import Settings, settings_of, write_settings
from cluster.steps.planning import role_schedule
from cluster.steps.replaying import Earlier
from cluster.steps.training import TrainingFiles, trio_job
from curriculum.example import Example, unique
from curriculum.parquet import freeze, read_examples, write_examples
from curriculum.split import split_by_group
from ledger.errors import LunaError
from ledger.home import Home
from ledger.records import GenerationRow
from ledger.roles import ROLES
from ledger.store import Ledger
from trainers.engines import open_engine
from trainers.job import Engine
from trainers.models.frozen import Base, prepare_base
from trainers.runtime import default_device

LINEAGE = "stream"


@dataclass(frozen=True)
class Place:
    """Where a course is held."""

    home: Home
    settings: Settings
    base: Base


def place_of(work: Path, arm: Arm, seed: int, profile: str) -> Place:
    """The home of a course, made where it is not there yet; all courses of a stream share the base's files."""
    home, bases = Home(work / f"{arm.name}-{seed}"), work / "base"
    bases.mkdir(parents=True, exist_ok=True)
    if not home.bases_dir.exists():
        home.bases_dir.parent.mkdir(parents=True, exist_ok=True)
        home.bases_dir.symlink_to(bases.resolve(), target_is_directory=True)
    home.create()
    if not home.settings_file.exists():
        write_settings(home, profile, {"seed": seed, **arm.settings})
    settings = settings_of(home)
    return Place(home, settings, prepare_base(settings.base, home))


@contextmanager
def cluster() -> Iterator[Rig]:
    """A Ray cluster: the one that is there, or one that ends with the block."""
    rig = connect()
    try:
        yield rig
    finally:
        head = head_to_stop() if rig.started else None
        if head is not None:
            stop(head)


# -- as a generation ------------------------------------------------------------------------------------------------


def learn_as_generation(place: Place, rig: Rig, at: int, lesson: str, rows: Sequence[Example]) -> Trained:
    """Raise the lesson's generation, or take the one that an interrupted bench has raised already.

    `at` counts lessons from 1: each is one generation, whatever its verdict.
    """
    from jobs.generation.run import raise_generation
    from jobs.home import make_home

    home, cpu_s = place.home, 0.0
    make_home(home, None, rig.address, LINEAGE)
    if len(judged_generations(home)) < at:
        before = cluster_cpu_s(rig)
        sha = write_examples(home.inbox_dir, rows)
        raise_generation(home, rig.address, (sha,), note=lesson)
        (home.inbox_dir / f"{sha}.parquet").unlink(missing_ok=True)
        cpu_s = cluster_cpu_s(rig) - before
    return trained_by_generation(home, at, lesson, cpu_s)


def trained_by_generation(home: Home, at: int, lesson: str, cpu_s: float) -> Trained:
    """What the ledger says of the generation that was judged as the `at`-th, and with which adapters the line goes on.

    Raises:
        LunaError: it was not judged.
    """
    judged = judged_generations(home)
    if len(judged) < at:
        raise LunaError(f"{lesson} was not judged in {home.root}; run the bench again, it goes on there.")
    own = judged[at - 1]
    with Ledger.open(home) as ledger:
        head = ledger.head()
        shas = {} if head is None else {row.role: row.child_sha for row in ledger.generation(head)}
    return Trained(
        lesson=lesson,
        shas=shas,
        rows=sum(row.n_delta + row.n_replay for row in own),
        replayed=sum(row.n_replay for row in own),
        # A role's wall time is that of its device; roles of one device train together.
        train_cpu_s=60 * sum({row.placement: row.walltime_min * row.threads for row in own}.values()),
        cpu_s=cpu_s,
        verdict=own[0].verdict,
        reason=own[0].reason,
    )


def judged_generations(home: Home) -> list[list[GenerationRow]]:
    """The rows of every generation of a home that has its verdict, oldest first."""
    if not home.db.exists():
        return []
    with Ledger.open(home) as ledger:
        rows = ledger.rows()
    return [[row for row in rows if row.gen_id == gen] for gen in dict.fromkeys(row.gen_id for row in rows)]


def cluster_cpu_s(rig: Rig) -> float:
    """CPU seconds, user and system, of everything that a cluster on this machine has run."""
    own = re.compile(rf"--gcs-address=\S+:{rig.address.rpartition(':')[2]}\b")
    total = 0.0
    for raylet in psutil.process_iter(["name", "cmdline"]):
        if raylet.info["name"] == "raylet" and own.search(" ".join(raylet.info["cmdline"])):
            for process in (raylet, *raylet.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    total += sum(process.cpu_times()[:4])  # its own, and of children that have ended
    return total


# -- with the engine alone ------------------------------------------------------------------------------------------


def learn_with_engine(
    place: Place, engine: Engine, arm: Arm, lesson: str, rows: Sequence[Example], before: Trained | None
) -> Trained:
    """Train all roles on a lesson from where they stood, on the rows that a generation would train on."""
    home, settings = place.home, place.settings
    new = split_by_group(rows, [], settings.data.holdout_percent).train
    line: dict[int, list[Example]] = {}
    if arm.replay == "parent" and before is not None:
        line = {0: unique(read_examples(home.data_file(before.train_sha)))}
    schedules = {role: role_schedule(role, settings, new, Earlier(line, lesson), 0) for role in ROLES}
    train_sha = freeze([row for own in schedules.values() for row in own.rows], home)
    files = TrainingFiles(home.data_file(train_sha), {role: own.steps for role, own in schedules.items()})
    parents = {role: before.shas.get(role) if before else None for role in ROLES}
    job = trio_job(settings, files, parents, home.adapters_dir, home.run_dir(f"{lesson}-{train_sha[:12]}"))
    began = time.process_time()
    outcome = engine.train(job, lambda progress: None, lambda: False)
    seconds = time.process_time() - began
    return Trained(
        lesson=lesson,
        shas={role: own.adapter_sha for role, own in outcome.roles.items()},
        rows=sum(len(own.rows) for own in schedules.values()),
        replayed=sum(own.n_replay for own in schedules.values()),
        train_cpu_s=seconds,
        cpu_s=seconds,
        train_sha=train_sha,
    )


def training_engine(place: Place) -> Engine:
    """The engine that the arm's settings ask for."""
    return open_engine(place.base, place.settings.train, place.settings.lora, default_device())


def asking_engine(place: Place) -> Engine:
    """The fused engine, whichever trains: it answers alike, and several times as fast."""
    train = place.settings.train.model_copy(update={"engine": "auto"})
    return open_engine(place.base, train, place.settings.lora, default_device())
