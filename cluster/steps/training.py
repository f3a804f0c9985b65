"""From a plan to the jobs of the trainers, and from their outcomes to the record."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from cluster.placement import Groups, Placement
from cluster.request import RunSpec
from cluster.settings import Settings
from cluster.steps.records import Collected, Planned, Trained, TrainedRole, TrainingNotes
from ledger.clock import utc_now
from ledger.home import Home
from ledger.journal import RunJournal
from ledger.logs import log_context
from ledger.roles import Role
from trainers.job import MicroBatches, TrioJob, TrioOutcome

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
    settings: Settings,
    files: TrainingFiles,
    parents: Mapping[Role, str | None],
    adapters_dir: Path,
    run_dir: Path,
    micro_batches: MicroBatches = (),
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
        train=settings.train.of_child() if any(parents.values()) else settings.train,
        lora=settings.lora,
        channels=settings.channels,
        preference_file=str(files.pairs) if files.pairs else None,
        rewards_file=str(files.rewards) if files.rewards else None,
        health=settings.health,
        delta_file=str(files.delta) if files.delta else None,
        text=settings.text,
        micro_batches=micro_batches,
    )


def trio_jobs(spec: RunSpec, notes: TrainingNotes, collected: Collected, planned: Planned) -> dict[Placement, TrioJob]:
    """A plan's job of each group that has not finished."""
    home, parents, files = spec.home, collected.parent_shas, planned_files(spec.home, planned)
    settings = spec.settings.on_shards(notes.sharded)
    return {
        group: trio_job(
            settings,
            files,
            {role: parents.get(role) for role in group.roles},
            home.adapters_dir,
            spec.folder / group.name,
            notes.micro_batches.get(group.name, ()),
        )
        for group in notes.left
    }


def training_notes(journal: RunJournal, run_id: str) -> TrainingNotes | None:
    """What a run's journal knows of its training; None before that began, or where an earlier version began it."""
    known = journal.notes(run_id, "train")
    if known is not None:
        with suppress(ValidationError):
            return TrainingNotes.model_validate(known)
    return None


class NotedTraining:
    """What a run's journal knows of its training, written down anew with all that comes to it."""

    def __init__(self, journal: RunJournal, run_id: str):
        self._journal, self._run_id = journal, run_id
        self.known = training_notes(journal, run_id) or TrainingNotes(placements=())

    @property
    def groups(self) -> Groups | None:
        """How the run began to train; None before it has."""
        return self.known.groups

    def begin(self, groups: Groups) -> None:
        """Note the groups that are trained."""
        self._note(self.known.begun(groups))

    def add_outcome(self, group: Placement, outcome: TrioOutcome) -> None:
        """Note that a group has finished."""
        self._note(self.known.with_outcome(group, outcome))

    def add_micro_batches(self, group: Placement, raised: MicroBatches) -> None:
        """Note that a group's steps are cut in more parts."""
        self._note(self.known.with_micro_batches(group, raised))

    def _note(self, notes: TrainingNotes) -> None:
        self._journal.note(self._run_id, "train", notes.model_dump(mode="json"))
        self.known = notes


def trained_roles(notes: TrainingNotes) -> Trained:
    """The record of finished groups; logs where updates were not made."""
    roles = {
        role: TrainedRole(
            outcome=outcome,
            engine=whole.engine,
            placement=group.name,
            seconds=whole.seconds,
            micro_batches=notes.micro_batches.get(group.name, ()),
        )
        for group, whole in notes.outcomes.items()
        for role, outcome in whole.roles.items()
    }
    for role, trained in roles.items():
        if trained.outcome.skipped_updates:
            held = ", ".join(f"{count} × {action}" for action, count in sorted(trained.outcome.skipped_updates.items()))
            with log_context(role=role):
                logger.info("steps that moved nothing: %s", held)
    return Trained(roles=roles, trained_at=utc_now())
