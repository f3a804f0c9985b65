"""Measuring a generation beside its parent and those before it: all on the same items, all through one engine."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from functools import cached_property

from cluster.request import RunSpec
from cluster.server.candidate_eval import ServerFailedError, engine_of, evaluate_served
from cluster.steps.data import learned_by
from cluster.steps.everyday import everyday_of
from cluster.steps.preferences import weighted_pairs_by_role
from cluster.steps.records import TRAINER, Collected, Measured, Planned
from cluster.trainer_pool import TrainerSession
from curriculum.example import unique
from curriculum.parquet import read_examples
from curriculum.preferences.pairs import read_preference_set
from ledger.records import EvalRecord
from ledger.roles import ROLES, Role
from ledger.store import Ledger
from trainers.evals.exam import Compared, Half, RolePlan
from trainers.evals.plan import Material, plan_role
from trainers.health.probe import HealthPlan
from trainers.models.adapter_set import AdapterSet
from trainers.reward.model import reward_model_in_use

logger = logging.getLogger(__name__)


class Examiner:
    """Asks adapters the items of one generation."""

    def __init__(
        self, spec: RunSpec, ledger: Ledger, session: TrainerSession, collected: Collected, planned: Planned
    ) -> None:
        self.spec, self.session = spec, session
        self._ledger, self._collected, self._planned = ledger, collected, planned
        self.parents = spec.published(collected.parent_shas)

    def measured(self, child: AdapterSet) -> Measured:
        """Every score of the adapters as trained: through the server where one is up and can do it."""
        if (engine := engine_of(self.spec)) is not None:
            try:
                return self.measured_through(engine, child)
            except ServerFailedError as error:
                logger.warning("%s The trainers' own model is asked instead.", error)
        return self.measured_through(TRAINER, child)

    def measured_through(self, engine: str, child: AdapterSet) -> Measured:
        """Every score of the adapters as trained.

        Raises:
            ServerFailedError: as :meth:`scores` does.
        """
        where = "with the trainers' own model" if engine == TRAINER else f"through the server ({engine})"
        logger.info("measuring G%d %s", self.spec.gen_id, where)
        evals = (*self.scores(engine, child), *self.preferences(child), *self.health(child))
        return Measured(evals=evals, through=engine)

    def scores(
        self, engine: str, child: AdapterSet, roles: Collection[Role] = ROLES, half: Half | None = None
    ) -> list[EvalRecord]:
        """What the gates ask of some roles, on all of their items or one half, by the engine that the judgement is
        taken with.

        Raises:
            ServerFailedError: that engine is a server's, and it is not there or could not do it.
        """
        spec, plans = self.spec, [plan.on(half) for plan in self.plans if plan.role in roles]
        compared = Compared(child, self.parents if self.parents.shas else None, self.learned)
        if engine == TRAINER:
            return self.session.evaluate(plans, compared, spec.gen_id)
        return evaluate_served(spec, engine, plans, compared, self._collected.parent_gen)

    def preferences(self, adapters: AdapterSet, roles: Collection[Role] = ROLES) -> list[EvalRecord]:
        """Preference accuracy on the held-out pairs that have a weight; measured, never judged."""
        sha = self._planned.channels.pref_holdout_sha
        if not sha:
            return []
        pairs = weighted_pairs_by_role(self.spec.home.data_file(sha))
        own = {role: found for role, found in pairs.items() if role in roles}
        return self.session.measure_preferences(own, adapters, self.parents, self.spec.gen_id)

    def health(self, adapters: AdapterSet, roles: Sequence[Role] = ROLES) -> list[EvalRecord]:
        """Reward health of the roles as scores; none in a home without a reward model."""
        reward_model = reward_model_in_use(self.spec.home)
        if reward_model is None:
            return []
        plans = [
            HealthPlan(
                role=role,
                child=adapters.path(role),
                parent=self.parents.path(role) if role in self.parents.shas else None,
                seed=self.spec.settings.seed,
                text=self.spec.settings.text,
            )
            for role in roles
        ]
        logger.info("measuring reward health with the reward model %s", reward_model.name[:12])
        return self.session.health(plans, reward_model, self.spec.gen_id, self.spec.folder / "health")

    @cached_property
    def plans(self) -> list[RolePlan]:
        """What each role is asked."""
        home, settings, parent_gen = self.spec.home, self.spec.settings, self._collected.parent_gen
        pairs = self._planned.channels.pref_sha
        material = Material(
            holdout=read_examples(home.data_file(self._planned.examples.holdout_sha)),
            earlier=None if parent_gen is None else learned_by(home, self._ledger, self.spec.lineage, parent_gen),
            trained_now=unique(read_examples(home.data_file(self._planned.examples.train_sha))),
            trained_pairs=read_preference_set(home.data_file(pairs)) if pairs else (),
            percent=settings.data.holdout_percent,
            sides_of=lambda keys: self._ledger.sides_of(keys, self.spec.lineage),
            everyday=everyday_of(self.spec, self.session).asked,
            least_recall=settings.gates.min_items,
        )
        return [plan_role(role, material, settings.eval, settings.seed) for role in ROLES]

    @cached_property
    def learned(self) -> dict[int, AdapterSet]:
        """The adapters of each generation that recall asks about."""
        asked = sorted({item.gen_id for plan in self.plans for item in plan.recall or ()})
        generations = {gen_id: self._ledger.generation(gen_id, self.spec.lineage) for gen_id in asked}
        return {
            gen_id: self.spec.published({row.role: row.child_sha for row in rows})
            for gen_id, rows in generations.items()
        }
