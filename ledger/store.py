"""The ledger: an append-only chain of lineages, judged generations, their scores, head moves and stops."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from ledger.conversations import Conversations
from ledger.database import chain, queries
from ledger.database.connection import Database
from ledger.errors import LunaError
from ledger.files import write_atomic
from ledger.home import Home
from ledger.journal import RunJournal
from ledger.judgement import already_judged, check_head_move, check_judgement
from ledger.records import EvalRecord, GenerationRow, HeadMove, Lineage, Stop, generation_verdict
from ledger.rules.stop_rule import GenerationScores, generation_scores
from ledger.scores import note_acceptance

_LINEAGE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


class Ledger:
    """The chain of one home. Where a method takes `lineage`, the default is the current one."""

    def __init__(self, db: Database) -> None:
        self.db = db

    @classmethod
    def create(cls, home: Home) -> Self:
        """Open as the writer, making what is missing; heals a CSV that a crash left behind the chain.

        Raises:
            LunaError: if another process is the writer, or the disk refuses.
        """
        return cls(Database.create(home))._healed()

    @classmethod
    def open(cls, home: Home, writer: bool = False) -> Self:
        """Open an existing home's ledger, as its only writer or as one of many readers.

        Raises:
            LunaError: as :meth:`Database.open` does.
        """
        ledger = cls(Database.open(home, writer))
        return ledger._healed() if writer else ledger

    def close(self) -> None:
        """Close the database. Safe to call twice."""
        self.db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- lineages ------------------------------------------------------------------------------------------

    def create_lineage(self, name: str, base_sha: str) -> None:
        """Begin a lineage over a base and make it the current one. Creating the same one again adds nothing.

        Raises:
            LunaError: if the name is unusable, or stands for a lineage over another base.
        """
        if not _LINEAGE_NAME.fullmatch(name):
            raise LunaError(
                f"{name!r} cannot name a lineage; use up to 63 of a-z, 0-9, '-' and '_', "
                "beginning with a letter or digit."
            )
        lineage = Lineage(name=name, base_sha=base_sha)
        with self.db.writing() as connection:
            known = queries.find_lineage(connection, name)
            if known is None:
                queries.append_record(connection, "lineage", name, lineage)
            elif known != lineage:
                raise LunaError(
                    f"lineage {name!r} stands on the base {known.base_sha[:12]}, not on {base_sha[:12]}. "
                    "Choose another name for a lineage over the new base."
                )
            queries.make_current(connection, name)

    def lineages(self) -> list[Lineage]:
        """All lineages, oldest first."""
        with self.db.reading() as connection:
            return [queries.parse(Lineage, entry) for entry in chain.read(connection, "lineage")]

    def current_lineage(self) -> str:
        """Name of the current lineage.

        Raises:
            LunaError: if the home has no lineage yet.
        """
        with self.db.reading() as connection:
            return queries.current_lineage(connection)

    # -- generations ---------------------------------------------------------------------------------------

    def record_judgement(
        self,
        rows: Sequence[GenerationRow],
        evals: Sequence[EvalRecord],
        head_move: HeadMove | None = None,
        stop: Stop | None = None,
    ) -> None:
        """Record a judged generation, its scores, the head's move and a stop: in one transaction, or nothing.

        An accepted generation that becomes the head sets karma back to 0. Then the CSV is derived. Recording the same
        generation again, as a restart may, adds nothing.

        Raises:
            LunaError: if the judgement does not fit the lineage, or the disk refuses.
        """
        generation_verdict(rows)
        with self.db.writing() as connection:
            _append_judgement(connection, rows, evals, head_move, stop)
        self.derive_csv()

    def rows(self, lineage: str | None = None) -> list[GenerationRow]:
        """Every row of a lineage in the order recorded, rejected ones too."""
        with self.db.reading() as connection:
            return queries.records(connection, GenerationRow, "generation", _name(connection, lineage))

    def generation(self, gen_id: int, lineage: str | None = None) -> list[GenerationRow]:
        """The rows of one generation, one a role.

        Raises:
            LunaError: if it was never judged.
        """
        with self.db.reading() as connection:
            name = _name(connection, lineage)
            found = queries.records(connection, GenerationRow, "generation", name, gen_id)
        if not found:
            raise LunaError(
                f"lineage {name!r} has no judged generation G{gen_id}; `luna generation list` shows what there is."
            )
        return found

    def is_judged(self, gen_id: int, lineage: str | None = None) -> bool:
        """Whether a generation has its verdict."""
        with self.db.reading() as connection:
            name = _name(connection, lineage)
            return next(chain.read(connection, "generation", name, gen_id), None) is not None

    def evals(self, gen_id: int, lineage: str | None = None) -> list[EvalRecord]:
        """The scores of one generation in the order recorded; empty if it was never judged."""
        with self.db.reading() as connection:
            return queries.records(connection, EvalRecord, "eval", _name(connection, lineage), gen_id)

    def all_evals(self, lineage: str | None = None) -> list[EvalRecord]:
        """The scores of every judged generation in the order recorded."""
        with self.db.reading() as connection:
            return queries.records(connection, EvalRecord, "eval", _name(connection, lineage))

    def judged_scores(self, lineage: str | None = None) -> list[GenerationScores]:
        """What the stop rule asks of every judged generation, oldest first."""
        with self.db.reading() as connection:
            generations = queries.generations(connection, _name(connection, lineage))
        return [generation_scores(rows) for rows in generations.values()]

    def next_gen_id(self, lineage: str | None = None) -> int:
        """The number for the next run: above every number judged or reserved by a run, however it ended."""
        with self.db.reading() as connection:
            (highest,) = connection.execute(
                "SELECT max(gen_id) FROM (SELECT gen_id FROM entries WHERE lineage = :name "
                "UNION ALL SELECT gen_id FROM runs WHERE lineage = :name)",
                {"name": _name(connection, lineage)},
            ).fetchone()
        return 0 if highest is None else int(highest) + 1

    # -- head and stop -------------------------------------------------------------------------------------

    def head(self, lineage: str | None = None) -> int | None:
        """Number of the newest accepted generation, ``None`` before the first."""
        with self.db.reading() as connection:
            return queries.head(connection, _name(connection, lineage))

    def parent_chain(self, gen_id: int, lineage: str | None = None) -> list[int]:
        """A generation and its accepted ancestors, newest first.

        Raises:
            LunaError: if it was never judged.
        """
        self.generation(gen_id, lineage)
        with self.db.reading() as connection:
            generations = queries.generations(connection, _name(connection, lineage))
        line = [gen_id]
        while (parent := generations[line[-1]][0].parent_gen) is not None:
            line.append(parent)
        return line

    def age(self, lineage: str | None = None) -> int | None:
        """Number of the head's accepted ancestors, ``None`` before the first accepted generation.

        Equals the head's generation number when nothing was ever rejected, abandoned or rolled back.
        """
        head = self.head(lineage)
        return None if head is None else len(self.parent_chain(head, lineage)) - 1

    def move_head(self, move: HeadMove, lineage: str | None = None) -> None:
        """Move the head to another accepted generation, for instance back. If it is there already, nothing is
        added.

        Raises:
            LunaError: if the target was not accepted, or the head is not where the move says it starts.
        """
        with self.db.writing() as connection:
            name = _name(connection, lineage)
            head = queries.head(connection, name)
            if head != move.to_gen:
                check_head_move(move, head, queries.generations(connection, name))
                queries.append_record(connection, "head", name, move, move.to_gen)

    def stop_of(self, lineage: str | None = None) -> Stop | None:
        """The stop in force. It ends once a later generation, on changed data then, has been judged."""
        with self.db.reading() as connection:
            name = _name(connection, lineage)
            stops = list(chain.read(connection, "stop", name))
            if not stops:
                return None
            judged_last = [entry.seq for entry in chain.read(connection, "generation", name)][-1]
            return queries.parse(Stop, stops[-1]) if judged_last < stops[-1].seq else None

    def last_stop_gen(self, lineage: str | None = None) -> int | None:
        """The generation whose judgement fired the stop rule last, ``None`` if it never did."""
        with self.db.reading() as connection:
            stops = list(chain.read(connection, "stop", _name(connection, lineage)))
        return stops[-1].gen_id if stops else None

    # -- derived -------------------------------------------------------------------------------------------

    def derive_csv(self) -> None:
        """Write ``lineage_ledger.csv`` anew if it differs from what the chain says.

        Raises:
            LunaError: if the disk refuses. The chain is complete without it; the next writer derives again.
        """
        with self.db.reading() as connection:  # until the file is written, so that no other thread overtakes this one
            text, path = queries.derived_csv(connection), self.db.home.csv
            if not path.is_file() or path.read_bytes() != text.encode():
                write_atomic(path, text)

    def _healed(self) -> Self:
        try:
            self.derive_csv()
        except BaseException:
            self.close()
            raise
        return self


def _name(connection: sqlite3.Connection, lineage: str | None) -> str:
    """The lineage asked for, checked, or the current one."""
    if lineage is None:
        return queries.current_lineage(connection)
    return queries.known_lineage(connection, lineage).name


def _append_judgement(
    connection: sqlite3.Connection,
    rows: Sequence[GenerationRow],
    evals: Sequence[EvalRecord],
    head_move: HeadMove | None,
    stop: Stop | None,
) -> None:
    name, gen_id = rows[0].lineage, rows[0].gen_id
    lineage, generations = queries.known_lineage(connection, name), queries.generations(connection, name)
    if already_judged(rows, generations):
        return
    check_judgement(rows, evals, head_move, lineage, generations, queries.head(connection, name))
    for row in rows:
        queries.append_record(connection, "generation", name, row, gen_id, row.role)
    for score in evals:
        queries.append_record(connection, "eval", name, score, gen_id, score.role)
    if head_move:
        queries.append_record(connection, "head", name, head_move, head_move.to_gen)
        if head_move.to_gen == gen_id:
            note_acceptance(connection, name, gen_id)
    if stop:
        queries.append_record(connection, "stop", name, stop, gen_id)


@dataclass(frozen=True)
class Stores:
    """The three stores of one home, over one database."""

    ledger: Ledger
    journal: RunJournal
    conversations: Conversations

    @classmethod
    def of(cls, ledger: Ledger) -> Self:
        """All three over an open ledger's database."""
        return cls(ledger, RunJournal(ledger.db), Conversations(ledger.db))

    @classmethod
    def create(cls, home: Home) -> Self:
        """Open as the writer, making what is missing: see :meth:`Ledger.create`."""
        return cls.of(Ledger.create(home))

    @classmethod
    def open(cls, home: Home) -> Self:
        """Open an existing home for reading: see :meth:`Ledger.open`."""
        return cls.of(Ledger.open(home))

    def close(self) -> None:
        """Close the database. Safe to call twice."""
        self.ledger.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
