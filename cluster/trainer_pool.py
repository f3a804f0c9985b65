"""The trainers as one trio: given to devices, kept warm between generations, started again when one dies."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError

from cluster.calls import get
from cluster.devices import RayNode
from cluster.devices.probe import check_rig, ray_nodes
from cluster.placement import Groups, Placement, assign, place_roles
from cluster.plan import CannotRun, Plan
from cluster.plan.groups import (
    gpus_for_trainers,
    groups_of,
    plan_here,
    refuse_what_cannot_run,
    share_of_server,
)
from cluster.plan.wanted import ServingShare
from cluster.settings import Settings
from cluster.store.depot import depot_of
from cluster.store.reach import HomeNotSeenError, Reach, Setup, refuse_unreachable
from cluster.trainer_actor import LESS_MEMORY, Trainer, TrainerReport
from cluster.workers.follow import Follower, merge_progress
from cluster.workers.groups import train_groups
from curriculum.everyday import EverydayQuestion, Known
from curriculum.example import Example
from curriculum.parent_view import ParentView
from curriculum.preferences.pairs import Preference
from ledger.errors import LunaError
from ledger.files import sha256_json
from ledger.home import Home
from ledger.records import EvalRecord
from ledger.roles import Role
from trainers.evals.exam import Compared, RolePlan
from trainers.health.probe import HealthPlan
from trainers.job import Paused, StepTooLarge, TrioJob, TrioOutcome
from trainers.models.adapter_set import AdapterSet
from trainers.models.frozen import Base

logger = logging.getLogger(__name__)

_START_TIMEOUT_S = 300
"""Longest wait for a trainer to get its device and load the base, where no other has one."""

_DEVICE_TIMEOUT_S = 20
"""Longest wait for a device of its own, and for a process there, while another trainer has one: then the two take turns
on that. A wait that was too short costs time, never bytes."""

_STOP_TIMEOUT_S = 120
"""Longest wait for a trainer to reach its next safe point when another one has failed."""

_REPORT_TIMEOUT_S = 10

_ATTEMPTS = 3
"""Deaths of trainers in one call over one group's work: that a worker dies twice in the same work is not bad luck."""

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


@dataclass(frozen=True)
class Calls:
    """One method of the trainers, asked for several groups."""

    method: str
    arguments: Mapping[Placement, tuple[Any, ...]]
    work: Work = _MEASURING
    look: Callable[[Sequence[TrainerReport], Collection[Trainer]], None] = lambda *_: None
    """Gets the reports of the trainers at work, and those trainers, about once a second."""
    answered: Callable[[Placement, Any], None] = lambda *_: None
    """Gets each group's answer when it comes."""
    too_large: Callable[[Placement, StepTooLarge], tuple[Any, ...]] | None = None
    """The arguments with which a group is asked again when a step did not fit in its memory."""


def planned_for(nodes: Sequence[RayNode], base: Base, settings: Settings, serving: ServingShare | None) -> str:
    """A mark of what a plan depends on. The rows that wait are left out: their lengths and their number change too
    little to give up warm trainers."""
    train = settings.train.model_dump(exclude={"steps", "epochs", "lr", "warmup_steps", "checkpoint_every_steps"})
    others = [own.model_dump(mode="json") for own in (settings.lora, settings.text, settings.channels)]
    return sha256_json([list(map(astuple, nodes)), base.sha, train, others, serving and astuple(serving)])


class TrainerPool:
    """The trainers by group, warm from one session to the next. One session at a time: the coordinator's."""

    def __init__(self) -> None:
        self._trainers: dict[Placement, Trainer] = {}
        self._key = ""
        self._planned: tuple[str, Plan | CannotRun] | None = None
        """What the plan was made for, and the plan."""

    def admit(self, home: Home, base: Base, settings: Settings) -> None:
        """Refuse a run that this cluster could not train, before it begins.

        Raises:
            LunaError: a node could not be given the home's files; or the training surely does not fit the cards, with
                the missing bytes and what would fit; or Ray and torch do not count the same cards on a node.
        """
        refuse_unreachable(Reach.of(home, settings), base)
        if (plan := self._plan_now(home, base, settings)) is not None:
            refuse_what_cannot_run(plan)

    def open(self, home: Home, base: Base, settings: Settings, recorded: Groups | None = None) -> TrainerSession:
        """Give the groups of a run to the devices of this moment.

        Trainers of another base, shape or group are released. Nodes that come or go later change nothing for those
        that live.

        Args:
            recorded: how the run began to train; None: it begins now.

        Raises:
            LunaError: Ray and torch do not count the same cards on a node, or a node does not answer.
        """
        now = self._groups_now(home, base, settings)
        groups = recorded.given(now.placements) if recorded else now
        settings = settings.on_shards(groups.sharded)
        engine_settings = settings.train.model_dump(include={"engine", "dtype", "threads", "quantize", "sharded"})
        reach = Reach.of(home, settings)
        where = [str(base.path), reach.mark, reach.settings.model_dump()]
        key = sha256_json([base.sha, where, settings.lora.model_dump(), engine_settings])
        if key != self._key:
            self._end_trainers()
            self._key = key
        for group in [group for group in self._trainers if group not in groups.placements]:
            ray.kill(self._trainers.pop(group).actor)
        return TrainerSession(self._trainers, groups, base, settings, reach)

    def _groups_now(self, home: Home, base: Base, settings: Settings) -> Groups:
        """As planned for the cards that a server leaves; without any, or with logical ones alone, by their number."""
        plan = self._plan_now(home, base, settings)
        gpus = 0.0 if isinstance(plan, Plan) else gpus_for_trainers(ray_nodes(), share_of_server(home, settings))
        return Groups(place_roles(gpus)) if plan is None else groups_of(plan, settings.train, gpus)

    def _plan_now(self, home: Home, base: Base, settings: Settings) -> Plan | CannotRun | None:
        """The plan, made anew when something has changed that it depends on; None without cards."""
        if not any(node.torch_gpus for node in check_rig()):
            return None
        serving, known = share_of_server(home, settings), self._planned
        asked = planned_for(ray_nodes(), base, settings, serving)
        if known is None or known[0] != asked or (isinstance(known[1], CannotRun) and known[1].is_sure):
            were_trainers = bool(self._trainers)
            self.release()  # a warm trainer's memory would count as taken
            known = self._planned = asked, plan_here(home, base, settings, serving, were_trainers)
        return known[1]

    def release_cards(self) -> None:
        """Give the GPUs back; trainers on CPUs stay."""
        for group in [group for group in self._trainers if group.gpus]:
            ray.kill(self._trainers.pop(group).actor)
        self._planned = None

    def release(self) -> None:
        """Give the devices back."""
        self._end_trainers()
        self._planned = None

    def _end_trainers(self) -> None:
        for trainer in self._trainers.values():
            ray.kill(trainer.actor)
        self._trainers.clear()
        depot_of.cache_clear()


class TrainerSession:
    """The trio for one base under one generation's settings. Trainers start with the first work that needs them.

    Each method asks the trainers of all groups at once for their own roles. What one has answered stays; of those
    that die only the dead are asked again. A group that finds no device of its own takes turns with another.
    """

    def __init__(
        self,
        trainers: dict[Placement, Trainer],
        groups: Groups,
        base: Base,
        settings: Settings,
        reach: Reach | None = None,
    ) -> None:
        self.groups, self.placements = groups, groups.placements
        self._trainers, self._settings = trainers, settings
        self._setup = Setup.of(base, settings, reach)
        self._sharing: set[Placement] = set()
        """Groups that found no device of their own."""

    def train(
        self, jobs: Mapping[Placement, TrioJob], follow: Follower, stop: threading.Event
    ) -> dict[Placement, TrioOutcome]:
        """Train all groups at once, as far as there are devices; a dead trainer's goes on from its checkpoint.

        A step that is too large for the memory is cut in more micro-batches, from its checkpoint or from the start.

        Raises:
            Paused: `stop` was set; all have saved a checkpoint.
            LunaError: what an engine raises, or a trainer died too often. The others have saved and stopped by then.
        """
        together = {group: job for group, job in jobs.items() if group.workers > 1}
        for group in together:
            self._drop(group)  # it has a card that one of the workers needs
        outcomes = train_groups(together, self._setup, follow, stop)
        alone = {group: job for group, job in jobs.items() if group not in together}
        return {**outcomes, **self._train_alone(alone, follow, stop)}

    def _train_alone(
        self, jobs: dict[Placement, TrioJob], follow: Follower, stop: threading.Event
    ) -> dict[Placement, TrioOutcome]:
        """Train the groups of one process each."""

        def look(reports: Sequence[TrainerReport], working: Collection[Trainer]) -> None:
            if stop.is_set():
                self._tell_to_stop(working)
                if not working:
                    raise Paused("training was stopped before its trainers had started; the next run goes on there.")
            if known := [report.progress for report in reports if report.progress is not None]:
                follow.on_progress(merge_progress(known))

        def cut_smaller(group: Placement, error: StepTooLarge) -> tuple[TrioJob]:
            jobs[group] = jobs[group].cut_smaller(error)
            logger.info("%s: %s", group.name, error)
            follow.on_micro_batches(group, jobs[group].micro_batches)
            return (jobs[group],)

        arguments = {group: (job,) for group, job in jobs.items()}
        return self._ask(Calls("train", arguments, _TRAINING, look, follow.on_outcome, cut_smaller))

    def evaluate(self, plans: Sequence[RolePlan], compared: Compared, gen_id: int) -> list[EvalRecord]:
        """Scores of the planned roles."""
        arguments = {
            group: (own, compared, gen_id, self._settings)
            for group in self.placements
            if (own := [plan for plan in plans if plan.role in group.roles])
        }
        answers = self._ask(Calls("evaluate", arguments))
        return [record for group in arguments for record in answers[group]]

    def everyday(self, pool: Sequence[EverydayQuestion], most: int) -> dict[Role, list[Known]]:
        """For each role what the untouched base gets right in its prompt, `most` at most, the first of the pool."""
        arguments = {group: (group.roles, pool, most, self._settings) for group in self.placements}
        answers = self._ask(Calls("everyday", arguments))
        return {role: own for group in self.placements for role, own in answers[group].items()}

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
        """Write parent + alpha (child - parent) of all roles under `into`, by one trainer."""
        group = self.placements[0]
        blended: AdapterSet = self._ask(Calls("blend", {group: (parents, children, alpha, into)}))[group]
        return blended

    def leave_shared_cards(self) -> None:
        """Give back the devices of which something else, such as a server, has a part."""
        for group in [group for group in self._trainers if group.shares_its_card]:
            self._drop(group)

    def _ask_each(self, method: str, arguments: Callable[[Sequence[Role]], tuple[Any, ...]]) -> list[Any]:
        answers = self._ask(Calls(method, {group: arguments(group.roles) for group in self.placements}))
        return [answers[group] for group in self.placements]

    def _ask(self, calls: Calls) -> dict[Placement, Any]:
        """What each group's trainer answers."""
        todo, answers = dict(calls.arguments), dict[Placement, Any]()
        working: dict[Any, tuple[Placement, Trainer]] = {}
        deaths = Counter[Placement]()
        try:
            while todo:
                at_work = [group for group, _ in working.values()]
                waiting = [group for group in todo if group not in at_work]
                for dead, error in self._hire(waiting):
                    self._count_death(deaths, dead.group, calls.work, error)
                for group, trainer in self._trainers_for(waiting, [host for _, host in working.values()]):
                    working[trainer.ask(calls.method, todo[group])] = group, trainer
                for reference in self._ready(working):
                    group, trainer = working.pop(reference)
                    self._reports([trainer])  # what it logged at its end
                    try:
                        answers[group] = get(reference)
                    except RayActorError as error:
                        self._drop(trainer.group)
                        self._count_death(deaths, group, calls.work, error)
                    except StepTooLarge as error:
                        if calls.too_large is None:
                            raise
                        todo[group] = calls.too_large(group, error)
                    else:
                        del todo[group]
                        calls.answered(group, answers[group])
                if todo:
                    hosts = [host for _, host in working.values()]
                    calls.look(self._reports(hosts), hosts)
        except BaseException:
            self._stop_and_await(working)
            raise
        return answers

    def _hire(self, waiting: Sequence[Placement]) -> list[tuple[Trainer, RayActorError]]:
        """Start trainers of groups that have none and look after those that start; returns those that died over it.

        Raises:
            LunaError: what loading the base raises, or there is no device for any of them.
        """
        if not self._trainers:
            self._sharing.clear()
        for group in waiting:
            if group not in self._trainers and group not in self._sharing:
                self._trainers[group] = Trainer.started(group, self._setup)
        died = []
        for trainer in [one for one in self._trainers.values() if one.opening is not None]:
            try:
                self._look_after(trainer)
            except RayActorError as error:
                self._drop(trainer.group)
                died.append((trainer, error))
            except BaseException:
                self._drop(trainer.group)
                raise
        return died

    def _look_after(self, trainer: Trainer) -> None:
        """See whether a trainer that starts has its device and its base."""
        if ray.wait([trainer.opening], timeout=0)[0]:
            try:
                trainer.sees_home = get(trainer.opening)
            except HomeNotSeenError:
                trainer.open(self._with_depot())
            else:
                trainer.opening = None
                self._reports([trainer])
        elif trainer.waited_s > _DEVICE_TIMEOUT_S and not trainer.has_device and self._others_have_devices(trainer):
            self._drop(trainer.group)
            self._sharing.add(trainer.group)
            logger.info("%s found no device of its own; it takes turns with another group", trainer.group.name)
        elif trainer.waited_s > _START_TIMEOUT_S:
            raise LunaError(
                f"the trainer of {trainer.group.name} did not start within {_START_TIMEOUT_S} s: no node has a free "
                f"CPU{f' and {trainer.group.gpus:g} GPU' if trainer.group.gpus else ''}, or loading the base is stuck. "
                "Look at the Ray dashboard."
            )

    def _with_depot(self) -> Setup:
        """The setup, with the actor beside the home from whom trainers that do not see it get its files."""
        reach = self._setup.reach
        if reach is not None and reach.depot is None:
            self._setup = replace(self._setup, reach=reach.under(depot_of(reach)))
        return self._setup

    def _others_have_devices(self, trainer: Trainer) -> bool:
        return any(other.has_device for other in self._trainers.values() if other is not trainer)

    def _trainers_for(self, waiting: Sequence[Placement], busy: Collection[Trainer]) -> list[tuple[Placement, Trainer]]:
        """Which of the waiting groups can be worked on now, and by whom."""
        idle = [group for group, one in self._trainers.items() if one.opening is None and one not in busy]
        return [(group, self._trainers[host]) for group, host in assign(waiting, idle, self._sharing).items()]

    def _ready(self, working: Collection[Any]) -> list[Any]:
        """The answers that are there, after a short wait for one of them or for a trainer that starts."""
        starting = [one.opening for one in self._trainers.values() if one.opening is not None]
        if not working and not starting:  # nobody is left: the next look starts one
            return []
        ready, _ = ray.wait([*working, *starting], timeout=_LOOK_EVERY_S)
        return [reference for reference in ready if reference in working]

    def _count_death(self, deaths: Counter[Placement], group: Placement, work: Work, error: RayActorError) -> None:
        """Note that a trainer died at a group's work.

        Raises:
            LunaError: too many have.
        """
        deaths[group] += 1
        if deaths[group] >= _ATTEMPTS:
            raise LunaError(work.given_up.format(deaths=deaths[group], error=type(error).__name__)) from error
        logger.info(work.after_death)

    def _drop(self, group: Placement) -> None:
        if (trainer := self._trainers.pop(group, None)) is not None:
            ray.kill(trainer.actor)

    def _reports(self, trainers: Collection[Trainer]) -> list[TrainerReport]:
        """Reports of those that answer; what they have logged is logged here."""
        asked = [trainer.actor.report.remote() for trainer in trainers]
        answered = ray.wait(asked, num_returns=len(asked), timeout=_REPORT_TIMEOUT_S)[0] if asked else []
        reports = []
        for reference in answered:
            with suppress(RayActorError):  # a death is seen where the answer is awaited
                report: TrainerReport = ray.get(reference)
                for line in report.lines:
                    line.log()
                reports.append(report)
        return reports

    def _tell_to_stop(self, trainers: Collection[Trainer]) -> None:
        told = [trainer.actor.stop.remote() for trainer in trainers]
        if told:
            ray.wait(told, num_returns=len(told), timeout=_REPORT_TIMEOUT_S)

    def _stop_and_await(self, working: Mapping[Any, tuple[Placement, Trainer]]) -> None:
        """Let those still at work come to their next safe point; those that do not are ended."""
        if working:
            self._tell_to_stop([trainer for _, trainer in working.values()])
            _, late = ray.wait(list(working), num_returns=len(working), timeout=_STOP_TIMEOUT_S)
            for reference in late:
                self._drop(working[reference][1].group)
