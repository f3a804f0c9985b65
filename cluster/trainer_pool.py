"""The trainer actors as one trio: placed, kept warm between generations, started again when one dies."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from cluster.calls import get
from cluster.placement import Placement, place_roles
from cluster.settings import Settings
from cluster.trainer_actor import LESS_MEMORY, TrainerReport, start_trainer
from curriculum.everyday import EverydayQuestion
from curriculum.example import Example
from curriculum.parent_view import ParentView
from curriculum.preferences.pairs import Preference
from ledger.errors import LunaError
from ledger.files import sha256_json
from ledger.logs import log_context
from ledger.records import EvalRecord
from ledger.roles import Role
from trainers.evals.exam import Compared, RolePlan
from trainers.health.probe import HealthPlan
from trainers.job import TrioJob, TrioOutcome, TrioProgress
from trainers.models.adapter_set import AdapterSet
from trainers.models.frozen import Base

logger = logging.getLogger(__name__)

_START_TIMEOUT_S = 300
"""Longest wait for an actor to get its device and load the base."""

_STOP_TIMEOUT_S = 120
"""Longest wait for a trainer to reach its next safe point when another one has failed."""

_REPORT_TIMEOUT_S = 10

_ATTEMPTS = 3
"""Trainer starts a call: a worker that dies twice in the same work is not bad luck."""

_LOOK_EVERY_S = 1.0
"""How often a running training is asked for its progress; each question costs the trainers a little."""


@dataclass(frozen=True)
class Work:
    """How a call of some length speaks of itself when a trainer dies in it."""

    after_death: str
    given_up: str


_TRAINING = Work(
    "a trainer died; starting it again from its last checkpoint",
    "a trainer died {deaths} times in the same work ({error}); perhaps memory ran out: look at the Ray dashboard's "
    f"logs. {LESS_MEMORY}",
)
_MEASURING = Work(
    "a trainer died; starting it again",
    "the trainer died {deaths} times while measuring ({error}); look at the Ray dashboard's logs.",
)


class TrainerPool:
    """The actors by placement, warm from one session to the next. One session at a time: the coordinator's."""

    def __init__(self) -> None:
        self._actors: dict[Placement, Any] = {}
        self._key = ""

    def open(self, base: Base, settings: Settings) -> TrainerSession:
        """Place the trio on the devices of this moment; actors of another base, shape or placement are released."""
        gpus = int(ray.cluster_resources().get("GPU", 0))
        engine_settings = settings.train.model_dump(include={"engine", "dtype", "threads", "quantize", "sharded"})
        key = sha256_json([base.sha, str(base.path), settings.lora.model_dump(), engine_settings, gpus])
        if key != self._key:
            self.release()
            self._key = key
        return TrainerSession(self._actors, place_roles(gpus), base, settings)

    def release(self) -> None:
        """Give the devices back."""
        for actor in self._actors.values():
            ray.kill(actor)
        self._actors.clear()


class TrainerSession:
    """The trio for one base under one generation's settings. Actors start with the first work that needs them.

    Each method asks the actors of all placements at once for their own roles. What one actor has answered stays; of
    those that die only the dead are asked again.
    """

    def __init__(
        self, actors: dict[Placement, Any], placements: tuple[Placement, ...], base: Base, settings: Settings
    ) -> None:
        self.placements = placements
        self._actors, self._base, self._settings = actors, base, settings

    def train(
        self,
        jobs: Mapping[Placement, TrioJob],
        on_progress: Callable[[TrioProgress], None],
        stop: threading.Event,
    ) -> dict[Placement, TrioOutcome]:
        """Train all placements at once; a dead trainer is started again and goes on from its checkpoint.

        Raises:
            Paused: `stop` was set; all have saved a checkpoint.
            LunaError: what an engine raises, or a trainer died too often. The others have saved and stopped by then.
        """

        def watch(reports: Sequence[TrainerReport], working: Collection[Placement]) -> None:
            if stop.is_set():
                self._tell_to_stop(working)
            if known := [report.progress for report in reports if report.progress is not None]:
                on_progress(merge_progress(known))

        return self._ask("train", {place: (job,) for place, job in jobs.items()}, _TRAINING, watch)

    def evaluate(self, plans: Sequence[RolePlan], compared: Compared, gen_id: int) -> list[EvalRecord]:
        """Scores of the planned roles."""
        arguments = {
            place: (own, compared, gen_id, self._settings)
            for place in self.placements
            if (own := [plan for plan in plans if plan.role in place.roles])
        }
        answers = self._ask("evaluate", arguments)
        return [record for place in arguments for record in answers[place]]

    def everyday(self, pool: Sequence[EverydayQuestion]) -> dict[Role, list[EverydayQuestion]]:
        """For each role what the untouched base gets right in its prompt, the first of the pool."""
        arguments = {place: (place.roles, pool, self._settings) for place in self.placements}
        answers = self._ask("everyday", arguments)
        return {role: own for place in self.placements for role, own in answers[place].items()}

    def view(
        self, parents: AdapterSet, examples: Mapping[Role, Sequence[Example]], with_own: bool
    ) -> dict[str, ParentView]:
        """What the parents make of each role's examples, by the id of the example."""

        def arguments(roles: Sequence[Role]) -> tuple[Any, ...]:
            own = [example for role in roles for example in examples.get(role, ())]
            return own, parents.of(roles), with_own, self._settings.text

        return {name: view for found in self._ask_each("view", arguments) for name, view in found.items()}

    def measure_preferences(
        self, pairs: Mapping[Role, Sequence[Preference]], child: AdapterSet, parent: AdapterSet, gen_id: int
    ) -> list[EvalRecord]:
        """Preference accuracy on held-out pairs by role."""

        def arguments(roles: Sequence[Role]) -> tuple[Any, ...]:
            own = {role: pairs[role] for role in roles if role in pairs}
            beta, lengths = self._settings.channels.beta, self._settings.text
            return own, child.of(roles), parent.of(roles), gen_id, beta, lengths

        return [record for records in self._ask_each("measure_preferences", arguments) for record in records]

    def health(
        self, plans: Sequence[HealthPlan], reward_model: Path, gen_id: int, curves_dir: Path
    ) -> list[EvalRecord]:
        """Reward health of the planned roles. None where an engine cannot be measured, logged why."""

        def arguments(roles: Sequence[Role]) -> tuple[Any, ...]:
            own = [plan for plan in plans if plan.role in roles]
            return own, reward_model, gen_id, curves_dir / "+".join(roles), self._settings.health

        found = self._ask_each("health", arguments)
        for reason in dict.fromkeys(reason for _, reason in found if reason):
            logger.info(reason)
        return [record for records, _ in found for record in records]

    def blend(self, parents: AdapterSet, children: AdapterSet, alpha: float, into: Path) -> AdapterSet:
        """Write parent + alpha (child - parent) of all roles under `into`, by the first actor."""
        place = self.placements[0]
        blended: AdapterSet = self._ask("blend", {place: (parents, children, alpha, into)})[place]
        return blended

    def _ask_each(self, method: str, arguments: Callable[[Sequence[Role]], tuple[Any, ...]]) -> list[Any]:
        answers = self._ask(method, {place: arguments(place.roles) for place in self.placements})
        return [answers[place] for place in self.placements]

    def _ask(
        self,
        method: str,
        arguments: Mapping[Placement, tuple[Any, ...]],
        work: Work = _MEASURING,
        watch: Callable[[Sequence[TrainerReport], Collection[Placement]], None] = lambda *_: None,
    ) -> dict[Placement, Any]:
        """What each placement's actor answers; `watch` gets the reports of those at work, about once a second."""
        answers: dict[Placement, Any] = {}
        asked: dict[Any, Placement] = {}
        deaths = 0
        try:
            while len(answers) < len(arguments):
                try:
                    for place in [p for p in arguments if p not in answers and p not in asked.values()]:
                        asked[getattr(self._actor(place), method).remote(*arguments[place])] = place
                    answers |= self._ready(asked)
                except RayActorError as error:
                    deaths += 1
                    if deaths >= _ATTEMPTS:
                        raise LunaError(work.given_up.format(deaths=deaths, error=type(error).__name__)) from error
                    logger.info(work.after_death)
                watch(self._reports(asked.values()), tuple(asked.values()))
        except BaseException:
            self._stop_and_await(asked)
            raise
        return answers

    def _ready(self, asked: dict[Any, Placement]) -> dict[Placement, Any]:
        """Take the answer that is there out of `asked`, if one comes within the time between two looks.

        Raises:
            RayActorError: instead of the answer; the actor is given up, and asked no longer.
        """
        ready, _ = ray.wait(list(asked), timeout=_LOOK_EVERY_S)
        if not ready:
            return {}
        place = asked.pop(ready[0])
        self._reports([place])  # what it logged at its end
        try:
            return {place: get(ready[0])}
        except RayActorError:
            self._drop(place)
            raise

    def _actor(self, place: Placement) -> Any:
        """The placement's actor with its base loaded, started if there is none."""
        if place not in self._actors:
            actor = start_trainer(place.gpus)
            try:
                get(actor.open.remote(self._base, self._settings.train, self._settings.lora), _START_TIMEOUT_S)
            except BaseException as error:
                ray.kill(actor)
                if not isinstance(error, GetTimeoutError):
                    raise
                raise LunaError(
                    f"the trainer of {place.name} did not start within {_START_TIMEOUT_S} s: no node has a free CPU"
                    f"{' and GPU' if place.gpus else ''}, or loading the base is stuck. Look at the Ray dashboard."
                ) from error
            self._actors[place] = actor
            self._reports([place])
        return self._actors[place]

    def _drop(self, place: Placement) -> None:
        if (actor := self._actors.pop(place, None)) is not None:
            ray.kill(actor)

    def _reports(self, places: Iterable[Placement]) -> list[TrainerReport]:
        """Reports of those that answer; what they have logged is logged here."""
        reports = []
        for reference in [self._actors[place].report.remote() for place in places]:
            with suppress(RayActorError, GetTimeoutError):  # a death is seen where the answer is awaited
                report: TrainerReport = ray.get(reference, timeout=_REPORT_TIMEOUT_S)
                for line in report.lines:
                    with log_context(role=line.role):
                        logging.getLogger(line.logger).log(line.level, "%s", line.message)
                reports.append(report)
        return reports

    def _tell_to_stop(self, places: Iterable[Placement]) -> None:
        for reference in [self._actors[place].stop.remote() for place in places]:
            with suppress(RayActorError, GetTimeoutError):
                ray.get(reference, timeout=_REPORT_TIMEOUT_S)

    def _stop_and_await(self, asked: Mapping[Any, Placement]) -> None:
        """Let those still at work come to their next safe point; those that do not are ended."""
        if asked:
            self._tell_to_stop(asked.values())
            _, late = ray.wait(list(asked), num_returns=len(asked), timeout=_STOP_TIMEOUT_S)
            for reference in late:
                self._drop(asked[reference])


def merge_progress(parts: Sequence[TrioProgress]) -> TrioProgress:
    """The trio's progress from that of its devices: the slowest decides."""
    return TrioProgress(
        step=min(part.step for part in parts),
        steps=max(part.steps for part in parts),
        losses={role: loss for part in parts for role, loss in part.losses.items()},
        examples_per_s=sum(part.examples_per_s for part in parts),
        seconds_left=max(part.seconds_left for part in parts),
        role_steps={role: step for part in parts for role, step in part.role_steps.items()},
        role_totals={role: total for part in parts for role, total in part.role_totals.items()},
        channels={
            channel: {role: loss for part in parts for role, loss in part.channels.get(channel, {}).items()}
            for channel in dict.fromkeys(channel for part in parts for channel in part.channels)
        },
    )
