"""The ledger: an append-only chain of lineages, judged generations, their scores, head moves and stops."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Self

from ledger.conversations import Conversations
from ledger.database import chain, line, queries
from ledger.database.connection import Database
from ledger.database.csv_export import continue_csv, expect_rows, rewrite_csv
from ledger.errors import LunaError
from ledger.home import Home
from ledger.journal import RunJournal
from ledger.records import EvalRecord, GenerationRow, HeadMove, Lineage, Stop, generation_verdict
from ledger.roles import ROLES
from ledger.rules.judgement import already_judged, check_head_move, check_judgement
from ledger.rules.stop_rule import GenerationScores, generation_scores
from ledger.scores import note_acceptance
from ledger.taken import Side, Taken, TakenNote, insert_taken, note_examples, sides_of, taken_among

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
        taken: Sequence[Taken] = (),
    ) -> None:
        """Record a judged generation, its scores, the head's move and a stop: in one transaction, or nothing.

        A generation that becomes the head takes its examples, and spends the karma that had been earned when its run
        began. Then the CSV is derived. Recording the same generation again, as a restart may, adds nothing.

        Raises:
            LunaError: if the judgement does not fit the lineage, or the disk refuses.
        """
        generation_verdict(rows)
        with self.db.writing() as connection:
            is_new = _append_judgement(connection, rows, evals, head_move, stop)
            if is_new and head_move and head_move.to_gen == rows[0].gen_id:
                note_acceptance(connection, rows[0].lineage, rows[0].gen_id, rows[0].run_id)
                _append_taken(connection, rows[0].lineage, rows[0].gen_id, taken)
        self.derive_csv()

    def rows(self, lineage: str | None = None) -> list[GenerationRow]:
        """Every row of a lineage in the order recorded, rejected ones too."""
        with self.db.reading() as connection:
            return queries.records(connection, GenerationRow, "generation", _name(connection, lineage))

    def latest_rows(self, generations: int | None) -> tuple[list[tuple[GenerationRow, str]], bool]:
        """Rows of all lineages with their ``row_sha``, in the order recorded, and whether there are earlier ones.

        Of the latest so many generations, or of all.
        """
        most = None if generations is None else generations * len(ROLES)
        with self.db.reading() as connection:
            newest = chain.read(connection, "generation", newest_first=True)
            found = [(queries.parse(GenerationRow, entry), entry.row_sha) for entry in islice(newest, most)]
            return found[::-1], next(newest, None) is not None

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

    def last_judged(self, lineage: str | None = None) -> list[GenerationRow]:
        """The rows of the generation that was judged last, one a role; empty before the first."""
        with self.db.reading() as connection:
            name = _name(connection, lineage)
            newest = line.newest(connection, queries.lineage_number(connection, name))
            return queries.generations(connection, name, [newest]).get(newest, []) if newest is not None else []

    def is_judged(self, gen_id: int, lineage: str | None = None) -> bool:
        """Whether a generation has its verdict."""
        with self.db.reading() as connection:
            name = _name(connection, lineage)
            return bool(queries.generations(connection, name, [gen_id]))

    def evals(self, gen_id: int, lineage: str | None = None) -> list[EvalRecord]:
        """The scores of one generation in the order recorded; empty if it was never judged."""
        with self.db.reading() as connection:
            return queries.records(connection, EvalRecord, "eval", _name(connection, lineage), gen_id)

    def all_evals(self, lineage: str | None = None) -> list[EvalRecord]:
        """The scores of every judged generation in the order recorded."""
        with self.db.reading() as connection:
            return queries.records(connection, EvalRecord, "eval", _name(connection, lineage))

    def stop_window(self, gen_id: int, parent_gen: int | None, lineage: str | None = None) -> list[GenerationScores]:
        """What the stop rule asks of earlier generations when a new child of `parent_gen` is judged, oldest first."""
        with self.db.reading() as connection:
            name = _name(connection, lineage)
            number = queries.lineage_number(connection, name)
            asked = [] if parent_gen is None else line.compared_with(connection, number, gen_id, parent_gen)
            return [
                generation_scores(rows, queries.records(connection, EvalRecord, "eval", name, earlier))
                for earlier, rows in queries.generations(connection, name, asked).items()
            ]

    def next_gen_id(self, lineage: str | None = None) -> int:
        """The number for the next run: above every number judged or reserved by a run, however it ended."""
        with self.db.reading() as connection:
            name = _name(connection, lineage)
            judged = line.newest(connection, queries.lineage_number(connection, name))
            (reserved,) = connection.execute("SELECT max(gen_id) FROM runs WHERE lineage = ?", (name,)).fetchone()
        return max((number for number in (judged, reserved) if number is not None), default=-1) + 1

    # -- taken ---------------------------------------------------------------------------------------------

    def taken_among(self, ids: Collection[str], lineage: str | None = None) -> set[str]:
        """Those of the examples that the head or one of its ancestors trained on or measured on."""
        with self.db.reading() as connection:
            return taken_among(connection, _number(connection, lineage), ids)

    def sides_of(self, keys: Collection[int], lineage: str | None = None) -> dict[int, frozenset[Side]]:
        """On which side of the split keys stand, those that do. They stay there, whatever is rolled back."""
        with self.db.reading() as connection:
            return sides_of(connection, _number(connection, lineage), keys)

    def has_taken(self, gen_id: int, lineage: str | None = None) -> bool:
        """Whether it is recorded what a generation took."""
        with self.db.reading() as connection:
            return _taken_note(connection, _name(connection, lineage), gen_id) is not None

    def note_taken(self, gen_id: int, taken: Sequence[Taken], lineage: str | None = None) -> None:
        """Record what a generation took that was judged before this was asked. Noting the same again adds nothing.

        Raises:
            LunaError: if it was never accepted, or is known to have taken something else.
        """
        with self.db.writing() as connection:
            name = _name(connection, lineage)
            rows = queries.generations(connection, name, [gen_id]).get(gen_id)
            if rows is None or generation_verdict(rows) != "accepted":
                raise LunaError(
                    f"G{gen_id} of lineage {name!r} was never accepted; only an accepted one takes examples."
                )
            known = _taken_note(connection, name, gen_id)
            if known is None:
                _append_taken(connection, name, gen_id, taken)
            elif known.model_dump(include={"examples", "held_out", "id_sum"}) != note_examples(taken):
                raise LunaError(f"G{gen_id} of lineage {name!r} is known to have taken other examples than these.")

    # -- head and stop -------------------------------------------------------------------------------------

    def head(self, lineage: str | None = None) -> int | None:
        """Number of the newest accepted generation, ``None`` before the first."""
        with self.db.reading() as connection:
            return line.head(connection, _number(connection, lineage))

    def parent_chain(self, gen_id: int, lineage: str | None = None) -> list[int]:
        """A generation and its accepted ancestors, newest first.

        Raises:
            LunaError: if it was never judged.
        """
        self.generation(gen_id, lineage)
        with self.db.reading() as connection:
            return line.ancestry(connection, _number(connection, lineage), gen_id)

    def age(self, lineage: str | None = None) -> int | None:
        """Number of the head's accepted ancestors, ``None`` before the first accepted generation.

        Equals the head's generation number when nothing was ever rejected, abandoned or rolled back.
        """
        with self.db.reading() as connection:
            number = _number(connection, lineage)
            head = line.head(connection, number)
            return None if head is None else line.age_of(connection, number, head)

    def move_head(self, move: HeadMove, lineage: str | None = None) -> None:
        """Move the head to another accepted generation, for instance back. If it is there already, nothing is
        added.

        Raises:
            LunaError: if the target was not accepted, or the head is not where the move says it starts.
        """
        with self.db.writing() as connection:
            name = _name(connection, lineage)
            number = queries.lineage_number(connection, name)
            head = line.head(connection, number)
            if head != move.to_gen:
                check_head_move(move, head, queries.generations(connection, name, [move.to_gen]))
                queries.append_record(connection, "head", name, move, move.to_gen)
                line.move_line(connection, number, move.to_gen)

    def stop_of(self, lineage: str | None = None) -> Stop | None:
        """The stop in force. It ends once a later generation, on changed data then, has been judged."""
        with self.db.reading() as connection:
            name = _name(connection, lineage)
            stop = chain.newest(connection, "stop", name)
            judged = line.newest(connection, queries.lineage_number(connection, name))
            return None if stop is None or stop.gen_id != judged else queries.parse(Stop, stop)

    def last_stop_gen(self, lineage: str | None = None) -> int | None:
        """The generation whose judgement fired the stop rule last, ``None`` if it never did."""
        with self.db.reading() as connection:
            stop = chain.newest(connection, "stop", _name(connection, lineage))
        return stop.gen_id if stop else None

    # -- derived -------------------------------------------------------------------------------------------

    def derive_csv(self) -> None:
        """Make ``lineage_ledger.csv`` what the chain says: continued at its end, or written anew where it differs.

        Raises:
            LunaError: if the disk refuses. The chain is complete without it; the next writer derives again.
        """
        path = self.db.home.csv
        with self.db.reading() as connection:  # until the file is written, so that no other thread overtakes this one
            if continue_csv(connection, path):
                return
        with self.db.writing() as connection:
            rewrite_csv(connection, path)

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


def _number(connection: sqlite3.Connection, lineage: str | None) -> int:
    """The number of the lineage asked for, or of the current one."""
    return queries.lineage_number(connection, _name(connection, lineage))


def _append_judgement(
    connection: sqlite3.Connection,
    rows: Sequence[GenerationRow],
    evals: Sequence[EvalRecord],
    head_move: HeadMove | None,
    stop: Stop | None,
) -> bool:
    """Add a judgement to the chain and the tables derived from it; False if it is there already."""
    name, gen_id, parent_gen = rows[0].lineage, rows[0].gen_id, rows[0].parent_gen
    lineage, number = queries.known_lineage(connection, name), queries.lineage_number(connection, name)
    target = head_move.to_gen if head_move else None
    known = queries.generations(connection, name, [gen_id, parent_gen, target, line.newest(connection, number)])
    if already_judged(rows, known):
        return False
    check_judgement(rows, evals, head_move, lineage, known, line.head(connection, number))
    shas = [queries.append_record(connection, "generation", name, row, gen_id, row.role).row_sha for row in rows]
    expect_rows(connection, zip(rows, shas, strict=True))
    line.add_generation(connection, number, gen_id, parent_gen)
    for score in evals:
        queries.append_record(connection, "eval", name, score, gen_id, score.role)
    if head_move:
        queries.append_record(connection, "head", name, head_move, head_move.to_gen)
        line.move_line(connection, number, head_move.to_gen)
    if stop:
        queries.append_record(connection, "stop", name, stop, gen_id)
    return True


def _append_taken(connection: sqlite3.Connection, name: str, gen_id: int, taken: Sequence[Taken]) -> None:
    if taken:
        note = insert_taken(connection, queries.lineage_number(connection, name), gen_id, taken)
        queries.append_record(connection, "taken", name, note, gen_id)


def _taken_note(connection: sqlite3.Connection, name: str, gen_id: int) -> TakenNote | None:
    notes = queries.records(connection, TakenNote, "taken", name, gen_id)
    return notes[0] if notes else None


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
