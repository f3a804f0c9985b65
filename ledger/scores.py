"""Scores of a reward model, and the karma that answers earn by them.

The functions work inside a transaction that the caller holds.
"""

from __future__ import annotations

import sqlite3

from ledger.files import canonical_json
from ledger.records import Fraction, Record, Sha256, Signed, Timestamp, TurnId
from ledger.rules.karma import AnswerState, KarmaSettings, answer_karma


class Score(Record):
    """One model's judgement of one answer: the reward manifold's values (docs/explanation/reward-manifold.md)."""

    turn_id: TurnId
    model: Sha256
    """The reward model's."""
    empathy: Signed
    social_coherence: Signed
    agency_support: Signed
    epistemic_integrity: Signed
    harm_avoidance: Signed
    narrative_alignment: Signed
    curiosity: Signed
    reward_intensity: Fraction
    safety_score: Signed
    scalar_preference: Signed
    """One number for the whole."""
    gate: Fraction
    """Share of a weight that the safety score lets through."""
    at: Timestamp


SCORE_FIELDS = tuple(Score.model_fields)


def insert_score(connection: sqlite3.Connection, score: Score) -> None:
    """Store a score. A second one of the same model adds nothing, nor does one of a turn that was deleted meanwhile."""
    connection.execute(
        f"INSERT OR IGNORE INTO scores ({', '.join(SCORE_FIELDS)}) SELECT "
        f"{', '.join(':' + name for name in SCORE_FIELDS)} WHERE EXISTS (SELECT 1 FROM turns WHERE id = :turn_id)",
        score.model_dump(),
    )


def settle(connection: sqlite3.Connection, turn_id: str, settings: KarmaSettings, at: str) -> None:
    """Bring an answer's karma up to its newest score and label, by one event over the difference.

    The sum of an answer's events is the karma of its newest state. Before it is scored there is none, and the bare
    base earns none.
    """
    state = _state(connection, turn_id)
    if state is None:
        return
    lineage, answer = state
    terms = answer_karma(answer, settings)
    count, before = connection.execute(
        "SELECT count(*), total(amount) FROM karma_events WHERE turn_id = ?", (turn_id,)
    ).fetchone()
    if count == 0 or abs(terms.karma - before) > 1e-9:
        connection.execute(
            "INSERT INTO karma_events (turn_id, lineage, amount, terms, at) VALUES (?, ?, ?, ?, ?)",
            (turn_id, lineage, terms.karma - before, canonical_json(terms.model_dump()), at),
        )


def _state(connection: sqlite3.Connection, turn_id: str) -> tuple[str, AnswerState] | None:
    """(lineage, what is known of the answer), or None where it earns nothing."""
    row = connection.execute(
        "SELECT lineage, scalar_preference, gate, answer_tokens, seconds, "
        "(SELECT valence FROM labels WHERE turn_id = turns.id ORDER BY number DESC LIMIT 1) "
        "AS valence FROM turns JOIN scores ON scores.turn_id = turns.id "
        "WHERE turns.id = ? AND role != 'base' ORDER BY scores.number DESC LIMIT 1",
        (turn_id,),
    ).fetchone()
    if row is None:
        return None
    return row["lineage"], AnswerState(
        preference=row["scalar_preference"],
        gate=row["gate"],
        valence=row["valence"] or 0,
        tokens=row["answer_tokens"],
        seconds=row["seconds"],
    )


def note_acceptance(connection: sqlite3.Connection, lineage: str, gen_id: int, run_id: str) -> None:
    """Spend what had been earned when the run began; what came since counts towards the next age.

    A run that the journal does not know spends all there is.
    """
    began = connection.execute(
        "SELECT last_event FROM runs WHERE run_id = ? AND last_event IS NOT NULL", (run_id,)
    ).fetchone()
    connection.execute(
        "INSERT INTO acceptances (lineage, gen_id, last_turn, last_event) "
        "VALUES (?, ?, (SELECT coalesce(max(number), 0) FROM turns), ?)",
        (lineage, gen_id, newest_event(connection) if began is None else began[0]),
    )


def newest_event(connection: sqlite3.Connection) -> int:
    """Number of the newest karma event, 0 before the first."""
    (number,) = connection.execute("SELECT coalesce(max(number), 0) FROM karma_events").fetchone()
    return int(number)


def last_spent(connection: sqlite3.Connection, lineage: str) -> int:
    """The karma event up to which a lineage's acceptances have spent; 0 before the first."""
    row = connection.execute(
        "SELECT last_event FROM acceptances WHERE lineage = ? ORDER BY number DESC LIMIT 1", (lineage,)
    ).fetchone()
    return 0 if row is None else int(row[0])


def karma_since(connection: sqlite3.Connection, lineage: str, event: int) -> float:
    """Karma of a lineage's events after one."""
    (earned,) = connection.execute(
        "SELECT total(amount) FROM karma_events WHERE lineage = ? AND number > ?", (lineage, event)
    ).fetchone()
    return float(earned)
