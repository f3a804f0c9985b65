"""`luna reproduce G<n>`: train a generation again from its record alone and compare the bytes."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

from cluster.request import GenerationRequest
from cluster.settings import recorded_sha
from ledger.errors import LunaError
from ledger.files import publish_dir, sha256_file
from ledger.home import Home
from ledger.records import GenerationRow
from ledger.roles import Role
from ledger.store import Stores
from trainers.engines import open_engine
from trainers.job import TrioJob, TrioProgress
from trainers.models.frozen import Base
from trainers.runtime import default_device

logger = logging.getLogger(__name__)


def reproduce(home: Home, gen_id: int) -> dict[Role, tuple[str, str]]:
    """(recorded, found) SHA of each role's adapter. On the same hardware and versions they are equal.

    An adapter folder that is missing from the home is put back when the bytes are equal; nothing else is written.
    The roles are trained together as they were (`placement`), with the recorded number of threads and format.

    Raises:
        LunaError: the record, its data or a parent adapter is missing or was changed.
    """
    with Stores.open(home) as stores:
        ledger = stores.ledger
        rows = ledger.generation(gen_id)
        runs = {run.run_id: run for run in stores.journal.runs()}
        parents: dict[Role, str] = {}
        if rows[0].parent_gen is not None:
            parents = {row.role: row.child_sha for row in ledger.generation(rows[0].parent_gen)}
    request = _recorded_request(rows[0], {run_id: run.request for run_id, run in runs.items()})
    _check_file(home.data_file(rows[0].train_sha), rows[0].train_sha, "training set")
    for sha, what in ((rows[0].pref_sha, "set of preference pairs"), (rows[0].rewards_sha, "set of reward scores")):
        if sha:
            _check_file(home.data_file(sha), sha, what)
    settings = request.settings
    train = settings.train.model_copy(update={"threads": rows[0].threads, "dtype": rows[0].dtype})
    base = Base(request.base.source, rows[0].base_sha, home.base_dir(rows[0].base_sha))
    engine = open_engine(base, train.model_copy(update={"engine": rows[0].engine}), settings.lora, default_device())
    found: dict[Role, tuple[str, str]] = {}
    with tempfile.TemporaryDirectory(prefix="luna-reproduce-") as folder:
        # Adapters go to a folder of their own, where the parents are links.
        adapters = Path(folder) / "adapters"
        adapters.mkdir()
        for sha in parents.values():
            (adapters / sha).symlink_to(home.adapter_dir(sha))
        for placement in dict.fromkeys(row.placement for row in rows):
            own = [row for row in rows if row.placement == placement]
            job = TrioJob(
                roles=tuple(row.role for row in own),
                parents={row.role: parents.get(row.role) for row in own},
                train_file=str(home.data_file(rows[0].train_sha)),
                adapters_dir=str(adapters),
                run_dir=str(Path(folder) / placement),
                seed=rows[0].seed,
                train=settings.train,
                lora=settings.lora,
                channels=settings.channels,
                preference_file=str(home.data_file(rows[0].pref_sha)) if rows[0].pref_sha else None,
                rewards_file=str(home.data_file(rows[0].rewards_sha)) if rows[0].rewards_sha else None,
                health=settings.health,
            )
            trained = engine.train(job, tell_now_and_then, lambda: False).roles
            for row in own:
                folder_of_sha = adapters / (sha := trained[row.role].adapter_sha)
                if row.alpha != 1.0:
                    blends = Path(folder) / "blends"
                    sha = engine.interpolated(
                        {row.role: parents[row.role]}, {row.role: sha}, row.alpha, adapters, blends
                    )[row.role]
                    folder_of_sha = blends / sha
                found[row.role] = (row.child_sha, sha)
                if sha == row.child_sha and not home.adapter_dir(sha).exists():
                    publish_dir(folder_of_sha, home.adapter_dir(sha))
                    logger.info(f"the missing adapter {sha[:12]} of {row.role} is back")
    return found


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
