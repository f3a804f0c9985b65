"""Small builders: a complete row, a home with files that match it, and ways to damage them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from ledger.database.migrations import MIGRATIONS
from ledger.files import sha256_bytes
from ledger.home import Home
from ledger.metadata import CONFIG_FILE, MODEL_FILE, build_metadata, write_metadata
from ledger.records import EvalMethod, EvalRecord, GenerationRow, HeadMove
from ledger.roles import ROLES, Role
from ledger.store import Ledger
from ledger.verification.weights import weights_sha

AT = "2026-03-01T12:00:00Z"


def sha(text: str) -> str:
    return sha256_bytes(text.encode())


def make_row(**changes: Any) -> GenerationRow:
    """A valid G0 row of the logical role; ``child_sha`` also sets ``trained_sha`` unless that is given."""
    fields: dict[str, Any] = {
        "gen_id": 0,
        "parent_sha": sha("base"),
        "child_sha": sha("child"),
        "data_delta_sha": sha("delta"),
        "steps": 300,
        "lr": 2e-4,
        "walltime_min": 1.5,
        "loss_start": 2.5,
        "loss_end": 0.75,
        "eval_recall": 1.0,
        "eval_generalization": 0.95,
        "eval_style_drift": 0.0,
        "role": "logical",
        "verdict": "accepted",
        "reason": "all gates passed",
        "base_sha": sha("base"),
        "config_sha": sha("config"),
        "seed": 7,
        "trained_at": AT,
        "parent_gen": None,
        "holdout_sha": sha("holdout"),
        "train_sha": sha("train"),
        "n_delta": 200,
        "n_replay": 0,
        "engine": "fused",
        "device": "cpu",
        "dtype": "float32",
        "threads": 2,
        "placement": "creative+logical+dialectical",
        "lineage": "main",
        "run_id": "run-0",
        **changes,
    }
    fields.setdefault("trained_sha", fields["child_sha"])
    return GenerationRow(**fields)


def make_eval(role: Role, name: str, value: float, n: int = 100, gen_id: int = 0) -> EvalRecord:
    method = "phrases" if name == "style_drift" else "exact"
    return EvalRecord(gen_id=gen_id, role=role, eval=name, method=method, value=value, n=n, low=0.0, high=1.0)


def make_share(
    role: Role, name: str, passed: int, n: int, method: EvalMethod = "exact", gen_id: int = 1, **details: Any
) -> EvalRecord:
    """A score as a measurement gives it: so many of `n` items passed."""
    return EvalRecord.of_share(gen_id, role, name, method, [True] * passed + [False] * (n - passed), details)


CLOSED = {"n": 200, "child": 190, "parent": 60, "won": 135, "lost": 5}
"""A generation that learned: of its new questions with a fixed answer 130 more are right than before."""
OPEN = {"n": 100, "better": 95, "gain": 0.8, "low": 0.6, "high": 1.0}
"""The same of open questions."""


def passing_scores(role: Role, gen_id: int = 1, **changes: EvalRecord | None) -> list[EvalRecord]:
    """Scores of one role that pass every gate; `changes` replaces some by name, None leaves one out."""
    scores: dict[str, EvalRecord | None] = {
        "recall": make_share(role, "recall", 285, 300, "mixed", gen_id),
        "generalization": make_share(role, "generalization", 285, 300, "mixed", gen_id, closed=CLOSED, open=OPEN),
        "bound": make_share(role, "bound", 50, 60, "prompts", gen_id),
        "style_drift": make_share(role, "style_drift", 2, 40, "phrases", gen_id),
        "base_ability": make_share(role, "base_ability", 118, 120, "exact", gen_id),
        "bare_glyphs": make_share(role, "bare_glyphs", 1, 120, "phrases", gen_id),
    }
    return [score for score in (scores | changes).values() if score is not None]


def make_move(from_gen: int | None, to_gen: int, reason: str = "accepted") -> HeadMove:
    return HeadMove(from_gen=from_gen, to_gen=to_gen, reason=reason, at=AT)


def make_trio(gen_id: int, parent: Mapping[Role, GenerationRow] | None = None, **changes: Any) -> list[GenerationRow]:
    """Three rows of one generation, descending from ``parent`` if given; hashes are made of names."""
    rows = []
    for role in ROLES:
        descent: dict[str, Any] = {}
        if parent is not None:
            descent = {"parent_gen": parent[role].gen_id, "parent_sha": parent[role].child_sha}
        rows.append(
            make_row(
                **{
                    "gen_id": gen_id,
                    "role": role,
                    "child_sha": sha(f"adapter G{gen_id} {role}"),
                    "data_delta_sha": sha(f"delta G{gen_id}"),
                    "run_id": f"run-{gen_id}",
                    **descent,
                    **changes,
                }
            )
        )
    return rows


def by_role(rows: list[GenerationRow]) -> dict[Role, GenerationRow]:
    return {row.role: row for row in rows}


def make_ledger(root: Path) -> Ledger:
    """A writer on a new home with the lineage ``main``."""
    ledger = Ledger.create(Home(root))
    ledger.create_lineage("main", sha("base"))
    return ledger


def compared(gen_id: int, gain: float, drift: float) -> list[EvalRecord]:
    """Scores of a generation that gained and drifted so much in every role, in steps of a hundredth."""
    child = 50 + round(100 * gain)
    closed = {"n": 100, "child": child, "parent": 50, "won": max(0, child - 50), "lost": max(0, 50 - child)}
    return [
        score
        for role in ROLES
        for score in (
            make_share(role, "generalization", child, 100, gen_id=gen_id, closed=closed),
            make_share(role, "style_drift", round(100 * drift), 100, "phrases", gen_id=gen_id),
        )
    ]


def add_generation(
    ledger: Ledger, gen_id: int, parent_gen: int | None, evals: Sequence[EvalRecord] = (), **changes: Any
) -> list[GenerationRow]:
    """Judge a generation, moving the head if it is accepted."""
    parent = None if parent_gen is None else by_role(ledger.generation(parent_gen))
    rows = make_trio(gen_id, parent, **changes)
    move = make_move(ledger.head(), gen_id) if rows[0].verdict == "accepted" else None
    ledger.record_judgement(rows, evals, move, None)
    return rows


def make_full_home(root: Path, generations: int = 2) -> Home:
    """A closed home in which every file that the ledger names exists and fits."""
    home = Home(root)
    home.create()
    base = home.bases_dir / "new"
    base.mkdir()
    (base / "model.safetensors").write_bytes(b"base weights")
    base_sha = weights_sha(base)
    base.rename(home.base_dir(base_sha))
    shared = {"holdout_sha": add_data(home, b"holdout"), "train_sha": add_data(home, b"train")}
    with Ledger.create(home) as ledger:
        ledger.create_lineage("main", base_sha)
        parent: dict[Role, GenerationRow] | None = None
        for gen_id in range(generations):
            first = {"parent_sha": base_sha} if parent is None else {}
            delta = {"data_delta_sha": add_data(home, f"delta {gen_id}".encode())}
            rows = make_trio(gen_id, parent, base_sha=base_sha, **first, **shared, **delta)
            for row in rows:
                add_adapter(home, row)
            ledger.record_judgement(rows, [make_eval("logical", "recall", 1.0, gen_id=gen_id)], None, None)
            ledger.move_head(make_move(ledger.head(), gen_id))
            parent = by_role(rows)
    return home


def add_data(home: Home, content: bytes) -> str:
    name = sha256_bytes(content)
    home.data_file(name).write_bytes(content)
    return name


def add_adapter(home: Home, row: GenerationRow) -> None:
    folder = home.adapter_dir(row.child_sha)
    folder.mkdir()
    (folder / MODEL_FILE).write_bytes(f"adapter G{row.gen_id} {row.role}".encode())
    (folder / CONFIG_FILE).write_text(json.dumps({"r": 8}))
    write_metadata(folder, build_metadata(row, n_conversations=0, passed=[], age=row.gen_id))


def tamper(home: Home, statement: str, *values: object) -> None:
    """Change the chain as someone with a SQLite shell would."""
    with closing(sqlite3.connect(home.db)) as connection:
        for trigger in ("entries_no_update", "entries_no_delete"):
            connection.execute(f"DROP TRIGGER {trigger}")
        connection.execute(statement, values)
        connection.commit()


def make_older(home: Home, version: int) -> None:
    """Turn a closed home into one that a Luna of an earlier schema left behind: its chain is kept."""
    with closing(sqlite3.connect(home.db)) as connection:
        entries = connection.execute("SELECT * FROM entries ORDER BY seq").fetchall()
    for file in home.root.glob("luna.db*"):
        file.unlink()
    with closing(sqlite3.connect(home.db)) as connection:
        connection.executescript("".join(MIGRATIONS[:version]))
        connection.execute("CREATE TABLE schema_version (version INTEGER PRIMARY KEY)")
        connection.executemany("INSERT INTO schema_version VALUES (?)", [(step + 1,) for step in range(version)])
        connection.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?)", entries)
        connection.commit()


def flip_byte(path: Path, position: int = 3) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x01
    path.write_bytes(bytes(content))
