"""The actor that holds one frozen base on one device and trains, blends and evaluates the roles placed there."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import ray

from cluster.calls import waits_to_start
from cluster.placement import Placement
from cluster.settings import Settings
from cluster.store.mirror import Mirror
from cluster.store.reach import Reach, Setup
from curriculum.everyday import EverydayQuestion, Known
from curriculum.example import Example
from curriculum.parent_view import ParentView
from curriculum.preferences.pairs import Preference
from curriculum.transcript import LengthSettings
from ledger.errors import LunaError
from ledger.logs import LineHandler, listening, log_context
from ledger.records import EvalRecord
from ledger.roles import BASE, Role
from trainers.config import LoraSettings, TrainSettings
from trainers.engines import open_engine
from trainers.evals.asking import Asking
from trainers.evals.exam import Compared, RolePlan
from trainers.evals.manners import known_answers
from trainers.evals.models import Models, Speaker
from trainers.evals.scoring import evaluate_role
from trainers.health.probe import HealthPlan
from trainers.health.report import measure_health
from trainers.health.settings import HealthSettings
from trainers.job import Engine, TrioJob, TrioOutcome, TrioProgress
from trainers.models.adapter_set import AdapterSet
from trainers.models.frozen import Base
from trainers.parent_view import parent_views

Result = TypeVar("Result")

LESS_MEMORY = (
    "To train with less memory, `luna generation abandon`, raise [train] gradient_accumulation_steps or lower [train] "
    "batch_size in luna.toml, and run it again."
)


@dataclass(frozen=True)
class TrainerLine:
    """A record of the log of a trainer's process."""

    logger: str
    level: int
    message: str
    role: Role | None

    @classmethod
    def of(cls, record: logging.LogRecord) -> TrainerLine:
        """What a :class:`ledger.logs.LineHandler` got."""
        role: Role | None = record.role  # type: ignore[attr-defined]  # LineHandler sets it
        return cls(record.name, record.levelno, record.getMessage(), role)

    def log(self) -> None:
        """Log it in this process as well."""
        with log_context(role=self.role):
            logging.getLogger(self.logger).log(self.level, "%s", self.message)


@dataclass(frozen=True)
class TrainerReport:
    """Where the running training stands, None before its first step, and what was logged since the last report."""

    progress: TrioProgress | None
    lines: list[TrainerLine]


class TrainerActor:
    """Threaded: one call works while others ask for a report or tell it to stop. The base stays loaded.

    All work is done in one thread of its own. GNU OpenMP keeps a set of threads for every thread that ever asked for
    some, and when all together are more than the cores, those of each product sleep at its end instead of waiting:
    measured on two cores, 4,700 sleeps a second and a third of the cores' time idle.
    """

    _engine: Engine

    def __init__(self, name: str = "trainer") -> None:
        self._name = name
        self._lines: list[TrainerLine] = []
        self._progress: TrioProgress | None = None
        self._stop = False
        self._mirror: Mirror | None = None
        """Where this node does not see the home."""
        self._worker = ThreadPoolExecutor(1, "compute")
        self._listening = ExitStack()
        self._listening.enter_context(listening(LineHandler(self._keep)))

    def __repr__(self) -> str:
        """As Ray's log prefixes and its dashboard spell it."""
        return f"{type(self).__name__}({self._name})"

    def open(self, base: Base, train: TrainSettings, lora: LoraSettings, reach: Reach | None = None) -> bool:
        """Load the base; the first call.

        Args:
            reach: where the files that calls name lie; None: this node sees them.

        Returns:
            Whether this node sees them. If not, ask by :meth:`away`.

        Raises:
            HomeNotSeenError: it does not, and has not been told of whom to ask for them; call again with that.
            LunaError: as :func:`trainers.engines.open_engine` does.
        """
        from trainers import runtime

        if reach is not None and not reach.sees_home():
            self._mirror = Mirror(reach)
            base = self._mirror.opened(base)
        self._engine = self._compute(lambda: open_engine(base, train, lora, runtime.default_device()))
        return self._mirror is None

    def away(self, method: str, arguments: tuple[Any, ...]) -> Any:
        """Do what a method does, on a node that does not see the home."""
        assert self._mirror is not None
        return self._mirror.through(method, arguments, getattr(self, method))

    def train(self, job: TrioJob) -> TrioOutcome:
        """Train to the end or to :meth:`stop`; raises what the engine raises."""
        from trainers import runtime

        self._stop = False
        self._progress = None
        if job.micro_batches:
            runtime.free_cached_memory()
        return self._compute(lambda: self._engine.train(job, self._note, lambda: self._stop))

    def report(self) -> TrainerReport:
        """See :class:`TrainerReport`."""
        lines, self._lines = self._lines, []
        return TrainerReport(self._progress, lines)

    def stop(self) -> None:
        """Ask the running training to save a checkpoint and return."""
        self._stop = True

    def evaluate(
        self, plans: Sequence[RolePlan], compared: Compared, gen_id: int, settings: Settings
    ) -> list[EvalRecord]:
        """Scores of the planned roles."""

        def scores() -> list[EvalRecord]:
            own, found = (settings.eval, settings.gates, settings.text), []
            for plan in plans:  # of each model only the adapter that is asked is read
                models = Models(compared.of([plan.role]), self._engine.generator)
                found += evaluate_role(models, plan, gen_id, *own)
            return found

        return self._compute(scores)

    def everyday(
        self, roles: Sequence[Role], pool: Sequence[EverydayQuestion], most: int, settings: Settings
    ) -> dict[Role, list[Known]]:
        """For each role what the untouched base gets right in its prompt, `most` at most, the first of the pool."""

        def right() -> dict[Role, list[Known]]:
            speaker = Speaker(self._engine.generator(AdapterSet(Path(), {})), BASE)
            return {
                role: known_answers(speaker, pool, most, settings.eval, Asking(role, (), 0, settings.text))
                for role in roles
            }

        return self._compute(right)

    def view(
        self, examples: Sequence[Example], parents: AdapterSet, with_own: bool, lengths: LengthSettings
    ) -> dict[str, ParentView]:
        """What the parents make of examples that may be replayed; see :func:`trainers.parent_view.parent_views`."""
        return self._compute(lambda: parent_views(self._engine.generator(parents), examples, with_own, lengths))

    def measure_preferences(
        self,
        pairs: Mapping[Role, Sequence[Preference]],
        child: AdapterSet,
        parent: AdapterSet,
        gen_id: int,
        beta: float,
        lengths: LengthSettings,
    ) -> list[EvalRecord]:
        """Preference accuracy of these adapters on held-out pairs by role; only the fused engine has any."""
        from trainers.evals.preferences import measure_preferences

        lean = self._engine.lean
        if lean is None:
            return []
        scores = self._compute(lambda: measure_preferences(lean, pairs, child, parent, beta, lengths))
        return [own.record(gen_id) for own in scores]

    def health(
        self,
        plans: Sequence[HealthPlan],
        reward_model: Path,
        gen_id: int,
        curves_dir: Path,
        settings: HealthSettings,
    ) -> tuple[list[EvalRecord], str]:
        """Reward health of the planned roles, or none and the reason why this engine cannot be measured."""
        return self._compute(
            lambda: measure_health(self._engine.lean, plans, reward_model, gen_id, curves_dir, settings)
        )

    def blend(self, parents: AdapterSet, children: AdapterSet, alpha: float, into: Path) -> AdapterSet:
        """Write parent + alpha (child - parent) for each role under `into`."""
        return self._compute(lambda: self._engine.blended(parents, children, alpha, into))

    def _compute(self, work: Callable[[], Result]) -> Result:
        try:
            return self._worker.submit(work).result()
        except Exception as error:
            from trainers import runtime

            if not runtime.is_out_of_memory(error):
                raise
            raise LunaError(f"memory ran out ({runtime.first_line(error)}). {LESS_MEMORY}") from error

    def _note(self, progress: TrioProgress) -> None:
        self._progress = progress
        if self._mirror is not None:
            self._mirror.send_new_checkpoint()

    def _keep(self, record: logging.LogRecord) -> None:
        self._lines.append(TrainerLine.of(record))


ENVIRONMENT = {
    # Threads that wait at a barrier spin briefly, then sleep. Measured on two cores with one other busy process: a
    # step took up to 70 s with endless spinning and 7 s with none; alone, spinning a little keeps both cores in step.
    "GOMP_SPINCOUNT": "100000",
    "TOKENIZERS_PARALLELISM": "false",
}


def start_trainer(group: Placement) -> Any:
    """A trainer actor on what the group asks for, once a node has that; :meth:`TrainerActor.open` comes next."""
    actor = ray.remote(TrainerActor).options(
        name=f"luna-trainer-{group.name}-{uuid.uuid4().hex[:6]}",  # one that was killed keeps its name for a moment
        num_cpus=1,
        num_gpus=group.gpus,
        max_concurrency=4,
        max_restarts=0,
        runtime_env={"env_vars": ENVIRONMENT},
    )
    return actor.remote(group.name)


@dataclass
class Trainer:
    """An actor as those who ask it see it: started for one group, and at times the host of another."""

    group: Placement
    actor: Any
    opening: Any
    """The answer to :meth:`TrainerActor.open`; None once it has come."""
    asked_at: float
    """When Ray was asked for it, on the monotonic clock."""
    sees_home: bool = True
    """Whether its node does, once it has been opened."""

    @classmethod
    def started(cls, group: Placement, setup: Setup) -> Self:
        """Ask Ray for one; it waits for its device and loads the base in its own time."""
        trainer = cls(group, start_trainer(group), None, time.monotonic())
        trainer.open(setup)
        return trainer

    def open(self, setup: Setup) -> None:
        """Have it load the base; where it said that it needs more for that, once more."""
        settings = setup.settings
        self.opening = self.actor.open.remote(setup.base, settings.train, settings.lora, setup.reach)

    def ask(self, method: str, arguments: tuple[Any, ...]) -> Any:
        """A reference to what a method of the actor will answer."""
        if self.sees_home:
            return getattr(self.actor, method).remote(*arguments)
        return self.actor.away.remote(method, arguments)

    @property
    def has_device(self) -> bool:
        """Whether a node has given it what it asked for, and its process runs there."""
        return self.opening is None or not waits_to_start(self.actor)

    @property
    def waited_s(self) -> float:
        return time.monotonic() - self.asked_at
