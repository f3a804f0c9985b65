"""Training state on disk: one safetensors file and one JSON file in a folder that appears whole.

Only the newest is kept. A checkpoint carries the fingerprint of its job and is refused by any other.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from ledger.errors import LunaError
from ledger.files import explain_write_errors, publish_dir, sha256_file, sha256_json, temporary_beside
from trainers.job import EngineInfo, TrioJob
from trainers.models.tensors import write_tensors


def fingerprint(job: TrioJob, info: EngineInfo) -> str:
    """SHA-256 over all that decides the bytes: the job, its data files' content, the engine's.

    How many processes share a step is left out: what some of a group have trained the others go on with.
    """
    train = job.train.model_dump(exclude={"checkpoint_every_steps", "gradient_checkpointing"})
    settings = [train, job.lora.model_dump(), job.text.model_dump()]
    whole: list[Any] = [job.roles, dict(job.parents), dict(job.role_steps), job.seed, settings]
    whole += [sha256_file(Path(job.train_file)), _deciding(info)]
    if job.train.kl_weight:
        whole += [sha256_file(Path(job.delta_file)) if job.delta_file else None]
    if job.channels.mode == "dual":
        files = [sha256_file(Path(file)) if file else None for file in (job.preference_file, job.rewards_file)]
        whole += [job.channels.model_dump(), files, job.health.model_dump() if job.rewards_file else None]
    return sha256_json(whole)


def _deciding(info: EngineInfo) -> dict[str, Any]:
    """The engine's facts without its number of processes and the driver's version; of a CPU, which has no card, those
    of earlier versions."""
    facts = {name: value for name, value in dataclasses.asdict(info).items() if name not in ("card", "workers")}
    card = dataclasses.asdict(info.card) if info.card else None
    return {**facts, **({"card": {**card, "driver": ""}} if card else {})}


def save_checkpoint(run_dir: Path, step: int, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
    """Write `checkpoint-<step>`, then drop the older ones."""
    final = run_dir / f"checkpoint-{step:08d}"
    temporary = temporary_beside(final)
    try:
        with explain_write_errors(final):
            temporary.mkdir(parents=True)
            write_tensors(tensors, temporary / "state.safetensors")
            (temporary / "state.json").write_text(json.dumps({**record, "step": step}))
        publish_dir(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for older in _checkpoints(run_dir)[:-1]:
        shutil.rmtree(older, ignore_errors=True)


def load_checkpoint(run_dir: Path, expected_fingerprint: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest checkpoint's tensors and record, or None when there is none.

    Raises:
        LunaError: when it belongs to another job.
    """
    found = _checkpoints(run_dir)
    if not found:
        return None
    record: dict[str, Any] = json.loads((found[-1] / "state.json").read_text())
    if record["fingerprint"] != expected_fingerprint:
        raise LunaError(
            f"the checkpoint {found[-1]} belongs to another training job (settings, data, machine or card differ); "
            f"delete {run_dir} to train from the start."
        )
    return load_file(found[-1] / "state.safetensors"), record


def _checkpoints(run_dir: Path) -> list[Path]:
    return sorted(run_dir.glob("checkpoint-*")) if run_dir.exists() else []
