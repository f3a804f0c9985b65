"""Following a generation that the coordinator raises: progress in a terminal, plain lines in a job log.

The run does not depend on the follower. Ctrl-C asks the coordinator to stop at a checkpoint; a follower that is killed
leaves the run going.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayActorError
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from cluster.calls import get
from cluster.client.coordinator import find_coordinator
from cluster.state import CoordinatorState, RunEnded
from jobs.context import err, is_terminal
from ledger.errors import LunaError
from ledger.roles import ROLES, Role
from trainers.job import TrioProgress

logger = logging.getLogger(__name__)

_POLL_S = 0.5
_PLAIN_LINE_EVERY_S = 10.0
_LOST_FOR_S = 120.0
"""How long a coordinator may be away (Ray starts it again) before following gives up."""


def follow(run_id: str) -> RunEnded:
    """Show the run until it ends; returns how it ended."""
    shown, step, stopping = 0, None, False
    lost_since: float | None = None
    with _display() as display, _ctrl_c() as interrupted:
        while True:
            try:
                actor = find_coordinator()
                if actor is None:
                    raise LunaError("the coordinator is gone; run `luna generation run` to resume.")
                state: CoordinatorState = get(actor.state.remote(shown), timeout_s=30)
                if interrupted() and not stopping:
                    stopping = True
                    logger.info("stopping at the next safe point; the next `luna generation run` resumes there")
                    get(actor.pause.remote())
            except (RayActorError, ray.exceptions.GetTimeoutError):
                lost_since = lost_since or time.monotonic()
                if time.monotonic() - lost_since > _LOST_FOR_S:
                    raise LunaError("the coordinator does not come back; look at the Ray dashboard's logs.") from None
                time.sleep(1.0)
                shown = 0
                continue
            if lost_since is not None:
                logger.info("the coordinator is back")
                lost_since = None
            if state.step != step:
                step = state.step
                if step:
                    logger.info(f"G{state.gen_id}: {step}")
            for line in state.lines:
                logger.info(f"  {line}")
            shown += len(state.lines)
            if state.progress:
                display.show(state.progress)
            if not state.running and state.run_id in (run_id, None):
                restarted = RunEnded(run_id=run_id, state="interrupted", reason="the coordinator was restarted")
                return state.ended or restarted
            time.sleep(_POLL_S)


@contextmanager
def _ctrl_c() -> Iterator[Any]:
    """Collect SIGINT and SIGTERM (what `ray job stop` sends) instead of dying of them."""
    seen: list[int] = []

    def note(number: int, frame: object) -> None:
        seen.append(number)
        if len(seen) > 1:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _PlainDisplay:
    def __init__(self) -> None:
        self.last_at, self.last_step = 0.0, -1

    def show(self, progress: TrioProgress) -> None:
        due = time.monotonic() - self.last_at > _PLAIN_LINE_EVERY_S or progress.step == progress.steps
        if progress.step != self.last_step and due:
            losses = "  ".join(
                f"{role} {loss:.3f}{channels_text(progress, role)}" for role, loss in progress.losses.items()
            )
            logger.info(
                f"  step {progress.step}/{progress.steps}  loss {losses}  "
                f"{progress.examples_per_s:.1f} examples/s  {progress.seconds_left:.0f} s left"
            )
            self.last_at, self.last_step = time.monotonic(), progress.step


def channels_text(progress: TrioProgress, role: Role) -> str:
    """` (sft 1.234, dpo 0.693)` where a role has two channels, else nothing."""
    own = {name: losses[role] for name, losses in progress.channels.items() if role in losses}
    return f" ({', '.join(f'{name} {loss:.3f}' for name, loss in own.items())})" if own else ""


class _Loss(ProgressColumn):
    def render(self, task: Task) -> Text:
        loss = task.fields.get("loss")
        return Text("" if loss is None else f"loss {loss:.3f}{task.fields['channels']}", style="cyan")


class _RichDisplay:
    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.tasks = {role: progress.add_task(role, total=None, loss=None, channels="", rate="") for role in ROLES}

    def show(self, progress: TrioProgress) -> None:
        for role, task in self.tasks.items():
            rate = f"{progress.examples_per_s:.1f} examples/s, {progress.seconds_left:.0f} s left"
            self.progress.update(
                task,
                total=progress.role_totals.get(role),
                completed=progress.role_steps.get(role, 0),
                loss=progress.losses.get(role),
                channels=channels_text(progress, role),
                rate=rate,
            )


@contextmanager
def _display() -> Iterator[_PlainDisplay | _RichDisplay]:
    if not is_terminal():
        yield _PlainDisplay()
        return
    columns = (
        TextColumn("  {task.description:<12}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        _Loss(),
        TextColumn("{task.fields[rate]}"),
    )
    with Progress(*columns, console=err, transient=True) as progress:
        yield _RichDisplay(progress)
