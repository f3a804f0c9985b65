"""Conversations: every exchange with its generation and cost, and what its user thought of it.

They live in ``luna.db`` beside the ledger but not in its chain: users may delete what they said. What a generation
learns from them is frozen in its delta.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Self, get_args

from pydantic import Field, ValidationError, model_validator

from ledger.database.connection import Database, damaged_row
from ledger.errors import LunaError
from ledger.records import Record, Sha256, Timestamp, TurnId
from ledger.roles import Voice
from ledger.rules.karma import KarmaSettings
from ledger.scores import SCORE_FIELDS, Score, insert_score, karma_since, last_spent, settle

Level = Literal["high", "low"]
Axis = Literal["arousal", "discrepancy", "prospect", "reflection", "broadcast"]
AXES: tuple[Axis, ...] = get_args(Axis)
"""Besides valence (DESIGN section 8): how stirring the answer was, how unexpected, whether it looks ahead, whether it
looks back, whether one would share it."""


class Label(Record):
    """A user's label of one answer. Every field is optional; a label without any takes the earlier one back."""

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
    """Text before it in the prompt: earlier turns, and in a dialogue the voices before this one."""
    answer: str
    prompt_tokens: int = Field(ge=0)
    answer_tokens: int = Field(ge=0)
    seconds: float = Field(ge=0)
    """From the question to the end of the answer."""
    finish_reason: Literal["stop", "length", "aborted"]
    """`aborted`: the client disconnected or the engine died; the answer is partial."""
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
    """A turn with its current label, its newest score and its karma."""

    label: Label | None = None
    score: Score | None = None
    """None until a reward model has scored it."""
    karma: float | None = None
    """None while it has neither earned nor lost any."""


class Heading(Record):
    """One conversation in a list."""

    conversation: str
    turns: int
    title: str
    """Its first message, shortened."""
    last_at: str


class Exchanges(Record):
    """The newest exchanges of a conversation, (message, answer), oldest first."""

    newest: tuple[tuple[str, str], ...]
    older: int
    """How many stand before these."""


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
        """Make this the current label of a turn; earlier ones are kept, and an empty one withdraws them.

        The karma of a scored turn is brought up to date.

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
        """Store a reward model's scores and the karma they earn. Scores of deleted answers are skipped."""
        with self.db.writing() as connection:
            for score in scores:
                insert_score(connection, score)
                settle(connection, score.turn_id, karma, score.at)

    def unscored(self, most: int) -> list[Turn]:
        """The oldest `most` complete answers without a score."""
        with self.db.reading() as connection:
            rows = connection.execute(
                f"SELECT {', '.join(_TURN_FIELDS)} FROM turns WHERE {_WHOLE} "
                "AND id NOT IN (SELECT turn_id FROM scores) ORDER BY number LIMIT ?",
                (most,),
            ).fetchall()
            return [Turn(**dict(row)) for row in rows]

    def karma_earned(self, lineage: str) -> float:
        """Karma that a lineage's answers earned since its newest generation was accepted."""
        with self.db.reading() as connection:
            return karma_since(connection, lineage, last_spent(connection, lineage))

    def teaching_turns(self, lineage: str, least_scalar: float) -> list[LabelledTurn]:
        """Answers of a lineage that can teach, oldest first: with a label, or a score above `least_scalar`.

        Two indexes find them; what nobody labelled and no model liked is not read.
        """
        with self.db.reading() as connection:
            rows = connection.execute(
                f"{_SELECT} WHERE turns.lineage = ? AND turns.id IN (SELECT turn_id FROM labels UNION "
                "SELECT turn_id FROM scores WHERE scalar_preference > ?) ORDER BY turns.number",
                (lineage, least_scalar),
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

    def exchanges(self, conversation: str, most: int) -> Exchanges | None:
        """What was asked and heard in a conversation, of a dialogue only its synthesis, or the voice at which
        it was stopped; None if there is none."""
        heard = "conversation = ? AND (kind = 'generate' OR role = 'dialectical' OR finish_reason = 'aborted')"
        with self.db.reading() as connection:
            if connection.execute("SELECT 1 FROM turns WHERE conversation = ?", (conversation,)).fetchone() is None:
                return None
            total = connection.execute(f"SELECT count(*) FROM turns WHERE {heard}", (conversation,)).fetchone()[0]
            rows = connection.execute(
                f"SELECT message, answer FROM turns WHERE {heard} ORDER BY number DESC LIMIT ?", (conversation, most)
            ).fetchall()
        newest = tuple((row["message"], row["answer"]) for row in reversed(rows))
        return Exchanges(newest=newest, older=total - len(newest))

    def labelled_turns(self) -> list[LabelledTurn]:
        """Every turn with a current label, of all conversations, oldest first."""
        with self.db.reading() as connection:
            rows = connection.execute(f"{_SELECT} WHERE labels.number IS NOT NULL ORDER BY turns.number").fetchall()
        return [turn for row in rows if (turn := _labelled(row)).label is not None]

    def latest(self, most: int = 50) -> list[Heading]:
        """The latest conversations, newest first."""
        with self.db.reading() as connection:
            rows = connection.execute(
                "SELECT ends.conversation, ends.turns, first.message AS title, ends.at AS last_at FROM "
                "(SELECT conversation, count(*) AS turns, min(number) AS low, max(number) AS high, max(at) AS at "
                "FROM turns GROUP BY conversation) AS ends "
                "JOIN turns AS first ON first.number = ends.low ORDER BY ends.high DESC LIMIT ?",
                (most,),
            ).fetchall()
            return [Heading(**dict(row) | {"title": _shortened(row["title"])}) for row in rows]


_WHOLE = "finish_reason != 'aborted' AND trim(answer, char(9, 10, 11, 12, 13, 32)) != ''"
_COLUMNS = {"turns": _TURN_FIELDS, "labels": ("number", *_LABEL_FIELDS), "scores": ("number", *SCORE_FIELDS)}
_SELECTED = ", ".join(f'{table}.{name} AS "{table}.{name}"' for table, names in _COLUMNS.items() for name in names)
_SELECT = (
    f"SELECT {_SELECTED}, (SELECT sum(amount) FROM karma_events WHERE turn_id = turns.id) AS karma FROM turns "
    "LEFT JOIN labels ON labels.number = (SELECT max(number) FROM labels WHERE turn_id = turns.id) "
    "LEFT JOIN scores ON scores.number = (SELECT max(number) FROM scores WHERE turn_id = turns.id)"
)


def _labelled(row: sqlite3.Row) -> LabelledTurn:
    try:
        label = Label(**_fields(row, "labels", _LABEL_FIELDS)) if row["labels.number"] is not None else None
        score = Score(**_fields(row, "scores", SCORE_FIELDS)) if row["scores.number"] is not None else None
        return LabelledTurn(
            **_fields(row, "turns", _TURN_FIELDS),
            label=None if label is None or label.is_empty else label,
            score=score,
            karma=row["karma"],
        )
    except ValidationError as error:
        raise damaged_row(error) from error


def _fields(row: sqlite3.Row, table: str, names: Iterable[str]) -> dict[str, Any]:
    return {name: row[f"{table}.{name}"] for name in names}


def _shortened(message: str, length: int = 80) -> str:
    if not isinstance(message, str):  # SQLite keeps what it is given
        raise damaged_row(TypeError("a message is no text"))
    line = " ".join(message.split())
    return line if len(line) <= length else line[: length - 1] + "…"
