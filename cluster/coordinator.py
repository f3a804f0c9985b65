"""The coordinator: a named, detached, restartable actor that is the only writer of a home's ledger.

It admits one generation at a time for a lineage and takes it from data to verdict in a thread, so that it goes on when
the job that asked for it is gone. When its own process dies, Ray starts it again and it resumes the run that was in
work. All that it must remember is in the ledger and the run journal.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray

from cluster import data_steps as delta
from cluster.generation import GenerationRun, Watcher
from cluster.ray_head import NAMESPACE
from cluster.request import GenerationRequest
from cluster.server.client import follow_head
from cluster.settings import settings_of
from cluster.trainer_pool import TrioRig
from ledger.clock import utc_now
from ledger.conversations import Label, Turn
from ledger.errors import LunaError
from ledger.files import sha256_json
from ledger.home import Home
from ledger.journal import RunState, Step
from ledger.metadata import update_karma
from ledger.records import HeadMove
from ledger.rules.karma import KarmaSettings
from ledger.scores import Score
from ledger.store import Stores
from trainers.job import NonFiniteError, Paused, TrioProgress

NAME = "luna-coordinator"

_LOCK_WAIT_S = 30
"""How long a restarted coordinator waits for its dead predecessor's lock on the home."""


class Coordinator:
    """See the module. Threaded: calls answer while a generation runs."""

    def __init__(self, root: str):
        self._home = Home(Path(root))
        self._stores = _open_when_free(self._home)
        self._ledger, self._journal = self._stores.ledger, self._stores.journal
        self._conversations = self._stores.conversations
        self._rig = TrioRig()
        self._guard = threading.Lock()
        self._metadata_guard = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._run: RunState | None = None
        self._step: Step | None = None
        self._progress: TrioProgress | None = None
        self._lines: list[str] = []
        self._ended: dict[str, Any] = {}
        if ray.get_runtime_context().was_current_actor_reconstructed:
            self._resume_after_crash()

    def home(self) -> str:
        """The home that this coordinator writes."""
        return str(self._home.root)

    def pid(self) -> int:
        """This actor's process, for the curious and for fault tests."""
        return os.getpid()

    def create_lineage(self, name: str, base_sha: str) -> None:
        """Begin a lineage, or make an existing one current."""
        if not self._ledger.lineages() or name != self._ledger.current_lineage():
            self._refuse_while_running("switch lineages")
        self._ledger.create_lineage(name, base_sha)

    def use_lineage(self, name: str) -> None:
        """Make another lineage the current one."""
        self._refuse_while_running("switch lineages")
        self._ledger.use_lineage(name)

    def submit(self, request: dict[str, Any]) -> dict[str, Any]:
        """Admit a generation and start it; a run that was interrupted is resumed instead.

        Returns:
            run_id, gen_id, and `resumed`: whether this is an earlier run that goes on.

        Raises:
            LunaError: one is running already, or the data cannot make a generation (nothing is recorded then).
        """
        with self._guard:
            self._refuse_while_running("start another generation")
            lineage = self._ledger.current_lineage()
            run, resumed = self._journal.open_run(lineage), True
            if run is None:
                asked = GenerationRequest.model_validate(request)
                self._check_base(asked, lineage)
                new = delta.collect(self._home, self._ledger, asked, lineage)
                delta.freeze_delta(self._home, self._ledger, lineage, new)
                gen_id = self._ledger.next_gen_id(lineage)
                run_id = f"{lineage}-g{gen_id}-{sha256_json([request, utc_now()])[:8]}"
                run = self._journal.create_run(run_id, lineage, gen_id, asked.model_dump(mode="json"))
                resumed = False
            self._start(run)
            return {"run_id": run.run_id, "gen_id": run.gen_id, "resumed": resumed, "next_step": run.next_step}

    def state(self, lines_from: int = 0) -> dict[str, Any]:
        """What runs now: run, step, progress, what was said since line `lines_from`, how the last run here ended."""
        running = self._thread is not None and self._thread.is_alive()
        return {
            "running": running,
            "run_id": self._run.run_id if self._run else None,
            "gen_id": self._run.gen_id if self._run else None,
            "step": self._step if running else None,
            "progress": asdict(self._progress) if running and self._progress else None,
            "lines": self._lines[lines_from:],
            "ended": self._ended,
            "pid": os.getpid(),
        }

    def pause(self) -> bool:
        """Ask the running generation to stop at its next safe point. False when nothing runs."""
        if self._thread is None or not self._thread.is_alive():
            return False
        self._stop.set()
        return True

    def abandon(self) -> str:
        """Give up the interrupted run of the current lineage; its number is not used again."""
        self._refuse_while_running("abandon it")
        run = self._journal.open_run(self._ledger.current_lineage())
        if run is None:
            raise LunaError("there is no interrupted run to abandon.")
        self._journal.finish_run(run.run_id, "abandoned", "abandoned by the user")
        return run.run_id

    def rollback(self, gen_id: int) -> dict[str, Any]:
        """Move the head to an accepted generation."""
        self._refuse_while_running("move the head")
        head = self._ledger.head()
        self._ledger.move_head(HeadMove(from_gen=head, to_gen=gen_id, reason="rollback", at=utc_now()))
        self._tell_karma()
        return {"from_gen": head, "to_gen": gen_id, **follow_head(self._home, gen_id)}

    def add_turn(self, turn: dict[str, Any]) -> None:
        """Store an exchange with a user."""
        self._conversations.add_turn(Turn.model_validate(turn))

    def add_label(self, turn_id: str, label: dict[str, Any]) -> None:
        """Store what a user says of an answer.

        Raises:
            LunaError: there is no such answer.
        """
        self._conversations.add_label(turn_id, Label.model_validate(label), self._karma)
        self._tell_karma()

    def add_scores(self, scores: list[dict[str, Any]]) -> None:
        """Store what the reward model made of answers; they earn karma by it."""
        self._conversations.add_scores([Score.model_validate(score) for score in scores], self._karma)
        self._tell_karma()

    def release(self) -> None:
        """Give the trainers' devices back until the next generation."""
        self._refuse_while_running("release the trainers")
        self._rig.release()

    def close(self) -> None:
        """Close the ledger, before this actor is replaced."""
        self._refuse_while_running("close the coordinator")
        self._rig.release()
        self._stores.close()

    # -- inside ----------------------------------------------------------------------------------------------

    @property
    def _karma(self) -> KarmaSettings:
        """As the settings stand now."""
        return settings_of(self._home).karma if self._home.settings_file.exists() else KarmaSettings()

    def _tell_karma(self) -> None:
        """Let the head's adapters say in their METADATA.json what has been earned."""
        head, age = self._ledger.head(), self._ledger.age()
        if head is None or age is None:
            return
        with self._metadata_guard:
            earned = self._conversations.karma_earned(self._ledger.current_lineage())
            for row in self._ledger.generation(head):
                update_karma(self._home.adapter_dir(row.child_sha), earned, age)

    def _start(self, run: RunState) -> None:
        self._pause_marker(run).unlink(missing_ok=True)
        self._run, self._step, self._progress = run, None, None
        self._lines, self._ended = [], {}
        self._stop.clear()
        self._thread = threading.Thread(target=self._work, args=(run,), name=run.run_id, daemon=True)
        self._thread.start()

    def _work(self, run: RunState) -> None:
        watcher = Watcher(self._lines.append, self._note_step, self._note_progress, self._stop)
        try:
            result = GenerationRun(self._home, self._stores, self._rig, run, watcher).run()
            self._journal.finish_run(run.run_id, "done", f"{result['verdict']}: {result['reason']}")
            self._ended = {"run_id": run.run_id, "state": "done", **result}
        except Paused as pause:
            marker = self._pause_marker(run)
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.touch()
            self._ended = {"run_id": run.run_id, "state": "paused", "reason": str(pause)}
        except NonFiniteError as error:
            self._journal.finish_run(run.run_id, "failed", str(error))
            self._ended = {"run_id": run.run_id, "state": "failed", "reason": str(error)}
        except LunaError as error:
            self._ended = {"run_id": run.run_id, "state": "interrupted", "reason": str(error)}
        except Exception as error:  # the thread's last line of defence: a bug must reach the user, not vanish
            self._ended = {"run_id": run.run_id, "state": "crashed", "reason": f"{type(error).__name__}: {error}"}
            raise

    def _note_step(self, step: Step) -> None:
        self._step = step

    def _note_progress(self, progress: TrioProgress) -> None:
        self._progress = progress

    def _pause_marker(self, run: RunState) -> Path:
        return self._home.run_dir(run.run_id) / "paused"

    def _resume_after_crash(self) -> None:
        """Ray has started this actor again: the run that was in work goes on, a paused one waits for its user."""
        if not self._ledger.lineages():
            return
        run = self._journal.open_run(self._ledger.current_lineage())
        if run is not None and not self._pause_marker(run).exists():
            self._start(run)
            self._lines.append(f"the coordinator was restarted; run {run.run_id} goes on at {run.next_step}")

    def _refuse_while_running(self, what: str) -> None:
        if self._thread is not None and self._thread.is_alive() and self._run is not None:
            raise LunaError(
                f"G{self._run.gen_id} is being raised in run {self._run.run_id} ({self._step or 'starting'}); "
                f"wait for it or stop it before you {what}. `luna status` shows it."
            )

    def _check_base(self, request: GenerationRequest, lineage: str) -> None:
        known = {entry.name: entry.base_sha for entry in self._ledger.lineages()}
        if known[lineage] != request.base.sha:
            raise LunaError(
                f"lineage {lineage!r} stands on the base {known[lineage][:12]}, the settings name "
                f"{request.base.source} ({request.base.sha[:12]}). Begin a new lineage for another base."
            )


def _open_when_free(home: Home) -> Stores:
    deadline = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            return Stores.create(home)
        except LunaError:
            if time.monotonic() > deadline or not ray.get_runtime_context().was_current_actor_reconstructed:
                raise
            time.sleep(0.5)


def find_coordinator() -> Any | None:
    """The coordinator of this cluster, or None."""
    try:
        return ray.get_actor(NAME, namespace=NAMESPACE)
    except ValueError:
        return None


def coordinator_for(home: Home) -> Any:
    """The coordinator that writes this home: the running one, or a new one.

    An idle coordinator of another home makes room; a busy one does not.

    Raises:
        LunaError: another home's generation is running here, or another process holds this home's ledger.
    """
    from cluster.calls import answer

    root = home.root.resolve()
    actor = find_coordinator()
    if actor is not None:
        present = answer(actor.home.remote())
        if present == str(root):
            return actor
        try:
            answer(actor.close.remote())
        except LunaError as error:
            raise LunaError(f"this cluster works for another home, {present}: {error}") from error
        ray.kill(actor, no_restart=True)
        _wait_until_gone()
    # The ledger's SQLite file must not be opened over NFS, so on a rig that marks its head the coordinator stays there.
    head = {"luna_head": 0.001} if "luna_head" in ray.cluster_resources() else {}
    remote = ray.remote(Coordinator).options(
        name=NAME,
        namespace=NAMESPACE,
        lifetime="detached",
        num_cpus=0,
        max_restarts=-1,
        max_concurrency=16,
        resources=head,
    )
    created = remote.remote(str(root))
    try:
        answer(created.home.remote())
    except ray.exceptions.ActorDiedError as error:
        cause = _user_error(str(error))
        raise LunaError(cause or f"the coordinator could not start: {error}") from error
    return created


def _wait_until_gone() -> None:
    deadline = time.monotonic() + 10
    while find_coordinator() is not None and time.monotonic() < deadline:
        time.sleep(0.05)


def _user_error(text: str) -> str:
    """The LunaError's own sentence inside Ray's report of a failed constructor."""
    _, found, message = text.rpartition("LunaError: ")
    return message.strip() if found else ""
