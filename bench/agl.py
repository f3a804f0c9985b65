"""`make bench-agl`: exact answers on held-out AGL puzzles of all fourteen families, with their end of text.

Asks the logical role of a home's head at least 280 plain puzzles that are like nothing it was trained on; without a
home it raises one generation of defaults first.

    python -m bench.agl                      one generation of 1,200 puzzles a role, with the shipped settings
    python -m bench.agl --data recipe        the same of `luna curriculum build recipe`
    python -m bench.agl --home DIR           the head of a home
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from bench.courses.asking import ask
from bench.courses.learning import cluster
from bench.lessons.lesson import Lesson, Material
from bench.progress import say
from bench.report import keep
from cluster.settings import settings_of
from cluster.steps.data import trained_by
from curriculum.example import Example
from jobs.curriculum import build_into_inbox
from jobs.generation.engine import generation_rows, open_generation_engine
from jobs.generation.run import raise_generation
from jobs.home import make_home
from ledger.errors import LunaError
from ledger.home import Home
from ledger.intervals import wilson_interval
from ledger.store import Ledger
from trainers.evals.plan import Material as Trained
from trainers.evals.plan import agl_items
from trainers.models.adapter_set import AdapterSet

PUZZLES = 420
"""Thirty a family; small families have fewer that were not trained on."""
LEAST = 280
EXAMPLES = 1200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, help="ask the head of this home; default: raise one generation")
    parser.add_argument("--data", choices=("agl", "recipe"), default="agl", help="of the generation that is raised")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--profile", default="smol")
    parser.add_argument("--work", type=Path, default=Path("home") / "bench-agl", help="where homes are made")
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="examples a role of the generation")
    arguments = parser.parse_args()
    try:
        home = Home(arguments.home.resolve()) if arguments.home else None
        measure(
            home or raise_one(arguments.work, arguments.data, arguments.seed, arguments.profile, arguments.examples)
        )
    except LunaError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def raise_one(work: Path, data: str, seed: int, profile: str, examples: int) -> Home:
    """A home with one generation of defaults, whatever its verdict; one that is there is taken as it is.

    Raises:
        LunaError: the generation did not finish.
    """
    home = Home((work / f"{data}-{seed}").resolve())
    with cluster() as rig:
        make_home(home, profile, rig.address)
        with Ledger.open(home) as ledger:
            judged = ledger.rows()
        if not judged:
            sha = build_into_inbox(home, data, examples, seed)
            ended = raise_generation(home, rig.address, (sha,), {"seed": seed}, note="bench-agl")
            (home.inbox_dir / f"{sha}.parquet").unlink(missing_ok=True)
            say(f"G0: {ended['verdict']} ({ended['reason']})")
    return home


def measure(home: Home) -> Path:
    """Ask a home's head, or where nothing was accepted what was judged last; returns the table's path.

    Raises:
        LunaError: too few puzzles are left that are like nothing trained.
    """
    with Ledger.open(home) as ledger:
        head, judged = ledger.head(), ledger.last_judged()
        gen_id = head if head is not None or not judged else judged[0].gen_id
        trained = trained_by(home, ledger.generation(gen_id)[0]) if gen_id is not None else []
        taken = Trained(holdout=(), earlier=None, trained_now=trained, sides_of=ledger.sides_of)
        puzzles = agl_items("logical", PUZZLES, taken)
    if len(puzzles) < LEAST:
        raise LunaError(f"only {len(puzzles)} puzzles are like nothing that was trained, and {LEAST} are needed.")
    rows, text = generation_rows(home, gen_id), settings_of(home).text
    engine = open_generation_engine(home, rows[0])
    lesson = Lesson("AGL", "closed", lambda size, seed: Material([], puzzles))
    child = AdapterSet(home.adapters_dir, {row.role: row.child_sha for row in rows})
    ours = ask(engine, child, lesson, puzzles, text).right or ()
    base = ask(engine, AdapterSet(home.adapters_dir, {}), lesson, puzzles, text).right or ()
    families = Counter(puzzle.category for puzzle in puzzles)
    right, before = (_by_family(puzzles, marks) for marks in (ours, base))
    table = [[name.removeprefix("agl/"), str(n), str(before[name]), str(right[name])] for name, n in families.items()]
    low, high = wilson_interval(sum(ours), len(puzzles))
    total = sum(ours) / len(puzzles)
    table.append(["all", str(len(puzzles)), f"{sum(base) / len(puzzles):.3f}", f"{total:.3f} [{low:.3f}, {high:.3f}]"])
    first = next(row for row in rows if row.role == "logical")
    notes = [
        f"the logical role of G{first.gen_id}, {first.verdict}: {first.reason}",
        f"{first.steps} steps of the role in {first.walltime_min:.1f} min, {first.dtype}",
        "plain puzzles that are like nothing trained; the whole answer with its end of text; 95 % Wilson interval",
    ]
    return keep("agl", "AGL by family", ["family", "puzzles", "base, right", "logical, right"], table, notes)


def _by_family(puzzles: list[Example], right: tuple[bool, ...]) -> Counter[str]:
    return Counter(puzzle.category for puzzle, ok in zip(puzzles, right, strict=True) if ok)


if __name__ == "__main__":
    main()
