"""Turns one-learner-at-a-time training into a job's progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ledger.roles import Role
from trainers.data import RoleData
from trainers.job import Channel, TrioJob, TrioProgress
from trainers.sharded.run import StepFound


class Watch:
    """What the leading worker tells of a job, one report a step."""

    def __init__(self, job: TrioJob, data: RoleData, on_progress: Callable[[TrioProgress], None]):
        self.job, self.data, self.on_progress = job, data, on_progress
        self.losses: dict[Role, float] = {}
        self.channels: dict[Channel, dict[Role, float]] = {}
        self.role_steps: dict[Role, int] = dict.fromkeys(job.roles, 0)
        self.start, self.done, self.items = time.perf_counter(), 0, 0

    def reached(self, roles: Sequence[Role], step: int) -> None:
        """So much of these roles was trained before."""
        for role in roles:
            self.role_steps[role] = min(step, self.job.role_steps[role])

    def step(self, roles: Sequence[Role], step: int, found: StepFound) -> None:
        """One step was taken, the `step`-th of these roles."""
        job, seconds = self.job, time.perf_counter() - self.start
        self.done += sum(step <= job.role_steps[role] for role in roles)
        self.items += sum(self._items(role, step) for role in roles)
        self.reached(roles, step)
        for role in roles:
            self.losses[role] = found.total
            for channel, loss in found.channels.items():
                self.channels.setdefault(channel, {})[role] = loss
        taken, all_steps = sum(self.role_steps.values()), sum(job.role_steps.values())
        self.on_progress(
            TrioProgress(
                step=job.steps * taken // all_steps,
                steps=job.steps,
                losses=dict(self.losses),
                channels={channel: dict(own) for channel, own in self.channels.items()},
                examples_per_s=self.items / seconds,
                seconds_left=seconds / max(1, self.done) * (all_steps - taken),
                role_steps=dict(self.role_steps),
                role_totals=dict(job.role_steps),
            )
        )

    def _items(self, role: Role, step: int) -> int:
        """Examples that a role's step (1-based) takes; of a role without any, its pairs."""
        if step > self.job.role_steps[role]:
            return 0
        rows, size = len(self.data.examples[role]), self.job.train.batch_size_of(role)
        if not rows:
            return self.job.channels.pairs_of(role)
        return min(step * size, rows) - min((step - 1) * size, rows)
