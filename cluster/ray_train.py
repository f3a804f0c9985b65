"""The trl engine's training as a Ray Train run of one worker, which is started again where it was when it dies.

Ray Train owns the worker; what it reports and how it is stopped goes through three small files in the run's folder, so
that it works across nodes that share the home.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ledger.errors import LunaError
from ledger.files import write_atomic
from trainers.job import NonFiniteError, Paused, RoleOutcome, TrioJob, TrioOutcome, TrioProgress
from trainers.models.frozen import Base

_RESTARTS = 2
"""A worker that dies three times in the same work is not bad luck."""

_LOOK_EVERY_S = 0.3

_SOME_MEMORY = 1 << 20

_ERRORS: dict[str, type[LunaError]] = {"Paused": Paused, "NonFiniteError": NonFiniteError}


def train_with_ray_train(
    base: Base, job: TrioJob, on_progress: Callable[[TrioProgress], None], should_stop: Callable[[], bool]
) -> TrioOutcome:
    """See :meth:`trainers.job.Engine.train`. The worker computes where this process does."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    folder = Path(job.run_dir) / "ray_train"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    trainer = DataParallelTrainer(
        _work,
        train_loop_config={"base": base, "job": job, "folder": str(folder)},
        # The calling actor holds the device and waits, so the worker asks for none; nothing at all it may not ask for.
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"memory": _SOME_MEMORY}),
        run_config=RunConfig(
            name="trl",
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=_RESTARTS),
            worker_runtime_env={"env_vars": _devices()},
        ),
    )
    done = threading.Event()
    watch = threading.Thread(target=_watch, args=(folder, done, on_progress, should_stop), daemon=True)
    watch.start()
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise LunaError(
            f"the trl engine's worker died {_RESTARTS + 1} times: {str(error).strip().splitlines()[-1]} "
            "Look at the Ray dashboard's logs; if memory ran out, raise [train] accumulation."
        ) from error
    finally:
        done.set()
        watch.join()
    return _result(folder)


def _devices() -> dict[str, str]:
    names = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GOMP_SPINCOUNT", "TOKENIZERS_PARALLELISM")
    return {name: os.environ[name] for name in names if name in os.environ}


def _work(config: dict[str, Any]) -> None:
    """What the worker does; an error of the user's is a result, so that Ray Train does not try it again."""
    from trainers.reference.engine import TrlEngine
    from trainers.runtime import default_device

    job, folder = config["job"], Path(config["folder"])

    def tell(progress: TrioProgress) -> None:
        write_atomic(folder / "progress.json", json.dumps(asdict(progress)))

    try:
        engine = TrlEngine(config["base"], job.train, job.lora, default_device())
        outcome = engine.train(job, tell, (folder / "stop").exists)
        result: dict[str, Any] = {"outcome": asdict(outcome)}
    except LunaError as error:
        result = {"error": type(error).__name__, "message": str(error)}
    write_atomic(folder / "result.json", json.dumps(result))


def _watch(
    folder: Path, done: threading.Event, on_progress: Callable[[TrioProgress], None], should_stop: Callable[[], bool]
) -> None:
    while not done.wait(_LOOK_EVERY_S):
        if (folder / "progress.json").exists():
            on_progress(TrioProgress(**json.loads((folder / "progress.json").read_text())))
        if should_stop():
            (folder / "stop").touch()


def _result(folder: Path) -> TrioOutcome:
    found = json.loads((folder / "result.json").read_text())
    if "error" in found:
        raise _ERRORS.get(found["error"], LunaError)(found["message"])
    outcome = found["outcome"]
    roles = {role: RoleOutcome(**result) for role, result in outcome["roles"].items()}
    return TrioOutcome(roles, outcome["seconds"], outcome["facts"])
