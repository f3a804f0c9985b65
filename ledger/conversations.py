"""Conversations: every exchange with its generation and cost, and what its user thought of it.

They live in ``luna.db`` beside the ledger but not in its chain: a user may delete what they said. What a generation
learns from them is frozen in its delta.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self, get_args

from pydantic import Field, model_validator

from ledger.database.connection import Database
from ledger.errors import LunaError
from ledger.records import Record, Sha256, Timestamp, TurnId
from ledger.roles import Role
from ledger.rules.karma import KarmaSettings, KarmaTerms
from ledger.scores import SCORE_FIELDS, Score, events_of, insert_score, karma_since, last_acceptance, settle

Level = Literal["high", "low"]
Axis = Literal["arousal", "discrepancy", "prospect", "reflection", "broadcast"]
AXES: tuple[Axis, ...] = get_args(Axis)
"""Beside valence (DESIGN section 8): how stirring the answer was, how far from what was expected, whether it looks
ahead, whether it looks back, whether one would tell others of it."""

Voice = Role | Literal["base"]


class Label(Record):
    """What a user says of one answer. All of it is optional, but something must be said."""

    valence: int | None = Field(None, ge=-2, le=2)
    """From -2 (bad) to +2 (good)."""
    arousal: Level | None = None
    discrepancy: Level | None = None
    prospect: Level | None = None
    reflection: Level | None = None
    broadcast: Level | None = None
    correction: str | None = Field(None, max_length=20_000)
    """What the answer should have been."""
    at: Timestamp

    @property
    def is_empty(self) -> bool:
        return all(getattr(self, name) is None for name in ("valence", *AXES, "correction"))


class Turn(Record):
    """One answer of one voice."""

    id: TurnId
    conversation: TurnId
    kind: Literal["generate", "dialogue"]
    lineage: str
    role: Voice
    generation: int | None
    """None: the untouched base."""
    adapter_sha: Sha256 | None
    message: str
    """What the user wrote."""
    context: str
    """What stood before it in the prompt: what was said earlier, and in a dialogue the voices before."""
    answer: str
    prompt_tokens: int = Field(ge=0)
    answer_tokens: int = Field(ge=0)
    seconds: float = Field(ge=0)
    """From the question to the end of the answer."""
    finish_reason: Literal["stop", "length", "aborted"]
    """`aborted`: the user went away, or the engine died; the answer is what had come."""
    temperature: float = Field(ge=0)
    seed: int | None
    at: Timestamp
    """When the answer ended."""

    @model_validator(mode="after")
    def _check_voice(self) -> Self:
        if (self.role == "base") != (self.generation is None) or (self.role == "base") != (self.adapter_sha is None):
            raise ValueError("a role has a generation and an adapter, the base has neither")
        return self


class LabelledTurn(Turn):
    """A turn with the label that is in force, its newest score, and what it earned by both."""

    label: Label | None = None
    score: Score | None = None
    """None until the reward model has judged it."""
    karma: float | None = None
    """None as long as nothing was earned or lost by it."""


class Heading(Record):
    """One conversation in a list."""

    conversation: str
    turns: int
    title: str
    """Its first message, shortened."""
    last_at: str


_TURN_FIELDS = tuple(Turn.model_fields)
_LABEL_FIELDS = tuple(Label.model_fields)


class Conversations:
    """Reads for everyone, writes for the coordinator."""

    def __init__(self, db: Database) -> None:
        self.db = db

    def add_turn(self, turn: Turn) -> None:
        """Store an exchange. Storing it again, as a retry may, adds nothing."""
        values = turn.model_dump()
        with self.db.writing() as connection:
            connection.execute(
                f"INSERT OR IGNORE INTO turns ({', '.join(_TURN_FIELDS)}) "
                f"VALUES ({', '.join(':' + name for name in _TURN_FIELDS)})",
                values,
            )

    def add_label(self, turn_id: str, label: Label, karma: KarmaSettings = KarmaSettings()) -> None:
        """Let this label be the one in force for a turn; those before it are kept. An empty one takes a label back.

        Where the turn is scored, its karma follows.

        Raises:
            LunaError: there is no such turn.
        """
        with self.db.writing() as connection:
            if connection.execute("SELECT 1 FROM turns WHERE id = ?", (turn_id,)).fetchone() is None:
                raise LunaError(f"there is no answer {turn_id!r} to label; its id is in what /generate gave.")
            connection.execute(
                f"INSERT INTO labels (turn_id, {', '.join(_LABEL_FIELDS)}) "
                f"VALUES (:turn_id, {', '.join(':' + name for name in _LABEL_FIELDS)})",
                {"turn_id": turn_id, **label.model_dump()},
            )
            settle(connection, turn_id, karma, label.at)

    def add_scores(self, scores: Sequence[Score], karma: KarmaSettings = KarmaSettings()) -> None:
        """Store what a reward model made of answers, and what they earn. Answers deleted meanwhile are left out."""
        with self.db.writing() as connection:
            for score in scores:
                insert_score(connection, score)
                settle(connection, score.turn_id, karma, score.at)

    def unscored(self, most: int) -> list[Turn]:
        """Whole answers without a score, oldest first, at most so many."""
        with self.db.reading() as connection:
            rows = connection.execute(
                f"SELECT {', '.join(_TURN_FIELDS)} FROM turns WHERE {_WHOLE} "
                "AND id NOT IN (SELECT turn_id FROM scores) ORDER BY number LIMIT ?",
                (most,),
            ).fetchall()
        return [Turn(**dict(zip(_TURN_FIELDS, row, strict=True))) for row in rows]

    def karma_earned(self, lineage: str) -> float:
        """Karma that a lineage's answers earned since its newest generation was accepted."""
        with self.db.reading() as connection:
            return karma_since(connection, lineage, last_acceptance(connection, lineage)[1])

    def karma_events(self, turn_id: str) -> list[tuple[float, KarmaTerms]]:
        """An answer's karma events, oldest first: the amount, and the terms of the state that it led to."""
        with self.db.reading() as connection:
            return events_of(connection, turn_id)

    def new_turns(self, lineage: str) -> list[LabelledTurn]:
        """Whole answers of a lineage's voices since its newest generation was accepted, oldest first."""
        with self.db.reading() as connection:
            rows = connection.execute(
                f"{_SELECT} WHERE lineage = ? AND turns.number > ? AND role != 'base' AND {_WHOLE} "
                "ORDER BY turns.number",
                (lineage, last_acceptance(connection, lineage)[0]),
            ).fetchall()
        return [_labelled(row) for row in rows]

    def turns(self, conversation: str, most: int | None = None) -> list[LabelledTurn]:
        """The turns of a conversation, oldest first; the last `most` of them. Empty if there is none of this id."""
        with self.db.reading() as connection:
            rows = connection.execute(
                f"{_SELECT} WHERE conversation = ? ORDER BY turns.number DESC LIMIT ?",
                (conversation, -1 if most is None else most),
            ).fetchall()
        return [_labelled(row) for row in reversed(rows)]

    def labelled_turns(self) -> list[LabelledTurn]:
        """Every turn that a label is in force for, of all conversations, oldest first."""
        with self.db.reading() as connection:
            rows = connection.execute(f"{_SELECT} WHERE labels.number IS NOT NULL ORDER BY turns.number").fetchall()
        return [turn for row in rows if (turn := _labelled(row)).label is not None]

    def latest(self, most: int = 50) -> list[Heading]:
        """The latest conversations, newest first."""
        with self.db.reading() as connection:
            rows = connection.execute(
                "SELECT ends.conversation, ends.turns, ends.at, first.message FROM "
                "(SELECT conversation, count(*) AS turns, min(number) AS low, max(number) AS high, max(at) AS at "
                "FROM turns GROUP BY conversation) AS ends "
                "JOIN turns AS first ON first.number = ends.low ORDER BY ends.high DESC LIMIT ?",
                (most,),
            ).fetchall()
        return [Heading(conversation=row[0], turns=row[1], title=_shortened(row[3]), last_at=row[2]) for row in rows]

    def count_turns(self) -> int:
        """Stored exchanges."""
        with self.db.reading() as connection:
            return int(connection.execute("SELECT count(*) FROM turns").fetchone()[0])


_WHOLE = "finish_reason != 'aborted' AND trim(answer, char(9, 10, 11, 12, 13, 32)) != ''"
_SELECTED = ", ".join(
    [
        *(f"turns.{name}" for name in _TURN_FIELDS),
        "labels.number",
        *(f"labels.{name}" for name in _LABEL_FIELDS),
        "scores.number",
        *(f"scores.{name}" for name in SCORE_FIELDS),
        "(SELECT sum(amount) FROM karma_events WHERE turn_id = turns.id)",
    ]
)
_SELECT = (
    f"SELECT {_SELECTED} FROM turns "
    "LEFT JOIN labels ON labels.number = (SELECT max(number) FROM labels WHERE turn_id = turns.id) "
    "LEFT JOIN scores ON scores.number = (SELECT max(number) FROM scores WHERE turn_id = turns.id)"
)


def _labelled(row: tuple[Any, ...]) -> LabelledTurn:
    rest = iter(row)
    turn = {name: next(rest) for name in _TURN_FIELDS}
    label_number, said = next(rest), {name: next(rest) for name in _LABEL_FIELDS}
    score_number, judged = next(rest), {name: next(rest) for name in SCORE_FIELDS}
    label = None if label_number is None else Label(**said)
    return LabelledTurn(
        **turn,
        label=None if label is None or label.is_empty else label,
        score=None if score_number is None else Score(**judged),
        karma=next(rest),
    )


def _shortened(message: str, length: int = 80) -> str:
    line = " ".join(message.split())
    return line if len(line) <= length else line[: length - 1] + "…"
