"""From a plan to the jobs of the trainers, and from their outcomes to the record."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from cluster.placement import Placement
from cluster.request import RunSpec
from cluster.steps.records import Collected, Planned, Trained, TrainedRole
from ledger.clock import utc_now
from ledger.logs import log_context
from trainers.job import TrioJob, TrioOutcome

logger = logging.getLogger(__name__)


def trio_job(spec: RunSpec, placement: Placement, collected: Collected, planned: Planned) -> TrioJob:
    """The job of the roles that share one device."""
    home, settings, channels = spec.home, spec.settings, planned.channels
    return TrioJob(
        roles=placement.roles,
        parents={role: collected.parent_shas.get(role) for role in placement.roles},
        train_file=str(home.data_file(planned.examples.train_sha)),
        adapters_dir=str(home.adapters_dir),
        run_dir=str(spec.folder / placement.name),
        seed=settings.seed,
        train=settings.train,
        lora=settings.lora,
        channels=settings.channels,
        preference_file=str(home.data_file(channels.pref_sha)) if channels.pref_sha else None,
        rewards_file=str(home.data_file(channels.rewards_sha)) if channels.rewards_sha else None,
        health=settings.health,
        text=settings.text,
    )


def trained_roles(done: Mapping[Placement, TrioOutcome]) -> Trained:
    """The record of finished jobs; logs where the health gate held updates back."""
    roles = {
        role: TrainedRole(outcome=outcome, engine=whole.engine, placement=placement.name, seconds=whole.seconds)
        for placement, whole in done.items()
        for role, outcome in whole.roles.items()
    }
    for role, trained in roles.items():
        if trained.outcome.skipped_updates:
            held = ", ".join(f"{count} × {action}" for action, count in sorted(trained.outcome.skipped_updates.items()))
            with log_context(role=role):
                logger.info("the health gate held updates back: %s", held)
    return Trained(roles=roles, trained_at=utc_now())
