"""The online gate of a dual run: every few steps the reward's own coherence decides what becomes of an update.

A fixed set of the role's scored examples is asked, never the batch of the step, so that figures of different steps can
be compared. What is decided is in `health.gate`, what is measured in `health.index`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from curriculum.example import Example
from curriculum.reward import DIMENSIONS
from ledger.roles import Role
from trainers.health.gate import Action, GateState, gate_step
from trainers.health.gradients import row_gradients
from trainers.health.index import (
    dimensional_coherence,
    gradient_stability,
    micro_batch_gradients,
    varying_dimensions,
)
from trainers.health.settings import HealthSettings
from trainers.lean.adapter_bank import AdapterBank
from trainers.lean.base import LeanBase
from trainers.lean.packing import Row
from trainers.parallel import World

LEAST_ROWS = 4
"""With fewer scored examples nothing can be said of a role."""


@dataclass(frozen=True)
class Probe:
    """What one role is asked: M tokenised examples and their rewards."""

    slot: int
    rows: Sequence[Row]
    rewards: Tensor  # (M, D)


@dataclass
class OnlineHealth:
    """The gate's memory over a run, by role. Roles without enough scored examples are not gated."""

    settings: HealthSettings
    probes: Mapping[Role, Probe]
    world: World = field(default_factory=World.alone)
    """Of several processes that train together the leading one's figures count."""
    states: dict[Role, GateState] = field(default_factory=dict)
    skipped_updates: dict[Role, Counter[str]] = field(default_factory=dict)
    """Updates that were not made, by what was done instead."""
    before: dict[str, Tensor] | None = None
    """The trio's state before the latest update, kept where the next step is going to be measured."""

    def is_due(self, step: int) -> bool:
        """Whether the update of this step (from 0) is measured."""
        return bool(self.probes) and step > 0 and step % self.settings.online_every == 0

    def decide(
        self, lean: LeanBase, bank: AdapterBank, step: int, roles: Sequence[Role]
    ) -> tuple[dict[Role, Action], dict[Role, float]]:
        """Of the roles that take this step: (what becomes of the update where it is not simply made, DCS + GVS of those
        that were measured).

        Between two measurements only a freeze keeps updates from being made.
        """
        partials: dict[Role, float] = {}
        actions: dict[Role, Action] = {}
        for role in (role for role in roles if role in self.probes):
            probe = self.probes[role]
            state = self.states.get(role, GateState())
            action: Action = "freeze" if state.frozen else "update"
            if self.is_due(step):
                partials[role] = self._measured(lean, bank, probe)
                undoable = replace(state, undoable=self.before is not None)
                self.states[role], action = gate_step(undoable, partials[role], self.settings)
            if action != "update":
                actions[role] = action
                self.skipped_updates.setdefault(role, Counter())[action] += 1
        return actions, partials

    def _measured(self, lean: LeanBase, bank: AdapterBank, probe: Probe) -> float:
        adapter = bank.state_dict(probe.slot)
        return self.world.of_lead(lambda: partial_health(lean, adapter, probe, self.settings))

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps beside :attr:`before`."""
        return {
            "frozen": [role for role, state in self.states.items() if state.frozen],
            "skipped_updates": {role: dict(counts) for role, counts in self.skipped_updates.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self.states = {role: GateState(frozen=True) for role in state["frozen"]}
        self.skipped_updates = {role: Counter(counts) for role, counts in state["skipped_updates"].items()}


def partial_health(lean: LeanBase, adapter: Mapping[str, Tensor], probe: Probe, settings: HealthSettings) -> float:
    """DCS + GVS of one role's adapter as it is now, in [0, 2]."""
    gradients, _ = row_gradients(lean, adapter, probe.rows, settings)
    coherence = dimensional_coherence(gradients, probe.rewards, DIMENSIONS)
    batches = micro_batch_gradients(gradients, settings.micro_batches)
    return coherence.value + gradient_stability(batches, settings.noise_half).value


def scored_examples(
    examples: Sequence[Example], scores: Mapping[str, Sequence[float]], most: int
) -> tuple[list[Example], Tensor] | None:
    """At most `most` of the examples that have a score, at even distances, and their seven dimensions (M, 7).

    None where there are too few, or where fewer than two dimensions vary among them.
    """
    scored = [example for example in examples if example.id in scores]
    count = min(most, len(scored))
    if count < LEAST_ROWS:
        return None
    chosen = [scored[i * len(scored) // count] for i in range(count)]
    rewards = torch.tensor([list(scores[e.id])[: len(DIMENSIONS)] for e in chosen], dtype=torch.float64)
    return (chosen, rewards) if len(varying_dimensions(rewards)) >= 2 else None
