"""The thread that raises a generation in the coordinator's process: begun, watched, paused, ended."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress

from cluster import metrics
from cluster.attempts import HopelessError, why_given_up
from cluster.generation import GenerationRun, Watcher
from cluster.request import RunSpec
from cluster.run_log import run_log
from cluster.server.client import retire_candidate
from cluster.state import CoordinatorState, EndState, RunEnded
from cluster.steps.records import Judged
from cluster.trainer_pool import TrainerPool
from ledger.errors import LunaError
from ledger.home import Home
from ledger.journal import AttemptEnd, RunState, Step
from ledger.store import Stores
from trainers.job import NonFiniteError, Paused, TrioProgress


class RunWorker:
    """One run at a time. It goes on when the job that asked for it is gone."""

    def __init__(self, home: Home, pool: TrainerPool, when_done: Callable[[], None] = lambda: None) -> None:
        self._home, self._pool, self._when_done = home, pool, when_done
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._run: RunState | None = None
        self._step: Step | None = None
        self._progress: TrioProgress | None = None
        self._lines: list[str] = []
        self._ended: RunEnded | None = None

    @property
    def is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self, stores: Stores, run: RunState, first_line: str = "") -> None:
        """Take up a run of the journal; none is in work."""
        self._run, self._step, self._progress = run, None, None
        self._lines, self._ended = [first_line] if first_line else [], None
        self._stop.clear()
        self._thread = threading.Thread(target=self._work_and_tell, args=(stores, run), name=run.run_id, daemon=True)
        self._thread.start()

    def pause(self) -> bool:
        """Ask the run to stop at its next safe point. False when nothing runs."""
        if not self.is_running:
            return False
        self._stop.set()
        return True

    def state(self, lines_from: int) -> CoordinatorState:
        """What runs now, with what it has logged since line `lines_from`, and how the last run here ended."""
        running = self.is_running
        return CoordinatorState(
            running=running,
            run_id=self._run.run_id if self._run else None,
            gen_id=self._run.gen_id if self._run else None,
            step=self._step if running else None,
            progress=self._progress if running else None,
            lines=self._lines[lines_from:],
            ended=self._ended,
            pid=os.getpid(),
        )

    def refuse_while_running(self, what: str) -> None:
        """Raise a LunaError, which says that the user should wait before they do `what`, if a run is in work."""
        if self._run is not None and self.is_running:
            raise LunaError(
                f"G{self._run.gen_id} is being raised in run {self._run.run_id} ({self._step or 'starting'}); "
                f"wait for it or stop it before you {what}. `luna status` shows it."
            )

    def _work_and_tell(self, stores: Stores, run: RunState) -> None:
        metrics.tell(metrics.of_run(run.lineage, run.gen_id, running=True))
        try:
            self._work(stores, run)
        finally:
            metrics.tell(metrics.of_run(run.lineage, run.gen_id, running=False))

    def _work(self, stores: Stores, run: RunState) -> None:
        def end(state: EndState, reason: str, judged: Judged | None = None) -> None:
            self._ended = RunEnded(run_id=run.run_id, state=state, reason=reason, judged=judged)

        watcher = Watcher(self._note_step, self._note_progress, self._stop)
        try:
            spec = RunSpec.of(self._home, run)
            with run_log(spec.folder, run.gen_id, self._lines.append):
                judged = GenerationRun(spec, stores, self._pool, watcher).run()
            stores.journal.finish_run(run.run_id, "done", f"{judged.verdict}: {judged.reason}")
            end("done", judged.reason, judged)
            self._tell_verdict(stores, spec)
            self._when_done()
        except Paused as pause:
            self._note_attempt(stores, run, "paused")
            end("paused", str(pause))
        except (NonFiniteError, HopelessError) as error:
            end("failed", str(error))
            self._close_as_failed(stores, run, str(error))
        except Exception as error:
            is_known = isinstance(error, LunaError)
            told = str(error) if is_known else f"{type(error).__name__}: {error}"
            self._note_attempt(stores, run, "failed", told)
            if reason := self._given_up(stores, run):
                end("failed", reason)
                self._close_as_failed(stores, run, reason)
            else:
                end("interrupted" if is_known else "crashed", told)
            if not is_known:  # the thread's last line of defence: a bug must reach the user, not vanish
                raise

    def _note_attempt(self, stores: Stores, run: RunState, ended: AttemptEnd, error: str = "") -> None:
        """Let the journal know how the step in work ended, if the disk lets it."""
        if self._step is not None:
            with suppress(LunaError):
                stores.journal.end_attempt(run.run_id, self._step, ended, error)

    def _given_up(self, stores: Stores, run: RunState) -> str | None:
        """Why the step that has just failed is not tried again; None if it may be."""
        if self._step is None:
            return None
        return why_given_up(stores.journal, run.run_id, self._step, self._home.run_dir(run.run_id))

    def _close_as_failed(self, stores: Stores, run: RunState, reason: str) -> None:
        """Close the run; the server goes on with the head alone. With a full disk the next start closes it."""
        with suppress(LunaError):
            stores.journal.finish_run(run.run_id, "failed", reason)
            if not stores.ledger.is_judged(run.gen_id, run.lineage):
                retire_candidate(self._home, run.gen_id)

    def _tell_verdict(self, stores: Stores, spec: RunSpec) -> None:
        rows = stores.ledger.generation(spec.gen_id, spec.lineage)
        evals = stores.ledger.evals(spec.gen_id, spec.lineage)
        health = spec.settings.health
        metrics.tell(metrics.of_verdict(rows, evals, spec.settings.gates, health.rhi_min if health.gate else None))

    def _note_step(self, step: Step) -> None:
        self._step = step

    def _note_progress(self, progress: TrioProgress) -> None:
        self._progress = progress
        if self._run is not None:
            metrics.tell(metrics.of_progress(self._run.lineage, progress))
