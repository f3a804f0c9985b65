"""What the coordinator answers about the run that it raises: records that Ray pickles and `luna status` prints."""

from __future__ import annotations

from typing import Literal

from cluster.steps.records import Judged
from ledger.journal import Step
from ledger.records import Record
from trainers.job import TrioProgress

EndState = Literal["done", "paused", "failed", "interrupted", "crashed"]


class Admission(Record):
    """A run that was let in."""

    run_id: str
    gen_id: int
    resumed: bool
    """Whether this is an earlier run that goes on; what was asked for was not looked at then."""
    next_step: Step | None


class RunEnded(Record):
    """How a run ended, or why it stands still."""

    run_id: str
    state: EndState
    reason: str
    """Why it is not done; of one that is done the verdict's reason."""
    judged: Judged | None = None
    """The verdict of one that is done."""


class CoordinatorState(Record):
    """What runs now in this coordinator."""

    running: bool
    run_id: str | None
    """The run in work, or the last one."""
    gen_id: int | None
    step: Step | None
    progress: TrioProgress | None
    lines: list[str]
    """What the run has logged, from the line on that was asked for."""
    ended: RunEnded | None
    """How the last run ended; None while one is in work."""
    pid: int
