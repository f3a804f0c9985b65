"""`make bench-forgetting`: what G1 would have forgotten without replay.

Takes a finished demo's record, trains G1 again from G0's adapters twice, in this process: on the recorded training set
and on the same set without what was replayed (same steps, rows, order, seed). Both are asked the same recall items, and
so is G0 itself. The home is only read. The table goes to `bench/results/forgetting.md`.

    python -m bench.forgetting [--home DIR] [--generation 1]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.progress import say
from bench.report import keep
from cluster.request import GenerationRequest
from cluster.steps.data import learned_by
from cluster.steps.training import TrainingFiles, trio_job
from curriculum.example import Example
from curriculum.parquet import read_examples, write_examples
from jobs.context import resolve_home
from jobs.generation.reproduce import rows_of_set, tell_now_and_then
from jobs.generation.show import lr_text, steps_text
from ledger.errors import LunaError
from ledger.home import Home
from ledger.intervals import wilson_interval
from ledger.records import GenerationRow
from ledger.roles import ROLES, Role
from ledger.store import Stores
from trainers.engines import open_engine
from trainers.evals.exam import Compared, RolePlan
from trainers.evals.models import Models
from trainers.evals.plan import Material, plan_role
from trainers.evals.scoring import asking_of, compare_recalled
from trainers.job import Engine
from trainers.models.adapter_set import AdapterSet
from trainers.models.frozen import Base
from trainers.runtime import default_device

Shas = dict[Role, str]


@dataclass(frozen=True)
class Recorded:
    """A judged generation, its parent's adapters, and what it must still know."""

    rows: list[GenerationRow]
    request: GenerationRequest
    parents: Shas
    train: list[Example]
    delta: list[Example]
    plans: dict[Role, RolePlan]
    learned: dict[int, AdapterSet]
    """The adapters of the generations that recall asks about."""
    pairs_file: Path | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, help="home of a finished demo; default $LUNA_HOME, else ./home")
    parser.add_argument("--generation", type=int, default=1, help="generation to train again, one with a parent")
    arguments = parser.parse_args()
    try:
        measure(resolve_home(arguments.home), arguments.generation)
    except LunaError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def measure(home: Home, gen_id: int) -> Path:
    """Train both ways, ask all, keep the table; returns its path.

    Raises:
        LunaError: there is no finished demo, or the generation had no parent or no replay.
    """
    recorded = read_record(home, gen_id)
    with tempfile.TemporaryDirectory(prefix="luna-forgetting-") as name:
        folder = Path(name)
        adapters = _own_adapters_dir(home, recorded.parents, folder)
        engine = _engine(home, recorded)
        with_replay = _train(engine, recorded, recorded_rows(recorded), adapters, folder / "with")
        without = _train(engine, recorded, without_replay(recorded), adapters, folder / "without")
        results = {
            name: _recall(engine, recorded, shas, adapters, name)
            for name, shas in {"parent": recorded.parents, "with": with_replay, "without": without}.items()
        }
    return _report(recorded, results, with_replay)


def read_record(home: Home, gen_id: int) -> Recorded:
    """Everything that the ledger and the data files say about a generation."""
    if not home.db.exists():
        raise LunaError(
            f"there is no finished demo at {home.root}; run `make demo` first, or name another home with --home or "
            "LUNA_HOME."
        )
    with Stores.open(home) as stores:
        ledger = stores.ledger
        lineage = ledger.current_lineage()
        rows = ledger.generation(gen_id)
        parent = rows[0].parent_gen
        if parent is None:
            raise LunaError(f"G{gen_id} has no parent, so there is nothing it could forget; name a later generation.")
        parents: Shas = {row.role: row.child_sha for row in ledger.generation(parent)}
        requests = {run.run_id: run.request for run in stores.journal.runs(lineage)}
        earlier = learned_by(home, ledger, lineage, parent)
        learned = {
            gen: AdapterSet(home.adapters_dir, {row.role: row.child_sha for row in ledger.generation(gen)})
            for gen in earlier
        }
    if not any(row.n_replay for row in rows):
        raise LunaError(f"G{gen_id} was trained without replay ([data] replay_share = 0); there is nothing to compare.")
    if rows[0].run_id not in requests:
        raise LunaError(f"the run {rows[0].run_id} of G{gen_id} is not in the ledger; restore luna.db from a backup.")
    request = GenerationRequest.from_record(requests[rows[0].run_id])
    train = read_examples(home.data_file(rows[0].train_sha))
    holdout = read_examples(home.data_file(rows[0].holdout_sha))
    settings = request.settings
    material = Material(holdout, earlier, train, percent=settings.data.holdout_percent)
    plans: dict[Role, RolePlan] = {role: plan_role(role, material, settings.eval, settings.seed) for role in ROLES}
    delta = read_examples(home.data_file(rows[0].data_delta_sha))
    pairs_file = home.data_file(rows[0].pref_sha) if rows[0].pref_sha else None
    return Recorded(rows, request, parents, train, delta, plans, learned, pairs_file)


def recorded_rows(recorded: Recorded) -> list[Example]:
    """Every row of every step, as it was trained."""
    if recorded.rows[0].collected_sha:
        return recorded.train
    return rows_of_set(recorded.rows, recorded.train, recorded.request.settings.train)


def without_replay(recorded: Recorded) -> list[Example]:
    """As many rows of what was new alone, in its order, over again from its beginning."""
    new = {example.id for example in recorded.delta}
    own = [example for example in recorded.train if example.id in new]
    return rows_of_set(recorded.rows, own, recorded.request.settings.train)


def _own_adapters_dir(home: Home, parents: Shas, folder: Path) -> Path:
    """The parents under a folder of our own, so that what is trained here never enters the home."""
    own = folder / "adapters"
    own.mkdir()
    for sha in parents.values():
        (own / sha).symlink_to(home.adapter_dir(sha), target_is_directory=True)
    return own


def _engine(home: Home, recorded: Recorded) -> Engine:
    row, request = recorded.rows[0], recorded.request
    how = {"threads": row.threads, "dtype": row.dtype, "engine": row.engine}
    base = Base(request.base.source, row.base_sha, home.base_dir(row.base_sha))
    train = request.settings.train.model_copy(update=how)
    return open_engine(base, train, request.settings.lora, default_device())


def _train(engine: Engine, recorded: Recorded, train: Sequence[Example], adapters: Path, folder: Path) -> Shas:
    """One training of every role from its parent; roles go together as they did."""
    settings = recorded.request.settings
    folder.mkdir()
    file = folder / "train.parquet"
    shas: Shas = {}
    write_examples(file, train)
    for placement in dict.fromkeys(row.placement for row in recorded.rows):
        roles = tuple(row.role for row in recorded.rows if row.placement == placement)
        say(f"G{recorded.rows[0].gen_id} {folder.name} replay: {', '.join(roles)}, {len(train)} examples")
        files = TrainingFiles(file, {row.role: row.steps for row in recorded.rows}, recorded.pairs_file)
        job = trio_job(settings, files, {role: recorded.parents[role] for role in roles}, adapters, folder / placement)
        outcome = engine.train(job, tell_now_and_then, lambda: False)
        shas |= {role: result.adapter_sha for role, result in outcome.roles.items()}
    return shas


def _recall(engine: Engine, recorded: Recorded, shas: Shas, adapters: Path, name: str) -> dict[Role, list[bool]]:
    """Which items of each role are kept."""
    say(f"recall: {name}")
    models = Models(Compared(AdapterSet(adapters, shas), None, recorded.learned), engine.generator)
    settings = recorded.request.settings
    return {
        role: [
            one.kept(settings.eval.kept_nats)
            for one in compare_recalled(models, plan.recall or (), asking_of(plan, settings.eval, settings.text))
        ]
        for role, plan in recorded.plans.items()
    }


def _report(recorded: Recorded, results: Mapping[str, Mapping[Role, list[bool]]], with_replay: Shas) -> Path:
    gen_id, parent = recorded.rows[0].gen_id, recorded.rows[0].parent_gen
    rows = []
    for role in ROLES:
        row = next(row for row in recorded.rows if row.role == role)
        own = [results[name][role] for name in ("parent", "with", "without")]
        rows.append([role, str(len(own[0])), str(row.n_delta), str(row.n_replay), *map(_share, own)])
    pooled = [[kept for role in ROLES for kept in results[name][role]] for name in results]
    counts = [str(sum(getattr(row, name) for row in recorded.rows)) for name in ("n_delta", "n_replay")]
    rows.append(["all", str(len(pooled[0])), *counts, *map(_share, pooled)])
    same = all(row.trained_sha == with_replay[row.role] for row in recorded.rows)
    equal = "byte for byte" if same else "not byte for byte (other hardware or versions than then)"
    notes = [
        (
            f"recall on examples that G{parent}'s line was trained on and G{gen_id} did not replay, the same items "
            "in each column; 95 % Wilson intervals"
        ),
        (
            f"base {recorded.request.base.source}; {steps_text(recorded.rows)} steps at learning rate "
            f"{lr_text(recorded.rows)} from G{parent}'s adapters both times; without replay the new examples alone, "
            "in the same order"
        ),
        f"trained again with replay, the adapters are the recorded ones {equal}",
    ]
    header = ["role", "items", "new", "replayed", f"G{parent}", f"G{gen_id} with replay", f"G{gen_id} without replay"]
    return keep("forgetting", f"Recall of G{gen_id} with replay and without", header, rows, notes)


def _share(kept: Sequence[bool]) -> str:
    passed, n = sum(kept), len(kept)
    low, high = wilson_interval(passed, n)
    return f"{passed / n:.3f} [{low:.3f}, {high:.3f}]" if n else "no items"


if __name__ == "__main__":
    main()
