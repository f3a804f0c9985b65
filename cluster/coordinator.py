"""The coordinator: a named, detached, restartable actor that is the only writer of a home's ledger.

It admits one generation at a time for a lineage and takes it from data to verdict in a thread, so that it goes on when
the job that asked for it is gone. When its own process dies, Ray starts it again and it resumes the run that was in
work. All that it must remember is in the ledger and the run journal.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from cluster import metrics
from cluster.plan.groups import lent_to_server
from cluster.request import GenerationRequest
from cluster.run_worker import RunWorker
from cluster.server.client import follow_head, retire_candidate
from cluster.settings import settings_of
from cluster.state import Admission, CoordinatorState
from cluster.steps.data import collect
from cluster.trainer_pool import TrainerPool
from ledger.clock import utc_now
from ledger.conversations import Label, Turn
from ledger.errors import LunaError
from ledger.files import sha256_json
from ledger.home import Home
from ledger.metadata import update_karma
from ledger.records import HeadMove
from ledger.rules.karma import KarmaSettings, karma_state
from ledger.scores import Score
from ledger.store import Stores
from serving.accepted import Line, Recorded, line_of, recorded_of
from trainers.models.adapters import check_shape
from trainers.models.frozen import Base

logger = logging.getLogger(__name__)

_KARMA_TOLD_AFTER_S = 60.0
"""How long adapters' METADATA.json may lag behind what has been earned; they say as of when they speak."""

_LOCK_WAIT_S = 30
"""How long a restarted coordinator waits for its dead predecessor's lock on the home."""


class Coordinator:
    """See the module. Threaded: calls answer while a generation runs. :meth:`open` comes first."""

    _stores: Stores

    def __init__(self, root: str):
        self._home = Home(Path(root))
        self._pool = TrainerPool()
        self._worker = RunWorker(self._home, self._pool, self._tell_karma_soon)
        self._guard = threading.Lock()
        self._metadata_guard = threading.RLock()
        self._telling: threading.Timer | None = None
        self._opening = threading.Lock()
        self._opened = False
        self._last_karma = KarmaSettings()
        if ray.get_runtime_context().was_current_actor_reconstructed:
            self.open()
            self._resume_after_crash()

    def open(self) -> None:
        """Open the home's ledger as its writer. Opening it again changes nothing.

        Raises:
            LunaError: another process is the writer, or the disk refuses.
        """
        with self._opening:
            if not self._opened:
                self._stores = _open_when_free(self._home)
                self._ledger, self._journal = self._stores.ledger, self._stores.journal
                self._conversations = self._stores.conversations
                self._opened = True
                self._tell_karma_soon()  # the process before may have ended before it told

    def home(self) -> str:
        """The home that this coordinator writes."""
        return str(self._home.root)

    def create_lineage(self, name: str, base_sha: str) -> None:
        """Begin a lineage, or make an existing one current.

        Raises:
            LunaError: another lineage's generation is in work or interrupted.
        """
        with self._guard:
            if self._ledger.lineages() and name != self._ledger.current_lineage():
                self._refuse_open_run("switch lineages")
            self._ledger.create_lineage(name, base_sha)

    def submit(self, request: GenerationRequest) -> Admission:
        """Admit a generation and start it; a run that was interrupted is resumed instead.

        Raises:
            LunaError: one is running already, or the data cannot make a generation (nothing is recorded then).
        """
        with self._guard:
            self._worker.refuse_while_running("start another generation")
            lineage = self._ledger.current_lineage()
            run = self._journal.open_run(lineage)
            resumed = run is not None
            if run is None:
                self._check_base(request, lineage)
                self._check_adapters(request, lineage)
                collect(self._home, self._stores, lineage, request)
                self._check_room(request)
                gen_id, record = self._ledger.next_gen_id(lineage), request.model_dump(mode="json")
                run_id = f"{lineage}-g{gen_id}-{sha256_json([record, utc_now()])[:8]}"
                run = self._journal.create_run(run_id, lineage, gen_id, record)
            self._worker.start(self._stores, run)
            return Admission(run_id=run.run_id, gen_id=run.gen_id, resumed=resumed, next_step=run.next_step)

    def state(self, lines_from: int = 0) -> CoordinatorState:
        """What runs now, with what it has logged since line `lines_from`, and how the last run here ended."""
        return self._worker.state(lines_from)

    def pause(self) -> bool:
        """Ask the running generation to stop at its next safe point. False when nothing runs."""
        return self._worker.pause()

    def abandon(self) -> str:
        """Give up the interrupted run of the current lineage; its number is not used again, nor served any longer.

        Raises:
            LunaError: it is in work, it has its verdict already, or there is none.
        """
        with self._guard:
            self._worker.refuse_while_running("abandon it")
            lineage = self._ledger.current_lineage()
            run = self._journal.open_run(lineage)
            if run is None:
                raise LunaError(f"there is no interrupted run to abandon in lineage {lineage!r}.{self._elsewhere()}")
            if self._ledger.is_judged(run.gen_id, lineage):
                raise LunaError(
                    f"G{run.gen_id} has its verdict already and cannot be abandoned; `luna generation run` takes "
                    "the last step, `luna rollback` undoes it."
                )
            self._journal.finish_run(run.run_id, "abandoned", "abandoned by the user")
        retire_candidate(self._home, run.gen_id)
        return run.run_id

    def rollback(self, gen_id: int) -> dict[str, Any]:
        """Move the head to an accepted generation.

        Raises:
            LunaError: a generation that stands on the head is in work or interrupted, or `gen_id` was not accepted.
        """
        with self._guard:
            self._refuse_open_run("move the head")
            head = self._ledger.head()
            self._ledger.move_head(HeadMove(from_gen=head, to_gen=gen_id, reason="rollback", at=utc_now()))
            self.tell_karma()
        return {"from_gen": head, "to_gen": gen_id, **follow_head(self._home, gen_id)}

    def add_turn(self, turn: Turn) -> None:
        """Store an exchange with a user."""
        self._conversations.add_turn(turn)

    def add_label(self, turn_id: str, label: Label) -> None:
        """Store what a user says of an answer.

        Raises:
            LunaError: there is no such answer.
        """
        self._conversations.add_label(turn_id, label, self._karma)
        self._tell_karma_soon()

    def add_scores(self, scores: Sequence[Score]) -> None:
        """Store what the reward model made of answers; they earn karma by it."""
        self._conversations.add_scores(scores, self._karma)
        self._tell_karma_soon()

    def node(self) -> str:
        """Ray's id of the node that it runs on, which has `luna.db`."""
        return str(ray.get_runtime_context().get_node_id())

    def line(self, lineage: str | None = None) -> Line:
        """See :class:`serving.accepted.Accepted`."""
        return line_of(self._ledger, lineage)

    def recorded(self, gen: int) -> Recorded:
        """See :class:`serving.accepted.Accepted`."""
        return recorded_of(self._ledger, gen)

    def lend(self, base_sha: str) -> dict[str, Any]:
        """What each replica of a server that begins now is started with. Trainers without work give their cards back.

        Raises:
            LunaError: as :func:`cluster.plan.groups.lent_to_server`.
        """
        settings = settings_of(self._home)
        with self._guard:
            nobody_trains = not self._worker.is_running
            if nobody_trains:
                self._pool.release_cards()
        base = Base(settings.base.source, base_sha, self._home.base_dir(base_sha))
        return lent_to_server(self._home, base, settings, nobody_trains).actor_options

    def release(self) -> None:
        """Give the trainers' devices back until the next generation; a paused run needs none."""
        with self._guard:
            self._worker.refuse_while_running("release the trainers")
            self._pool.release()

    def close(self) -> None:
        """Close the ledger, before this actor is replaced. An interrupted run waits in its home."""
        with self._guard:
            self._worker.refuse_while_running("close the coordinator")
            self._pool.release()
            if self._opened:
                self.tell_karma()
                self._stores.close()

    @property
    def _karma(self) -> KarmaSettings:
        """As the settings stand now; while they cannot be read, as they stood last: what a user said is kept anyway."""
        if self._home.settings_file.exists():
            try:
                self._last_karma = settings_of(self._home).karma
            except LunaError as error:
                logger.warning("%s Karma goes on by the settings that were read last.", error)
        return self._last_karma

    def _tell_karma_soon(self) -> None:
        """Have :meth:`tell_karma` done for all that comes meanwhile: each label would write three files otherwise."""
        with self._metadata_guard:
            if self._telling is None:
                self._telling = threading.Timer(_KARMA_TOLD_AFTER_S, self._tell_what_waits)
                self._telling.daemon = True
                self._telling.start()

    def _tell_what_waits(self) -> None:
        with self._metadata_guard:
            if self._telling is not None:  # else it was told meanwhile, and the ledger may be closed
                self.tell_karma()

    def tell_karma(self) -> None:
        """Let the head's adapters say in their METADATA.json what has been earned up to now."""
        with self._metadata_guard:
            if self._telling is not None:
                self._telling.cancel()
                self._telling = None
            head, age = (self._ledger.head(), self._ledger.age()) if self._ledger.lineages() else (None, None)
            if head is None or age is None:
                return
            lineage, now = self._ledger.current_lineage(), utc_now()
            earned = self._conversations.karma_earned(lineage)
            metrics.tell(metrics.of_growth(lineage, karma_state(earned, age)))
            try:
                for row in self._ledger.generation(head):
                    update_karma(self._home.adapter_dir(row.child_sha), earned, age, now)
            except LunaError as error:  # nobody waits for this; `luna ledger verify` names what is wrong as well
                logger.warning("karma was not told: %s", error)

    def _resume_after_crash(self) -> None:
        """Ray has started this actor again: the run that was in work goes on, whichever lineage is current by now."""
        in_work = (run for run in self._journal.open_runs() if not self._journal.at_rest(run))
        if (run := next(in_work, None)) is not None:
            first_line = f"the coordinator was restarted; run {run.run_id} goes on at {run.next_step}"
            self._worker.start(self._stores, run, first_line)

    def _refuse_open_run(self, what: str) -> None:
        """Raise a LunaError if a run of the current lineage is in work, paused or interrupted."""
        self._worker.refuse_while_running(what)
        run = self._journal.open_run(self._ledger.current_lineage())
        if run is not None:
            how = "paused" if self._journal.at_rest(run) == "paused" else "interrupted"
            raise LunaError(
                f"G{run.gen_id} is {how} at {run.next_step} in run {run.run_id}: resume it (`luna generation run`) or "
                f"give it up (`luna generation abandon`) before you {what}."
            )

    def _elsewhere(self) -> str:
        """Where else there is an interrupted run, as a sentence."""
        run = next(iter(self._journal.open_runs()), None)
        if run is None:
            return ""
        return f" Lineage {run.lineage!r} has G{run.gen_id}: `luna init --lineage {run.lineage}` makes it current."

    def _check_base(self, request: GenerationRequest, lineage: str) -> None:
        known = {entry.name: entry.base_sha for entry in self._ledger.lineages()}
        if known[lineage] != request.base.sha:
            raise LunaError(
                f"lineage {lineage!r} stands on the base {known[lineage][:12]}, the settings name "
                f"{request.base.source} ({request.base.sha[:12]}). Begin a new lineage for another base."
            )

    def _check_room(self, request: GenerationRequest) -> None:
        """Refuse a training that surely does not fit this rig's cards, or a node that cannot get the home's files."""
        pinned = request.base
        self._pool.admit(self._home, Base(pinned.source, pinned.sha, self._home.base_dir(pinned.sha)), request.settings)

    def _check_adapters(self, request: GenerationRequest, lineage: str) -> None:
        """Refuse settings under which the head's adapters would be other ones."""
        head, lora = self._ledger.head(lineage), request.settings.lora
        for row in self._ledger.generation(head, lineage) if head is not None else ():
            check_shape(self._home.adapter_dir(row.child_sha), lora.rank, lora.alpha)


def _open_when_free(home: Home) -> Stores:
    deadline = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            return Stores.create(home)
        except LunaError:
            if time.monotonic() > deadline or not ray.get_runtime_context().was_current_actor_reconstructed:
                raise
            time.sleep(0.5)
