"""The actor that holds one frozen base on one device and trains, blends and evaluates the roles placed there."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import ray

from curriculum.preferences.pairs import Preference
from ledger.logs import LineHandler, listening
from ledger.records import EvalRecord
from ledger.roles import Role
from trainers.config import LoraSettings, TrainSettings
from trainers.engines import open_engine
from trainers.evals.scoring import EvalSettings, RolePlan, evaluate_role
from trainers.health.index import HealthSettings
from trainers.health.probe import HealthPlan
from trainers.health.report import measure_health
from trainers.job import TrioJob, TrioOutcome, TrioProgress
from trainers.models.frozen import Base

Result = TypeVar("Result")


class TrainerActor:
    """Threaded: one call works while others ask for progress or tell it to stop. The base stays loaded.

    All work is done in one thread of its own. GNU OpenMP keeps a set of threads for every thread that ever asked for
    some, and when all together are more than the cores, those of each product sleep at its end instead of waiting:
    measured on two cores, 4,700 sleeps a second and a third of the cores' time idle.
    """

    def __init__(self, base: Base, train: TrainSettings, lora: LoraSettings):
        from trainers import runtime

        self._said: list[str] = []
        self._progress: TrioProgress | None = None
        self._stop = False
        self._base = base
        self._worker = ThreadPoolExecutor(1, "compute")
        with listening(LineHandler(lambda record: self._said.append(record.getMessage()))):
            self._engine = self._compute(lambda: open_engine(base, train, lora, runtime.default_device()))

    def _compute(self, work: Callable[[], Result]) -> Result:
        return self._worker.submit(work).result()

    def facts(self) -> dict[str, Any]:
        """The engine's facts, what it said at start, and this process's id."""
        return {"facts": self._engine.info, "said": self._said, "pid": os.getpid()}

    def train(self, job: TrioJob) -> TrioOutcome:
        """Train to the end or to :meth:`stop`; raises what the engine raises."""
        self._stop = False
        self._progress = None
        return self._compute(lambda: self._engine.train(job, self._note, lambda: self._stop))

    def progress(self) -> TrioProgress | None:
        """Where the running training stands; None before its first step."""
        return self._progress

    def stop(self) -> None:
        """Ask the running training to save a checkpoint and return."""
        self._stop = True

    def evaluate(
        self,
        plans: Sequence[RolePlan],
        adapters: Mapping[Role, str],
        adapters_dir: str,
        gen_id: int,
        settings: EvalSettings,
    ) -> list[EvalRecord]:
        """Scores of the planned roles with these adapters (role -> SHA under `adapters_dir`)."""

        def scores() -> list[EvalRecord]:
            generator = self._engine.generator(adapters, Path(adapters_dir))
            return [record for plan in plans for record in evaluate_role(generator, plan, gen_id, settings)]

        return self._compute(scores)

    def measure_preferences(
        self,
        pairs: Mapping[Role, Sequence[Preference]],
        adapters: Mapping[Role, str],
        adapters_dir: str,
        parents: Mapping[Role, str],
        parents_dir: str,
        gen_id: int,
        beta: float,
    ) -> list[EvalRecord]:
        """Preference accuracy of these adapters on held-out pairs by role; only the fused engine has any."""
        from trainers.evals.preferences import measure_preferences
        from trainers.fused.engine import FusedEngine

        engine, own, before = self._engine, Path(adapters_dir), Path(parents_dir)
        if not isinstance(engine, FusedEngine):
            return []
        return self._compute(lambda: measure_preferences(engine, pairs, adapters, own, parents, before, gen_id, beta))

    def health(
        self,
        plans: Sequence[HealthPlan],
        reward_model: Path,
        gen_id: int,
        curves: Path,
        settings: HealthSettings,
    ) -> tuple[list[EvalRecord], str]:
        """Reward health of the planned roles; none and the reason where this engine cannot be measured."""
        return self._compute(lambda: measure_health(self._engine, plans, reward_model, gen_id, curves, settings))

    def interpolate(
        self, parents: Mapping[Role, str], children: Mapping[Role, str], alpha: float, adapters_dir: str, into: str
    ) -> dict[Role, str]:
        """Write parent + alpha (child - parent) for each role under `into`."""
        return self._compute(
            lambda: self._engine.interpolated(parents, children, alpha, Path(adapters_dir), Path(into))
        )

    def _note(self, progress: TrioProgress) -> None:
        self._progress = progress


_ENVIRONMENT = {
    # Threads that wait at a barrier spin briefly, then sleep. Measured on two cores with one other busy process: a
    # step took up to 70 s with endless spinning and 7 s with none; alone, spinning a little keeps both cores in step.
    "GOMP_SPINCOUNT": "100000",
    "TOKENIZERS_PARALLELISM": "false",
}


def start_trainer(base: Base, train: TrainSettings, lora: LoraSettings, gpus: int) -> Any:
    """A trainer actor on one GPU, or on the CPUs of a node."""
    actor = ray.remote(TrainerActor).options(
        num_cpus=1, num_gpus=gpus, max_concurrency=4, max_restarts=0, runtime_env={"env_vars": _ENVIRONMENT}
    )
    return actor.remote(base, train, lora)
