"""The trainer actors of the rig as one trio: placed, kept warm between generations, started again when one dies."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from cluster.calls import answer
from cluster.placement import Placement, place_roles
from cluster.settings import Settings
from cluster.trainer_actor import start_trainer
from curriculum.preferences.pairs import Preference
from ledger.errors import LunaError
from ledger.files import sha256_json
from ledger.records import EvalRecord
from ledger.roles import Role
from trainers.evals.scoring import RolePlan
from trainers.health.probe import HealthPlan
from trainers.job import EngineInfo, RoleOutcome, TrioJob, TrioOutcome, TrioProgress
from trainers.models.frozen import Base

_START_TIMEOUT_S = 300
"""Longest wait for an actor to get its device and load the base."""

_ATTEMPTS = 3
"""Trainer starts a call: a worker that dies twice in the same work is not bad luck."""


_LOOK_EVERY_S = 1.0
"""How often a running training is asked for its progress; each question costs the trainers a little."""


class TrioRig:
    """Trainer actors by placement. One at a time per rig: the coordinator admits one generation."""

    def __init__(self) -> None:
        self._actors: dict[Placement, Any] = {}
        self._key = ""
        self._facts: dict[Placement, EngineInfo] = {}

    def prepare(self, base: Base, settings: Settings, say: Callable[[str], None]) -> tuple[Placement, ...]:
        """Make sure that actors for this base and these shapes are up; warm ones are kept."""
        gpus = int(ray.cluster_resources().get("GPU", 0))
        placements = place_roles(gpus)
        engine_settings = settings.train.model_dump(include={"engine", "dtype", "threads"})
        key = sha256_json([base.sha, str(base.path), settings.lora.model_dump(), engine_settings, gpus])
        if key != self._key:
            self.release()
            self._key = key
        for placement in placements:
            if placement not in self._actors:
                self._start(placement, base, settings, say)
        return placements

    def facts(self, placement: Placement) -> EngineInfo:
        """Engine facts of a placement's actor."""
        return self._facts[placement]

    def release(self) -> None:
        """Give the devices back."""
        for actor in self._actors.values():
            ray.kill(actor)
        self._actors.clear()

    def _start(self, placement: Placement, base: Base, settings: Settings, say: Callable[[str], None]) -> None:
        actor = start_trainer(base, settings.train, settings.lora, placement.gpus)
        try:
            about = answer(actor.facts.remote(), _START_TIMEOUT_S)
        except GetTimeoutError as error:
            ray.kill(actor)
            raise LunaError(
                f"the trainer of {placement.name} did not start within {_START_TIMEOUT_S} s: no node has a free CPU"
                f"{' and GPU' if placement.gpus else ''}, or loading the base is stuck. Look at the Ray dashboard."
            ) from error
        for line in about["said"]:
            say(line)
        self._actors[placement], self._facts[placement] = actor, about["facts"]

    def train(
        self,
        jobs: Mapping[Placement, TrioJob],
        base: Base,
        settings: Settings,
        on_progress: Callable[[TrioProgress], None],
        stop: threading.Event,
        say: Callable[[str], None],
    ) -> dict[Placement, TrioOutcome]:
        """Train all placements at once; a dead trainer is started again and goes on from its checkpoint."""
        attempts = 0
        done: dict[Placement, TrioOutcome] = {}
        while True:
            self.prepare(base, settings, say)
            waiting = {self._actors[p].train.remote(job): p for p, job in jobs.items() if p not in done}
            try:
                self._watch(waiting, done, on_progress, stop)
                return done
            except RayActorError as error:
                attempts += 1
                self._drop_dead()
                if attempts >= _ATTEMPTS:
                    raise LunaError(
                        f"a trainer died {attempts} times in the same work ({error.__class__.__name__}); perhaps "
                        "memory ran out: look at the Ray dashboard's logs. To train with less memory, "
                        "`luna generation abandon`, raise [train] accumulation in luna.toml, and run it again."
                    ) from error
                say("a trainer died; starting it again from its last checkpoint")

    def _watch(
        self,
        waiting: dict[Any, Placement],
        done: dict[Placement, TrioOutcome],
        on_progress: Callable[[TrioProgress], None],
        stop: threading.Event,
    ) -> None:
        told = False
        while waiting:
            ready, _ = ray.wait(list(waiting), num_returns=1, timeout=_LOOK_EVERY_S)
            for reference in ready:
                done[waiting[reference]] = answer(reference)
                del waiting[reference]
            if stop.is_set() and not told:
                ray.get([self._actors[p].stop.remote() for p in waiting.values()])
                told = True
            parts = [self._actors[p].progress.remote() for p in waiting.values()]
            known = [part for part in ray.get(parts) if part is not None]
            if known:
                on_progress(together(known))

    def _drop_dead(self) -> None:
        for placement, actor in list(self._actors.items()):
            try:
                ray.get(actor.progress.remote(), timeout=10)
            except (RayActorError, GetTimeoutError):
                ray.kill(actor)
                del self._actors[placement]

    def evaluate(
        self,
        plans: Sequence[RolePlan],
        adapters: Mapping[Role, str],
        adapters_dir: str,
        gen_id: int,
        base: Base,
        settings: Settings,
        say: Callable[[str], None],
    ) -> list[EvalRecord]:
        """Each placement measures its own roles, all at once."""

        def ask(actor: Any, placement: Placement) -> Any:
            own = [plan for plan in plans if plan.role in placement.roles]
            shas = {role: adapters[role] for role in placement.roles}
            return actor.evaluate.remote(own, shas, adapters_dir, gen_id, settings.eval)

        return [record for found in self._of_each(ask, base, settings, say) for record in found]

    def measure_preferences(
        self,
        pairs: Mapping[Role, Sequence[Preference]],
        adapters: Mapping[Role, str],
        adapters_dir: str,
        parents: Mapping[Role, str],
        parents_dir: str,
        gen_id: int,
        base: Base,
        settings: Settings,
        say: Callable[[str], None],
    ) -> list[EvalRecord]:
        """Preference accuracy on held-out pairs by role, each placement its own roles, all at once."""

        def ask(actor: Any, placement: Placement) -> Any:
            own = {role: pairs[role] for role in placement.roles if role in pairs}
            children = {role: adapters[role] for role in placement.roles}
            before = {role: parents[role] for role in placement.roles if role in parents}
            return actor.measure_preferences.remote(
                own, children, adapters_dir, before, parents_dir, gen_id, settings.channels.beta
            )

        return [record for found in self._of_each(ask, base, settings, say) for record in found]

    def health(
        self,
        plans: Sequence[HealthPlan],
        reward_model: Path,
        gen_id: int,
        curves: Path,
        base: Base,
        settings: Settings,
        say: Callable[[str], None],
    ) -> list[EvalRecord]:
        """Reward health: each placement measures its own roles, all at once. None where an engine cannot, said why."""

        def ask(actor: Any, placement: Placement) -> Any:
            own = [plan for plan in plans if plan.role in placement.roles]
            return actor.health.remote(own, reward_model, gen_id, curves / placement.name, settings.health)

        found = self._of_each(ask, base, settings, say)
        for reason in dict.fromkeys(reason for _, reason in found if reason):
            say(reason)
        return [record for records, _ in found for record in records]

    def interpolate(
        self,
        parents: Mapping[Role, str],
        children: Mapping[Role, str],
        alpha: float,
        adapters_dir: str,
        into: str,
        base: Base,
        settings: Settings,
        say: Callable[[str], None],
    ) -> dict[Role, str]:
        """Blends of all roles, made by the first actor."""

        def ask() -> dict[Role, str]:
            placement = self.prepare(base, settings, say)[0]
            reference = self._actors[placement].interpolate.remote(parents, children, alpha, adapters_dir, into)
            blended: dict[Role, str] = answer(reference)
            return blended

        return self._retried(ask, say)

    def _of_each(
        self,
        ask: Callable[[Any, Placement], Any],
        base: Base,
        settings: Settings,
        say: Callable[[str], None],
    ) -> list[Any]:
        """What the actor of each placement answers, all asked at once; asked again where one died meanwhile."""

        def ask_all() -> list[Any]:
            references = [ask(self._actors[placement], placement) for placement in self.prepare(base, settings, say)]
            return [answer(reference) for reference in references]

        found: list[Any] = self._retried(ask_all, say)
        return found

    def _retried(self, ask: Callable[[], Any], say: Callable[[str], None]) -> Any:
        for attempt in range(_ATTEMPTS):
            try:
                return ask()
            except RayActorError:
                if attempt + 1 == _ATTEMPTS:
                    raise LunaError(
                        "the trainer died three times while measuring; look at the Ray dashboard's logs."
                    ) from None
                say("a trainer died; starting it again")
                self._drop_dead()
                time.sleep(1)
        raise AssertionError("unreachable")


def together(parts: Sequence[TrioProgress]) -> TrioProgress:
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


def outcomes_by_role(done: Mapping[Placement, TrioOutcome]) -> dict[Role, tuple[Placement, RoleOutcome, TrioOutcome]]:
    """Each role's result with where and how it was made."""
    return {
        role: (placement, outcome, whole) for placement, whole in done.items() for role, outcome in whole.roles.items()
    }
