"""The database's schema as small numbered steps of SQL, each applied once and never changed after a release."""

from __future__ import annotations

import sqlite3

from ledger.errors import LunaError

CHAIN = """
-- The hash chain. AUTOINCREMENT remembers the highest number ever given, so a cut-off end is noticed.
CREATE TABLE entries (
    seq      INTEGER PRIMARY KEY AUTOINCREMENT,
    kind     TEXT NOT NULL,
    lineage  TEXT NOT NULL,
    gen_id   INTEGER,
    role     TEXT,
    body     TEXT NOT NULL,
    prev_sha TEXT NOT NULL,
    row_sha  TEXT NOT NULL UNIQUE
);
CREATE INDEX entries_by_lineage ON entries (lineage, kind, gen_id);
CREATE TRIGGER entries_no_update BEFORE UPDATE ON entries
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER entries_no_delete BEFORE DELETE ON entries
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
"""

RUN_JOURNAL = """
-- What runs, and how far it came. Operational: not part of the chain.
CREATE TABLE runs (
    run_id     TEXT PRIMARY KEY,
    lineage    TEXT NOT NULL,
    gen_id     INTEGER NOT NULL,
    request    TEXT NOT NULL,
    state      TEXT NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'done', 'failed', 'abandoned')),
    message    TEXT NOT NULL DEFAULT '',
    started_at TEXT NOT NULL,
    ended_at   TEXT
);
CREATE UNIQUE INDEX one_open_run ON runs (lineage) WHERE state = 'open';
CREATE TABLE run_steps (
    number  INTEGER PRIMARY KEY,
    run_id  TEXT NOT NULL REFERENCES runs (run_id),
    step    TEXT NOT NULL,
    phase   TEXT NOT NULL CHECK (phase IN ('before', 'after')),
    payload TEXT NOT NULL,
    at      TEXT NOT NULL
);
CREATE INDEX run_steps_by_run ON run_steps (run_id, step, phase);
"""

CONVERSATIONS = """
-- Exchanges with users and their labels. Not part of the chain; a user may delete them.
-- Numbers keep the order of arrival, which the clock's whole seconds do not.
CREATE TABLE turns (
    number        INTEGER PRIMARY KEY AUTOINCREMENT,
    id            TEXT NOT NULL UNIQUE,
    conversation  TEXT NOT NULL,
    kind          TEXT NOT NULL,
    lineage       TEXT NOT NULL,
    role          TEXT NOT NULL,
    generation    INTEGER,
    adapter_sha   TEXT,
    message       TEXT NOT NULL,
    context       TEXT NOT NULL,
    answer        TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    answer_tokens INTEGER NOT NULL,
    seconds       REAL NOT NULL,
    finish_reason TEXT NOT NULL,
    temperature   REAL NOT NULL,
    seed          INTEGER,
    at            TEXT NOT NULL
);
CREATE INDEX turns_by_conversation ON turns (conversation, number);
CREATE TABLE labels (
    number      INTEGER PRIMARY KEY AUTOINCREMENT,
    turn_id     TEXT NOT NULL REFERENCES turns (id) ON DELETE CASCADE,
    valence     INTEGER,
    arousal     TEXT,
    discrepancy TEXT,
    prospect    TEXT,
    reflection  TEXT,
    broadcast   TEXT,
    correction  TEXT,
    at          TEXT NOT NULL
);
CREATE INDEX labels_by_turn ON labels (turn_id, number);
"""

SCORES_AND_KARMA = """
-- The reward model's scores and what answers earned, which go with the turn that they are about; and where
-- conversations stood when a generation was accepted.
CREATE TABLE scores (
    number              INTEGER PRIMARY KEY AUTOINCREMENT,
    turn_id             TEXT NOT NULL REFERENCES turns (id) ON DELETE CASCADE,
    model               TEXT NOT NULL,
    empathy             REAL NOT NULL,
    social_coherence    REAL NOT NULL,
    agency_support      REAL NOT NULL,
    epistemic_integrity REAL NOT NULL,
    harm_avoidance      REAL NOT NULL,
    narrative_alignment REAL NOT NULL,
    curiosity           REAL NOT NULL,
    reward_intensity    REAL NOT NULL,
    safety_score        REAL NOT NULL,
    scalar_preference   REAL NOT NULL,
    gate                REAL NOT NULL,
    at                  TEXT NOT NULL,
    UNIQUE (turn_id, model)
);
CREATE TABLE karma_events (
    number  INTEGER PRIMARY KEY AUTOINCREMENT,
    turn_id TEXT NOT NULL REFERENCES turns (id) ON DELETE CASCADE,
    lineage TEXT NOT NULL,
    amount  REAL NOT NULL,
    terms   TEXT NOT NULL,
    at      TEXT NOT NULL
);
CREATE INDEX karma_events_by_turn ON karma_events (turn_id);
CREATE INDEX karma_events_by_lineage ON karma_events (lineage, number);
CREATE TABLE acceptances (
    number     INTEGER PRIMARY KEY AUTOINCREMENT,
    lineage    TEXT NOT NULL,
    gen_id     INTEGER NOT NULL,
    last_turn  INTEGER NOT NULL,
    last_event INTEGER NOT NULL
);
"""

INDEXED = """
-- What makes every question to the ledger an index look-up. Derived from the chain, in the transaction that appends to
-- it; `luna ledger verify` compares. A lineage is the number of its own entry in the chain.
CREATE INDEX IF NOT EXISTS entries_by_kind ON entries (kind);
CREATE TABLE generations (
    lineage    INTEGER NOT NULL,
    gen_id     INTEGER NOT NULL,
    parent_gen INTEGER,
    age        INTEGER NOT NULL,
    PRIMARY KEY (lineage, gen_id)
) WITHOUT ROWID;
CREATE INDEX generations_by_parent ON generations (lineage, parent_gen, gen_id);
INSERT INTO generations
    SELECT base.seq, row.gen_id, json_extract(row.body, '$.parent_gen'), 0
    FROM entries AS row JOIN entries AS base ON base.lineage = row.lineage AND base.kind = 'lineage'
    WHERE row.kind = 'generation' AND json_valid(row.body) GROUP BY base.seq, row.gen_id;
WITH RECURSIVE walk (lineage, gen_id, age) AS (
    SELECT lineage, gen_id, 0 FROM generations WHERE parent_gen IS NULL
    UNION ALL
    SELECT child.lineage, child.gen_id, walk.age + 1 FROM walk
    JOIN generations AS child ON child.lineage = walk.lineage AND child.parent_gen = walk.gen_id
)
UPDATE generations SET age = walk.age FROM walk
WHERE walk.lineage = generations.lineage AND walk.gen_id = generations.gen_id;
-- The head and its ancestors; numbers grow along it, so that the highest is the head.
CREATE TABLE line (
    lineage INTEGER NOT NULL,
    gen_id  INTEGER NOT NULL,
    PRIMARY KEY (lineage, gen_id)
) WITHOUT ROWID;
WITH RECURSIVE walk (lineage, gen_id) AS (
    SELECT base.seq, (
        SELECT move.gen_id FROM entries AS move WHERE move.lineage = base.lineage AND move.kind = 'head'
        ORDER BY move.seq DESC LIMIT 1
    ) FROM entries AS base WHERE base.kind = 'lineage'
    UNION ALL
    SELECT child.lineage, child.parent_gen FROM walk
    JOIN generations AS child ON child.lineage = walk.lineage AND child.gen_id = walk.gen_id
)
INSERT INTO line SELECT lineage, gen_id FROM walk WHERE gen_id IS NOT NULL;
-- Examples that a generation trained on or measured on (side 0: train, 1: holdout), and for good where the keys of
-- examples and preference pairs stand. `example`: the first 16 bytes of its id.
CREATE TABLE taken (
    lineage INTEGER NOT NULL,
    example BLOB NOT NULL,
    gen_id  INTEGER NOT NULL,
    side    INTEGER NOT NULL CHECK (side IN (0, 1)),
    PRIMARY KEY (lineage, example, gen_id)
) WITHOUT ROWID;
CREATE TABLE sides (
    lineage INTEGER NOT NULL,
    key     INTEGER NOT NULL,
    side    INTEGER NOT NULL CHECK (side IN (0, 1)),
    gen_id  INTEGER NOT NULL,
    PRIMARY KEY (lineage, key, side, gen_id)
) WITHOUT ROWID;
-- The latest rows wait here until there are many: in the large tables each changes a page of its own.
CREATE TABLE latest_taken (
    lineage INTEGER NOT NULL,
    example BLOB NOT NULL,
    gen_id  INTEGER NOT NULL,
    side    INTEGER NOT NULL CHECK (side IN (0, 1)),
    PRIMARY KEY (lineage, example, gen_id)
) WITHOUT ROWID;
CREATE TABLE latest_sides (
    lineage INTEGER NOT NULL,
    key     INTEGER NOT NULL,
    side    INTEGER NOT NULL CHECK (side IN (0, 1)),
    gen_id  INTEGER NOT NULL,
    PRIMARY KEY (lineage, key, side, gen_id)
) WITHOUT ROWID;
-- What lineage_ledger.csv must be, as of the chain: its first line and its length. No row: it is written anew.
CREATE TABLE csv_state (
    id     INTEGER PRIMARY KEY CHECK (id = 1),
    header TEXT NOT NULL,
    bytes  INTEGER NOT NULL
);
-- The newest karma event when a run began: acceptance spends what had been earned then.
ALTER TABLE runs ADD COLUMN last_event INTEGER;
CREATE INDEX runs_by_lineage ON runs (lineage, gen_id);
CREATE INDEX acceptances_by_lineage ON acceptances (lineage, number);
"""

TEACHING = """
-- Answers that a reward model liked are found without reading the others.
CREATE INDEX scores_by_preference ON scores (scalar_preference, turn_id);
"""

MIGRATIONS: tuple[str, ...] = (CHAIN, RUN_JOURNAL, CONVERSATIONS, SCORES_AND_KARMA, INDEXED, TEACHING)
"""In order; the version of a database is the number of steps applied to it."""

NEWEST = len(MIGRATIONS)


def schema_version(connection: sqlite3.Connection) -> int:
    """Number of migrations applied; 0 for an empty database."""
    known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'schema_version'").fetchone()
    if known is None:
        return 0
    version = connection.execute("SELECT max(version) FROM schema_version").fetchone()[0]
    return int(version or 0)


def refuse_newer(version: int, where: str) -> None:
    """Raise LunaError if the database was written by a newer Luna than this one."""
    if version > NEWEST:
        raise LunaError(
            f"{where} has schema version {version}, this Luna knows versions up to {NEWEST}. "
            "Upgrade Luna; nothing was changed."
        )


def migrate(connection: sqlite3.Connection, where: str) -> int:
    """Apply what is missing, each step in a transaction of its own, and return the version reached.

    The connection must be in autocommit mode. A crash leaves a whole number of steps behind.

    Raises:
        LunaError: if the database is newer than this program.
    """
    connection.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER PRIMARY KEY)")
    version = schema_version(connection)
    refuse_newer(version, where)
    for number, step in enumerate(MIGRATIONS[version:], start=version + 1):
        note = f"INSERT INTO schema_version (version) VALUES ({number});"
        try:
            connection.executescript(f"BEGIN IMMEDIATE; {step} {note} COMMIT;")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    return NEWEST
