"""The run journal: which run is open, and which step it reached, so that a restart goes on from there.

Operational facts about runs, not part of the hash chain.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ledger.clock import utc_now
from ledger.database.connection import Database, damaged_row
from ledger.errors import LunaError
from ledger.files import canonical_json
from ledger.scores import newest_event

Step = Literal["collect", "plan", "train", "measure", "judge", "deploy"]
STEPS: tuple[Step, ...] = get_args(Step)
"""Steps of a generation, in order (DESIGN section 3; the head advances inside ``judge``)."""

Phase = Literal["before", "after"]
RunEnd = Literal["done", "failed", "abandoned"]
AttemptEnd = Literal["", "paused", "failed"]


@dataclass(frozen=True)
class Attempt:
    """One beginning of a step."""

    reached: str
    """What the step had to show when it began, such as its checkpoints; empty at first."""
    ended: AttemptEnd
    """Empty where nobody could note an end: it is in work, it has its result, or its process was killed."""
    error: str
    """What a failed one ended with."""


@dataclass(frozen=True)
class RunState:
    """One run as the journal knows it."""

    run_id: str
    lineage: str
    gen_id: int
    request: dict[str, Any]
    state: Literal["open", "done", "failed", "abandoned"]
    message: str
    started_at: str
    ended_at: str | None
    finished_steps: tuple[Step, ...]
    """Steps recorded as finished, in order."""

    @property
    def next_step(self) -> Step | None:
        """Where to go on, ``None`` after the last step."""
        return next((step for step in STEPS if step not in self.finished_steps), None)


class RunJournal:
    """What the coordinator records about runs."""

    def __init__(self, db: Database) -> None:
        self.db = db

    def create_run(
        self, run_id: str, lineage: str, gen_id: int, request: dict[str, Any], *, at: str | None = None
    ) -> RunState:
        """Open a run and reserve its generation number for good.

        Args:
            run_id: name of the run, used once.
            lineage: lineage to extend.
            gen_id: number from ``next_gen_id``.
            request: what was asked for, JSON values only.
            at: ISO-8601 UTC; now by default.

        Raises:
            LunaError: if the lineage has an open run already, or ``run_id`` was used before.
        """
        with self.db.writing() as connection:
            running = connection.execute(
                "SELECT run_id, gen_id FROM runs WHERE lineage = ? AND state = 'open'", (lineage,)
            ).fetchone()
            if running:
                raise LunaError(
                    f"lineage {lineage!r} is already raising G{running[1]} in run {running[0]}. "
                    "Wait for it (`luna status` shows it), or abandon it first."
                )
            try:
                connection.execute(
                    "INSERT INTO runs (run_id, lineage, gen_id, request, started_at, last_event) "
                    "VALUES (?, ?, ?, ?, ?, ?)",
                    (run_id, lineage, gen_id, canonical_json(request), at or utc_now(), newest_event(connection)),
                )
            except sqlite3.IntegrityError as error:
                raise LunaError(f"run {run_id!r} exists already; choose another run id.") from error
            return _run_state(connection, run_id)

    def open_run(self, lineage: str) -> RunState | None:
        """The run to resume or wait for, if the lineage has one."""
        with self.db.reading() as connection:
            row = connection.execute(
                "SELECT run_id FROM runs WHERE lineage = ? AND state = 'open'", (lineage,)
            ).fetchone()
            return _run_state(connection, row[0]) if row else None

    def open_runs(self) -> list[RunState]:
        """The open runs of all lineages, the one that was begun or went on last first."""
        with self.db.reading() as connection:
            rows = connection.execute(
                "SELECT run_id, (SELECT max(number) FROM run_steps WHERE run_steps.run_id = runs.run_id) AS last "
                "FROM runs WHERE state = 'open' ORDER BY last IS NULL DESC, last DESC, runs.rowid DESC"
            ).fetchall()
            return [_run_state(connection, run_id) for run_id, _ in rows]

    def at_rest(self, run: RunState) -> AttemptEnd:
        """How an open run came to stand still; empty where it did not: it is in work, or its process was killed."""
        attempts = self.attempts(run.run_id, run.next_step) if run.next_step else ()
        return attempts[-1].ended if attempts else ""

    def runs(self, lineage: str | None = None) -> list[RunState]:
        """All runs, oldest first, of one lineage or of all."""
        with self.db.reading() as connection:
            rows = connection.execute(
                "SELECT run_id FROM runs WHERE :lineage IS NULL OR lineage = :lineage ORDER BY rowid",
                {"lineage": lineage},
            ).fetchall()
            return [_run_state(connection, run_id) for (run_id,) in rows]

    def record_step(
        self,
        run_id: str,
        step: Step,
        phase: Phase,
        payload: dict[str, Any] | None = None,
        *,
        at: str | None = None,
    ) -> None:
        """Note that a step begins (``before``) or has finished with ``payload`` as its result (``after``).

        A step may begin several times, once for each attempt; the newest result counts.

        Raises:
            LunaError: if the run is unknown or no longer open, or a step finishes that never began.
        """
        if step not in STEPS:
            raise LunaError(f"unknown step {step!r}; steps are {', '.join(STEPS)}.")
        with self.db.writing() as connection:
            run = _run_state(connection, run_id)
            if run.state != "open":
                raise LunaError(f"run {run_id} is {run.state}; it takes no further steps.")
            if phase == "after" and not _has_begun(connection, run_id, step):
                raise LunaError(f"run {run_id} finished step {step!r} without having begun it.")
            connection.execute(
                "INSERT INTO run_steps (run_id, step, phase, payload, at) VALUES (?, ?, ?, ?, ?)",
                (run_id, step, phase, canonical_json(payload or {}), at or utc_now()),
            )

    def step_result(self, run_id: str, step: Step) -> dict[str, Any] | None:
        """The payload that a step finished with, ``None`` if it has not finished."""
        with self.db.reading() as connection:
            row = connection.execute(
                "SELECT payload FROM run_steps WHERE run_id = ? AND step = ? AND phase = 'after' "
                "ORDER BY number DESC LIMIT 1",
                (run_id, step),
            ).fetchone()
        return _payload(row[0]) if row else None

    def attempts(self, run_id: str, step: Step) -> tuple[Attempt, ...]:
        """Every beginning of a step, oldest first."""
        with self.db.reading() as connection:
            rows = connection.execute(
                "SELECT payload FROM run_steps WHERE run_id = ? AND step = ? AND phase = 'before' ORDER BY number",
                (run_id, step),
            ).fetchall()
        payloads = [_payload(text) for (text,) in rows]
        return tuple(
            Attempt(found.get("reached", ""), found.get("ended", ""), found.get("error", "")) for found in payloads
        )

    def end_attempt(self, run_id: str, step: Step, ended: AttemptEnd, error: str = "") -> None:
        """Note how the newest beginning of a step ended, unless that is known."""
        with self.db.writing() as connection:
            newest = _newest_beginning(connection, run_id, step)
            if newest is None or "ended" in newest[1]:
                return
            _rewrite(connection, newest[0], {**newest[1], "ended": ended, "error": error})

    def note(self, run_id: str, step: Step, notes: dict[str, Any]) -> None:
        """Let the newest beginning of a step say what is known of it before it has a result, such as its parts' ends.

        Raises:
            LunaError: the step has not begun.
        """
        with self.db.writing() as connection:
            newest = _newest_beginning(connection, run_id, step)
            if newest is None:
                raise LunaError(f"run {run_id} has a note for step {step!r}, which has not begun.")
            _rewrite(connection, newest[0], {**newest[1], "notes": notes})

    def notes(self, run_id: str, step: Step) -> dict[str, Any] | None:
        """The newest notes on a step, of whichever beginning; None where there are none."""
        with self.db.reading() as connection:
            rows = connection.execute(
                "SELECT payload FROM run_steps WHERE run_id = ? AND step = ? AND phase = 'before' ORDER BY number DESC",
                (run_id, step),
            ).fetchall()
        found = (_payload(text).get("notes") for (text,) in rows)
        return next((notes for notes in found if isinstance(notes, dict)), None)

    def finish_run(self, run_id: str, state: RunEnd, message: str = "", *, at: str | None = None) -> None:
        """Close a run. Closing it again in the same state changes nothing.

        Raises:
            LunaError: if the run is unknown, or was closed in another state.
        """
        with self.db.writing() as connection:
            run = _run_state(connection, run_id)
            if run.state == state:
                return
            if run.state != "open":
                raise LunaError(f"run {run_id} is {run.state} already and cannot become {state}.")
            connection.execute(
                "UPDATE runs SET state = ?, message = ?, ended_at = ? WHERE run_id = ?",
                (state, message, at or utc_now(), run_id),
            )


def _run_state(connection: sqlite3.Connection, run_id: str) -> RunState:
    row = connection.execute(
        "SELECT run_id, lineage, gen_id, request, state, message, started_at, ended_at FROM runs WHERE run_id = ?",
        (run_id,),
    ).fetchone()
    if row is None:
        raise LunaError(f"there is no run {run_id!r}; `luna status` and `luna generation list` show the runs.")
    finished = {
        step
        for (step,) in connection.execute(
            "SELECT DISTINCT step FROM run_steps WHERE run_id = ? AND phase = 'after'", (run_id,)
        )
    }
    steps = tuple(step for step in STEPS if step in finished)
    return RunState(**dict(row) | {"request": _payload(row["request"]), "finished_steps": steps})


def _newest_beginning(connection: sqlite3.Connection, run_id: str, step: Step) -> tuple[int, dict[str, Any]] | None:
    """Number and payload."""
    row = connection.execute(
        "SELECT number, payload FROM run_steps WHERE run_id = ? AND step = ? AND phase = 'before' "
        "ORDER BY number DESC LIMIT 1",
        (run_id, step),
    ).fetchone()
    return (row[0], _payload(row[1])) if row else None


def _rewrite(connection: sqlite3.Connection, number: int, payload: dict[str, Any]) -> None:
    connection.execute("UPDATE run_steps SET payload = ? WHERE number = ?", (canonical_json(payload), number))


def _has_begun(connection: sqlite3.Connection, run_id: str, step: Step) -> bool:
    return (
        connection.execute(
            "SELECT 1 FROM run_steps WHERE run_id = ? AND step = ? AND phase = 'before'", (run_id, step)
        ).fetchone()
        is not None
    )


def _payload(text: str) -> dict[str, Any]:
    try:
        payload = json.loads(text)
        if not isinstance(payload, dict):
            raise TypeError("it is no JSON object")
    except (ValueError, TypeError, RecursionError) as error:
        raise damaged_row(error) from error
    return payload
