"""Measuring adapters of one generation: the child as trained, and blends of it, all on the same items."""

from __future__ import annotations

import logging
from functools import cached_property

from cluster.request import RunSpec
from cluster.server.candidate_eval import evaluate_served
from cluster.steps.data import earlier_examples
from cluster.steps.preferences import weighted_pairs_by_role
from cluster.steps.records import Collected, Planned
from cluster.trainer_pool import TrainerSession
from curriculum.example import unique
from curriculum.parquet import read_examples
from curriculum.preferences.pairs import read_preference_set
from ledger.records import EvalRecord
from ledger.roles import ROLES
from ledger.store import Ledger
from trainers.evals.plan import Material, plan_role
from trainers.evals.scoring import RolePlan
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

    def child_scores(self, child: AdapterSet) -> tuple[EvalRecord, ...]:
        """Every score of the adapters as trained, through the server where one is up."""
        served = evaluate_served(self.spec, self.plans, child)
        shared = self.session.evaluate(self.plans, child, self.spec.gen_id) if served is None else served
        return (*shared, *self.preferences(child), *self.health(child))

    def scores(self, adapters: AdapterSet) -> list[EvalRecord]:
        """Every score but health, by the trainers' own model."""
        return [*self.session.evaluate(self.plans, adapters, self.spec.gen_id), *self.preferences(adapters)]

    def preferences(self, adapters: AdapterSet) -> list[EvalRecord]:
        """Preference accuracy on the held-out pairs that have a weight; measured, never judged."""
        sha = self._planned.channels.pref_holdout_sha
        if not sha:
            return []
        pairs = weighted_pairs_by_role(self.spec.home.data_file(sha))
        return self.session.measure_preferences(pairs, adapters, self.parents, self.spec.gen_id)

    def health(self, adapters: AdapterSet) -> list[EvalRecord]:
        """Reward health of the three roles as scores; none in a home without a reward model."""
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
            for role in ROLES
        ]
        logger.info("measuring reward health with the reward model %s", reward_model.name[:12])
        return self.session.health(plans, reward_model, self.spec.gen_id, self.spec.folder / "health")

    @cached_property
    def plans(self) -> list[RolePlan]:
        """What each role is asked."""
        home, settings, parent_gen = self.spec.home, self.spec.settings, self._collected.parent_gen
        holdout = read_examples(home.data_file(self._planned.examples.holdout_sha))
        trained = unique(read_examples(home.data_file(self._planned.examples.train_sha)))
        earlier = earlier_examples(home, self._ledger, self.spec.lineage, parent_gen)
        pairs = self._planned.channels.pref_sha
        material = Material(
            holdout=holdout,
            earlier=earlier,
            trained_now=trained,
            trained_pairs=read_preference_set(home.data_file(pairs)) if pairs else (),
            percent=settings.data.holdout_percent,
            sides_of=lambda keys: self._ledger.sides_of(keys, self.spec.lineage),
        )
        return [plan_role(role, material, settings.eval, settings.seed) for role in ROLES]
