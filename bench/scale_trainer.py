"""A trainer that trains nothing: steps that take their time, adapters of noise, scores by heart.

In place of `cluster.trainer_actor.TrainerActor`, and free of torch, so that hundreds fit on one machine.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ledger.files import publish_dir, sha256_bytes, temporary_beside
from ledger.metadata import CONFIG_FILE, MODEL_FILE
from ledger.records import EvalRecord
from ledger.roles import Role
from trainers.job import EngineInfo, Paused, RoleOutcome, TrioJob, TrioOutcome, TrioProgress

if TYPE_CHECKING:
    from trainers.evals.exam import RolePlan

FINISH = "finish"
"""A file of a home: once it is there, its trainers come to their end."""

STEP_S = 1.0
"""How long a step takes. The coordinator looks at a training once a second, so that it looks at every step."""

CONFIG = '{"peft_type": "LORA", "r": 16, "lora_alpha": 32}\n'


@dataclass(frozen=True)
class Report:
    """As a trainer's report."""

    progress: TrioProgress | None
    lines: Sequence[Any] = ()


class StubTrainer:
    """Answers what a trainer answers in a first generation."""

    def __init__(self, name: str = "stub") -> None:
        self._name, self._stop = name, False
        self._progress: TrioProgress | None = None

    def open(self, *_: Any) -> None:
        """There is no base to load."""

    def report(self) -> Report:
        """Where the training stands."""
        return Report(self._progress)

    def stop(self) -> None:
        """Ask it to pause."""
        self._stop = True

    def train(self, job: TrioJob) -> TrioOutcome:
        """Take steps until the home has :data:`FINISH`, then publish an adapter for each role."""
        begin, self._stop = time.monotonic(), False
        finish = Path(job.adapters_dir).parents[1] / FINISH
        step = 0
        while not finish.exists():
            if self._stop:
                raise Paused("it was stopped.")
            time.sleep(STEP_S)
            step += 1
            self._progress = progress_of(job, step)
        roles = {
            role: RoleOutcome.of(job, role, _published(job, role), 4 * job.role_steps[role], [2.0, 1.0])
            for role in job.roles
        }
        info = EngineInfo(engine="fused", device="cpu", dtype="float32", threads=1, versions={})
        return TrioOutcome(roles, time.monotonic() - begin, info)

    def evaluate(self, plans: Sequence[RolePlan], _compared: Any, gen_id: int, _settings: Any) -> list[EvalRecord]:
        """Everything right."""
        return [record for plan in plans for record in right(plan.role, gen_id)]


def progress_of(job: TrioJob, step: int) -> TrioProgress:
    """As after so many steps."""
    losses: dict[Role, float] = dict.fromkeys(job.roles, 1.0)
    return TrioProgress(step, step, losses, 24.0, 0.0, dict.fromkeys(job.roles, step), dict.fromkeys(job.roles, step))


def right(role: Role, gen_id: int, n: int = 40) -> list[EvalRecord]:
    """Scores of a role that gets everything right."""
    details = {
        "closed": {"n": n, "child": n, "parent": 0, "won": n, "lost": 0},
        "open": {"n": 0, "better": 0, "gain": 0.0, "low": None, "high": None},
        "by_category": {},
    }
    return [
        EvalRecord.recall_by_definition(gen_id, role),
        EvalRecord.of_share(gen_id, role, "generalization", "exact", [True] * n, details),
        EvalRecord.of_share(gen_id, role, "style_drift", "phrases", [False] * 48, {"found": []}),
    ]


def _published(job: TrioJob, role: Role) -> str:
    from safetensors.numpy import save

    stream = np.random.default_rng([len(role), abs(hash(job.run_dir)) % 2**32])
    payload = save({f"{role}.lora_A.weight": stream.standard_normal((16, 128)).astype(np.float32)})
    final = Path(job.adapters_dir) / (sha := sha256_bytes(payload))
    temporary = temporary_beside(final)
    temporary.mkdir(parents=True)
    (temporary / MODEL_FILE).write_bytes(payload)
    (temporary / CONFIG_FILE).write_text(CONFIG)
    publish_dir(temporary, final)
    return sha
