"""From a plan to the jobs of the trainers, and from their outcomes to the record."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.placement import Placement
from cluster.request import RunSpec
from cluster.settings import Settings
from cluster.steps.records import Collected, Planned, Trained, TrainedRole
from ledger.clock import utc_now
from ledger.home import Home
from ledger.logs import log_context
from ledger.roles import Role
from trainers.job import TrioJob, TrioOutcome

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingFiles:
    """What is trained on, as files, and in how many steps."""

    rows: Path
    """Every row of every step of every role."""
    role_steps: Mapping[Role, int]
    pairs: Path | None = None
    rewards: Path | None = None
    delta: Path | None = None
    """The new examples among the rows."""


def planned_files(home: Home, planned: Planned) -> TrainingFiles:
    """The files of a plan."""
    channels = planned.channels
    return TrainingFiles(
        rows=home.data_file(planned.examples.train_sha),
        role_steps=planned.examples.steps,
        pairs=home.data_file(channels.pref_sha) if channels.pref_sha else None,
        rewards=home.data_file(channels.rewards_sha) if channels.rewards_sha else None,
        delta=home.data_file(planned.examples.delta_sha),
    )


def trio_job(
    settings: Settings, files: TrainingFiles, parents: Mapping[Role, str | None], adapters_dir: Path, run_dir: Path
) -> TrioJob:
    """The job of the roles that share one device: those that `parents` names."""
    return TrioJob(
        roles=tuple(parents),
        parents=dict(parents),
        train_file=str(files.rows),
        role_steps={role: files.role_steps[role] for role in parents},
        adapters_dir=str(adapters_dir),
        run_dir=str(run_dir),
        seed=settings.seed,
        train=settings.train,
        lora=settings.lora,
        channels=settings.channels,
        preference_file=str(files.pairs) if files.pairs else None,
        rewards_file=str(files.rewards) if files.rewards else None,
        health=settings.health,
        delta_file=str(files.delta) if files.delta else None,
        text=settings.text,
    )


def trio_jobs(
    spec: RunSpec, placements: Iterable[Placement], collected: Collected, planned: Planned
) -> dict[Placement, TrioJob]:
    """A plan's job on each device."""
    home, parents, files = spec.home, collected.parent_shas, planned_files(spec.home, planned)
    return {
        place: trio_job(
            spec.settings,
            files,
            {role: parents.get(role) for role in place.roles},
            home.adapters_dir,
            spec.folder / place.name,
        )
        for place in placements
    }


def trained_roles(done: Mapping[Placement, TrioOutcome]) -> Trained:
    """The record of finished jobs; logs where updates were not made."""
    roles = {
        role: TrainedRole(outcome=outcome, engine=whole.engine, placement=placement.name, seconds=whole.seconds)
        for placement, whole in done.items()
        for role, outcome in whole.roles.items()
    }
    for role, trained in roles.items():
        if trained.outcome.skipped_updates:
            held = ", ".join(f"{count} × {action}" for action, count in sorted(trained.outcome.skipped_updates.items()))
            with log_context(role=role):
                logger.info("steps that moved nothing: %s", held)
    return Trained(roles=roles, trained_at=utc_now())
