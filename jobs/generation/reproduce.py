"""`luna reproduce G<n>`: train a generation again from its record alone and compare the bytes."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.request import GenerationRequest
from cluster.settings import recorded_sha
from cluster.steps.training import TrainingFiles, training_notes, trio_job
from curriculum.example import Example
from curriculum.parquet import read_examples, write_examples
from ledger.errors import LunaError
from ledger.files import publish_dir, sha256_file
from ledger.home import Home
from ledger.records import GenerationRow
from ledger.roles import Role
from ledger.store import Stores
from trainers.config import TrainSettings
from trainers.engines import open_engine
from trainers.job import Engine, EngineInfo, MicroBatches, TrioProgress
from trainers.models.adapter_set import AdapterSet
from trainers.models.frozen import Base
from trainers.runtime import default_device
from trainers.schedule import share_of_step

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Record:
    """What the ledger holds of a generation."""

    rows: Sequence[GenerationRow]
    parents: Mapping[Role, str]
    request: GenerationRequest
    micro_batches: Mapping[Role, MicroBatches]
    """What memory asked for above the settings."""


def reproduce(home: Home, gen_id: int) -> dict[Role, tuple[str, str]]:
    """(recorded, found) SHA of each role's adapter. On the same hardware and versions they are equal.

    An adapter folder that is missing from the home is put back when the bytes are equal; nothing else is written.
    The roles are trained together as they were (`placement`), with the recorded number of threads and format.

    Raises:
        LunaError: the record, its data or a parent adapter is missing or was changed.
    """
    record = _read_record(home, gen_id)
    engine = _open_engine(home, record)
    if differs := other_card(record.rows, engine.info):
        logger.info(differs)
    found: dict[Role, tuple[str, str]] = {}
    with tempfile.TemporaryDirectory(prefix="luna-reproduce-") as folder:
        # Adapters go to a folder of their own, where the parents are links.
        adapters = Path(folder) / "adapters"
        adapters.mkdir()
        for sha in record.parents.values():
            (adapters / sha).symlink_to(home.adapter_dir(sha))
        files = _files(home, record, Path(folder))
        for placement in dict.fromkeys(row.placement for row in record.rows):
            together = [row for row in record.rows if row.placement == placement]
            parents = {row.role: record.parents.get(row.role) for row in together}
            raised = record.micro_batches.get(together[0].role, ())
            job = trio_job(record.request.settings, files, parents, adapters, Path(folder) / placement, raised)
            trained = engine.train(job, tell_now_and_then, lambda: False).roles
            for row in together:
                made = adapters / trained[row.role].adapter_sha
                if row.alpha != 1.0:
                    made = _blended(engine, row, record.parents.get(row.role), made, Path(folder) / "blends")
                found[row.role] = (row.child_sha, made.name)
                if made.name == row.child_sha and not home.adapter_dir(made.name).exists():
                    publish_dir(made, home.adapter_dir(made.name))
                    logger.info(f"the missing adapter {made.name[:12]} of {row.role} is back")
    return found


def other_card(rows: Sequence[GenerationRow], info: EngineInfo) -> str:
    """How this process's device differs from those that trained a generation; empty if it does not, as far as the
    record says."""
    here = str(info.card or info.device)
    there = list(dict.fromkeys(row.gpu or row.device for row in rows if (row.gpu or row.device) != here))
    if not there or (info.card and there == [info.device]):  # an older row of a GPU, which does not name it
        return ""
    return f"recorded on {' and '.join(there)}, and this is {here}: bytes may differ for that alone"


def _read_record(home: Home, gen_id: int) -> _Record:
    """The record of a generation, with its data files checked.

    Raises:
        LunaError: a file is missing or changed, or several processes trained it together.
    """
    with Stores.open(home) as stores:
        rows = stores.ledger.generation(gen_id)
        runs = {run.run_id: run for run in stores.journal.runs()}
        trained = stores.journal.step_result(rows[0].run_id, "train") or {}
        refuse_a_groups(gen_id, trained)
        raised = {role: found.get("micro_batches", ()) for role, found in trained.get("roles", {}).items()}
        parents: dict[Role, str] = {}
        if rows[0].parent_gen is not None:
            parents = {row.role: row.child_sha for row in stores.ledger.generation(rows[0].parent_gen)}
        notes = training_notes(stores.journal, rows[0].run_id)
    request = _recorded_request(rows[0], {run_id: run.request for run_id, run in runs.items()})
    if notes is not None:
        request = request.model_copy(update={"settings": request.settings.on_shards(notes.sharded)})
    _check_file(home.data_file(rows[0].train_sha), rows[0].train_sha, "training set")
    read = {"set of preference pairs": rows[0].pref_sha, "set of reward scores": rows[0].rewards_sha}
    if request.settings.train.kl_weight:  # what is not new is held to the parent
        read["set of new examples"] = rows[0].data_delta_sha
    for what, sha in read.items():
        if sha:
            _check_file(home.data_file(sha), sha, what)
    return _Record(rows, parents, request, raised)


def refuse_a_groups(gen_id: int, trained: Mapping[str, Any]) -> None:
    """Refuse what several processes trained together: their sums have an order that one process does not repeat.

    Args:
        trained: the journal's record of the `train` step, as plain data.
    """
    found = trained.get("roles", {})
    told = {role: own.get("engine", {}).get("workers", [[0, 1]]) for role, own in found.items()}  # not by old versions
    workers = {role: max(size for _, size in own) for role, own in told.items()}
    if several := {role: size for role, size in workers.items() if size > 1}:
        by = ", ".join(f"{role} by {size}" for role, size in several.items())
        raise LunaError(
            f"G{gen_id} was trained by several processes together ({by}), whose sums have another order than those "
            "of the one that would repeat it here: its bytes cannot be found again. `luna ledger verify` checks its "
            "files."
        )


def _open_engine(home: Home, record: _Record) -> Engine:
    """The engine that trained it, with the threads and the number format that it had."""
    first, settings = record.rows[0], record.request.settings
    train = settings.train.model_copy(update={"threads": first.threads, "dtype": first.dtype, "engine": first.engine})
    base = Base(record.request.base.source, first.base_sha, home.base_dir(first.base_sha))
    return open_engine(base, train, settings.lora, default_device())


def _files(home: Home, record: _Record, folder: Path) -> TrainingFiles:
    """What was trained on."""
    first = record.rows[0]
    rows = home.data_file(first.train_sha)
    if not first.collected_sha:
        rows = folder / "train.parquet"
        recorded = read_examples(home.data_file(first.train_sha))
        write_examples(rows, rows_of_set(record.rows, recorded, record.request.settings.train))
    return TrainingFiles(
        rows=rows,
        role_steps={row.role: row.steps for row in record.rows},
        pairs=home.data_file(first.pref_sha) if first.pref_sha else None,
        rewards=home.data_file(first.rewards_sha) if first.rewards_sha else None,
        delta=home.data_file(first.data_delta_sha),
    )


def rows_of_set(
    generation: Sequence[GenerationRow], examples: Sequence[Example], train: TrainSettings
) -> list[Example]:
    """The rows that steps take of a set of examples: thinned evenly, or begun again. So were files that were recorded
    as a set, before they held every row."""
    weighed = [example for example in examples if example.weight > 0]
    return [
        example
        for row in generation
        for step in range(row.steps)
        for example in share_of_step(
            [e for e in weighed if e.role == row.role], step, row.steps, train.batch_size_of(row.role)
        )
    ]


def _blended(engine: Engine, row: GenerationRow, parent: str | None, child: Path, folder: Path) -> Path:
    """The adapter folder of parent + alpha (child - parent)."""
    before, after = (AdapterSet(child.parent, {row.role: sha} if sha else {}) for sha in (parent, child.name))
    return engine.blended(before, after, row.alpha, folder).path(row.role)


def tell_now_and_then(progress: TrioProgress) -> None:
    """A plain line of progress, five times in a training."""
    if progress.step % max(1, progress.steps // 5) == 0:
        logger.info(f"  step {progress.step}/{progress.steps}")


def _recorded_request(row: GenerationRow, requests: dict[str, dict[str, Any]]) -> GenerationRequest:
    if row.run_id not in requests:
        raise LunaError(f"the run {row.run_id} of G{row.gen_id} is not in the ledger; restore luna.db from a backup.")
    recorded = requests[row.run_id]
    found = recorded_sha(recorded["settings"])
    if found != row.config_sha:
        raise LunaError(
            f"the settings of run {row.run_id} have SHA {found[:12]}, the ledger says "
            f"{row.config_sha[:12]}: they were changed after the run. Restore luna.db from a backup."
        )
    return GenerationRequest.from_record(recorded)


def _check_file(path: Path, sha: str, what: str) -> None:
    if not path.exists() or sha256_file(path) != sha:
        raise LunaError(f"the {what} {path} is missing or was changed; restore it from a backup.")
