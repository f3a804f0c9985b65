"""What the ledger costs when it is long: 100,000 generations and ten million taken examples beside 100 generations.

    python -m bench.ledger [--generations 100000] [--taken 10000000]

The ledgers are built here, in a temporary folder, by bulk inserts of what the product would have written one by one.
The bars: an append within 10 ms in the median and 1.5 times that of 100 generations; 2,000 new examples looked up and
split within 2 s; `luna ledger show` within 1 s.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.progress import say
from bench.report import keep
from curriculum.example import Example, make_example
from curriculum.split import keys_of, split_by_group
from ledger.conversations import Label, Turn
from ledger.database.chain import COLUMNS
from ledger.files import canonical_json, sha256_bytes, sha256_json
from ledger.home import Home
from ledger.records import EvalRecord, GenerationRow, HeadMove
from ledger.roles import ROLES
from ledger.scores import SCORE_FIELDS, Score
from ledger.store import Ledger, Stores
from ledger.taken import MOST_WAITING, SIDES, Taken

SHORT = 100
"""Generations of the ledger that the long one is compared with."""

TAKEN_EACH, KEYS_EACH, NEW = 100, 10, 2_000
APPENDS, LABELS, ASKED = 60, 60, 200

AT = "2026-03-01T12:00:00Z"
EVALS = ("recall", "generalization", "style_drift")

Figures = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generations", type=int, default=100_000)
    parser.add_argument("--taken", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, help="keep the ledgers here, and measure those that are here already")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="luna-bench-") as temporary:
        folder = asked.folder or Path(temporary)
        homes = {
            "short": built(Home(folder / "short"), SHORT, SHORT * TAKEN_EACH),
            "long": built(Home(folder / "long"), asked.generations, asked.taken),
        }
        written = {name: csv_written(home) for name, home in homes.items()}
        appended = appends(homes)
        short, long = (written[name] | appended[name] | measured(home) for name, home in homes.items())
    ratio = long["append, ms"] / short["append, ms"]
    rows = [[name, f"{short[name]:,.2f}", f"{long[name]:,.2f}"] for name in long]
    bars = [
        ("append within 10 ms in the median", long["append, ms"] <= 10),
        (f"append within 1.5 times that of {SHORT} generations ({ratio:.2f})", ratio <= 1.5),
        (f"{NEW:,} new examples within 2 s", long[ADMISSION] <= 2_000),
        ("`luna ledger show` within 1 s", long["`luna ledger show`, ms"] <= 1_000),
    ]
    title = f"The ledger at {SHORT} and at {asked.generations:,} generations"
    head = ["medians", f"{SHORT} generations", f"{asked.generations:,} generations"]
    keep("ledger", title, head, rows, [
        f"{TAKEN_EACH * SHORT:,} and {asked.taken:,} taken examples with {KEYS_EACH} keys each",
        f"an append: three rows, nine scores, a head move, {TAKEN_EACH} taken examples, CSV lines; synced",
        f"the slowest ones move the latest {MOST_WAITING:,} keys, those of twenty generations, into the large table",
        f"load average of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores: waiting for others counts",
        *(f"{name}: {'met' if met else 'NOT met'}" for name, met in bars),
    ])  # fmt: skip


ADMISSION = f"{NEW:,} new examples admitted, ms"


def csv_written(home: Home) -> Figures:
    """Seconds for the whole CSV, as after it was deleted."""
    home.csv.unlink(missing_ok=True)
    return {"CSV written anew, s": timed(lambda: Ledger.open(home, writer=True).close()) / 1_000}


def appends(homes: Mapping[str, Home]) -> dict[str, Figures]:
    """Milliseconds of a judgement in each ledger, by turns, so that what else the machine does meets all alike."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in homes}
    with ExitStack() as stack:
        ledgers = {name: stack.enter_context(Ledger.create(home)) for name, home in homes.items()}
        for _ in range(APPENDS):
            for name, ledger in ledgers.items():
                times[name].append(timed_append(ledger, ledger.next_gen_id()))
    say("appended")
    return {
        name: {
            "append, ms": statistics.median(wall for wall, _ in found),
            "append, ms of this process alone": statistics.median(own for _, own in found),
            f"append, slowest of {APPENDS}, ms": max(wall for wall, _ in found),
        }
        for name, found in times.items()
    }


def measured(home: Home) -> Figures:
    """Milliseconds of the rest, in a ledger that was built."""
    found: Figures = {"open as the writer, ms": median(5, lambda: Ledger.open(home, writer=True).close())}
    with Stores.create(home) as stores:
        ledger = stores.ledger
        sets = [examples_of(ledger.next_gen_id() + number) for number in range(5)]
        found[ADMISSION] = statistics.median(timed(partial(admit, ledger, one)) for one in sets)
        for name in ("head", "age", "current_lineage", "lineages", "next_gen_id", "stop_of", "last_stop_gen"):
            found[f"{name}, ms"] = median(ASKED, getattr(ledger, name))
        turn, valences = a_turn(stores), itertools.cycle((1, 2, 0))
        found["label, ms"] = median(
            LABELS, lambda: stores.conversations.add_label(turn.id, Label(valence=next(valences), at=AT))
        )
    command = [sys.executable, "-m", "jobs.cli", "ledger", "show", "--home", str(home.root)]
    found["`luna ledger show`, ms"] = median(5, lambda: subprocess.run(command, check=True, capture_output=True))
    found["luna.db, MB"] = home.db.stat().st_size / 1e6
    found["lineage_ledger.csv, MB"] = home.csv.stat().st_size / 1e6
    return found


def timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return 1_000 * (time.perf_counter() - begin)


def median(times: int, work: Callable[[], object]) -> float:
    return statistics.median(timed(work) for _ in range(times))


# -- what is measured ------------------------------------------------------------------------------------------------


def timed_append(ledger: Ledger, seed: int) -> tuple[float, float]:
    """Milliseconds of one judgement as the product records it, by the clock and of this process alone."""
    head, gen_id = ledger.head(), ledger.next_gen_id()
    assert head is not None
    rows = [GenerationRow(**row_of(gen_id, role)) for role in ROLES]
    evals = [EvalRecord(**eval_of(gen_id, role, name)) for role in ROLES for name in EVALS]
    move = HeadMove(from_gen=head, to_gen=gen_id, reason="accepted", at=AT)
    taken = new_examples(seed, TAKEN_EACH)
    own = time.process_time()
    wall = timed(lambda: ledger.record_judgement(rows, evals, move, taken=taken))
    return wall, 1_000 * (time.process_time() - own)


def new_examples(seed: int, count: int) -> list[Taken]:
    draw = np.random.default_rng([1, seed])
    keys = draw.integers(-(2**63), 2**63, size=(count, KEYS_EACH), dtype=np.int64).tolist()
    return [Taken(draw.bytes(32).hex(), SIDES[number % 5 == 0], tuple(keys[number])) for number in range(count)]


def examples_of(seed: int) -> list[Example]:
    """New questions of eight words with answers of twenty, over a vocabulary of 3,000."""
    draw = np.random.default_rng([3, seed])
    words = [f"w{number}" for number in range(3_000)]
    texts = [[words[n] for n in row] for row in draw.integers(0, len(words), size=(NEW, 28)).tolist()]
    return [
        make_example(role="dialectical", stage="conversations", category="talk", kind="pure",
                     input=" ".join(text[:8]), output=" ".join(text[8:]))
        for text in texts
    ]  # fmt: skip


def admit(ledger: Ledger, examples: Sequence[Example]) -> None:
    """What admission does with new examples: leave out what is taken, and put the rest on its sides."""
    taken = ledger.taken_among([one.id for one in examples])
    new = [one for one in examples if one.id not in taken]
    known = ledger.sides_of({key for one in new for key in keys_of(one)})
    split = split_by_group(new, [], 20, known)
    assert len(split.train) + len(split.holdout) == NEW


def a_turn(stores: Stores) -> Turn:
    turn = Turn(
        id="1" * 32, conversation="2" * 32, kind="generate", lineage="main", role="logical", generation=0,
        adapter_sha="3" * 64, message="Is 7 even?", context="", answer="No.", prompt_tokens=8, answer_tokens=2,
        seconds=0.5, finish_reason="stop", temperature=0, seed=None, at=AT,
    )  # fmt: skip
    stores.conversations.add_turn(turn)
    values: dict[str, Any] = dict.fromkeys(SCORE_FIELDS, 0.5)
    stores.conversations.add_scores([Score(**values | {"turn_id": turn.id, "model": "4" * 64, "at": AT})])
    return turn


# -- building --------------------------------------------------------------------------------------------------------


def built(home: Home, generations: int, taken: int) -> Home:
    """A ledger as long as asked. The notes of what was taken hold no sums, so that it is no case for `verify`."""
    if home.db.is_file():
        return home
    with Ledger.create(home) as ledger:
        ledger.create_lineage("main", sha("base"))
    with closing(sqlite3.connect(home.db, isolation_level=None)) as connection:
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -1000000"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("DELETE FROM csv_state")
        connection.execute("BEGIN")
        marks = ", ".join("?" * 8)
        connection.executemany(f"INSERT INTO entries ({COLUMNS}) VALUES ({marks})", chain_of(connection, generations))
        numbers = range(generations)
        connection.executemany(
            "INSERT INTO generations VALUES (1, ?, ?, ?)", ((n, n - 1 if n else None, n) for n in numbers)
        )
        connection.executemany("INSERT INTO line VALUES (1, ?)", ((n,) for n in numbers))
        say(f"{generations:,} generations inserted")
        connection.executemany("INSERT INTO taken VALUES (1, ?, ?, 0)", taken_of(generations, taken))
        say(f"{taken:,} taken examples inserted")
        count = taken * KEYS_EACH
        connection.execute(
            "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :count) "
            "INSERT INTO sides "
            "SELECT 1, -9223372036854775807 + i * :step + abs(random() % :step), 0, i % :generations FROM n",
            {"count": count, "step": 2**64 // count - 1, "generations": generations},
        )
        connection.execute("COMMIT")
        say(f"{count:,} keys inserted")
    return home


def chain_of(connection: sqlite3.Connection, generations: int) -> Iterator[tuple[Any, ...]]:
    """The entries of a lineage whose generations were all accepted."""
    seq, prev = connection.execute("SELECT seq, row_sha FROM entries ORDER BY seq DESC LIMIT 1").fetchone()
    for gen_id in range(generations):
        records: list[tuple[str, str | None, dict[str, Any]]] = [
            ("generation", role, GENERATION | row_of(gen_id, role)) for role in ROLES
        ]
        records += [("eval", role, EVAL | eval_of(gen_id, role, name)) for role in ROLES for name in EVALS]
        from_gen = gen_id - 1 if gen_id else None
        records.append(("head", None, {"from_gen": from_gen, "to_gen": gen_id, "reason": "accepted", "at": AT}))
        records.append(
            ("taken", None, {"examples": 0, "held_out": 0, "id_sum": "0" * 32, "keys": 0, "key_sum": "0" * 16})
        )
        for kind, role, record in records:
            seq += 1
            entry = {"seq": seq, "kind": kind, "lineage": "main", "gen_id": gen_id, "role": role,
                     "body": canonical_json(record), "prev_sha": prev}  # fmt: skip
            prev = sha256_json(entry)
            yield (*entry.values(), prev)


def taken_of(generations: int, taken: int) -> Iterator[tuple[bytes, int]]:
    """Ids in their order, spread evenly as hashes are, and of random generations."""
    draw = np.random.default_rng(2)
    step, some = 2**64 // taken, 100_000
    for begin in range(0, taken, some):
        count = min(some, taken - begin)
        tails = draw.bytes(8 * count)
        gens = draw.integers(0, generations, size=count).tolist()
        for place, gen_id in enumerate(gens):
            yield ((begin + place) * step).to_bytes(8) + tails[8 * place : 8 * place + 8], gen_id


def sha(text: str) -> str:
    return sha256_bytes(text.encode())


def row_of(gen_id: int, role: str) -> dict[str, Any]:
    parent = {"parent_gen": gen_id - 1, "parent_sha": sha(f"G{gen_id - 1} {role}")} if gen_id else {
        "parent_gen": None, "parent_sha": sha("base")}  # fmt: skip
    child = sha(f"G{gen_id} {role}")
    return {
        "gen_id": gen_id, "child_sha": child, "trained_sha": child, "data_delta_sha": sha(f"delta {gen_id}"),
        "steps": 24, "lr": 2e-4, "walltime_min": 1.5, "loss_start": 2.5, "loss_end": 0.75, "eval_recall": 0.97,
        "eval_generalization": 0.95, "eval_style_drift": 0.0, "role": role, "verdict": "accepted",
        "reason": "all gates passed", "base_sha": sha("base"), "config_sha": sha("config"), "seed": 7, "trained_at": AT,
        "holdout_sha": sha(f"holdout {gen_id}"), "train_sha": sha(f"train {gen_id}"), "n_delta": 80, "n_replay": 20,
        "engine": "fused", "device": "cpu", "dtype": "float32", "threads": 2, "placement": "+".join(ROLES),
        "lineage": "main", "run_id": f"main-g{gen_id}", **parent,
    }  # fmt: skip


def eval_of(gen_id: int, role: str, name: str) -> dict[str, Any]:
    value = {"recall": 0.97, "generalization": 0.95, "style_drift": 0.0}[name]
    return {"gen_id": gen_id, "role": role, "eval": name, "method": "mixed", "value": value, "n": 100, "low": 0.0,
            "high": 1.0, "details": {}}  # fmt: skip


GENERATION = GenerationRow(**row_of(0, "logical")).model_dump(mode="json")
EVAL = EvalRecord(**eval_of(0, "logical", "recall")).model_dump(mode="json")

if __name__ == "__main__":
    main()
