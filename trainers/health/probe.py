"""Measuring a candidate's reward health on a fixed set of seed prompts, with the trainer's own model in memory.

One role at a time: the child answers the probe prompts; a judge scores the answers, their beginnings and the same
answers restated; one backward a few rows at once gives each answer's gradient, reduced to a sketch; the prompts' states
and the answers' losses are taken for the parent, the child, and half-way between. `trainers.health.index` makes of it
five numbers. No pass is needed for each reward dimension: its gradient is a sum of the rows' gradients by its rewards.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from curriculum.reward import DIMENSIONS, RewardOutput
from curriculum.teacher.seed_prompts import SeedPrompt, seed_prompts
from curriculum.transcript import LengthSettings, fit
from ledger.records import EvalRecord
from ledger.roles import Role
from trainers.generator import prompt_ids
from trainers.health.gradients import prompt_states, row_gradients, row_losses
from trainers.health.index import (
    Components,
    Measured,
    cross_domain_stability,
    dimensional_coherence,
    gradient_stability,
    local_agreement,
    manifold_stability,
    micro_batch_gradients,
)
from trainers.health.settings import HealthSettings
from trainers.lean.base import LeanBase
from trainers.lean.generator import LeanGenerator
from trainers.lean.packing import Row
from trainers.models.adapters import blend, initial_adapter, read_adapter

PARENT, MIDDLE, CHILD = 0, 1, 2
"""Slots of the bank that a probe asks."""

BEGINNINGS = (1 / 3, 2 / 3)
"""Shares of an answer's words whose rewards are the local ones."""


class Judge(Protocol):
    """Whoever scores answers: `trainers.reward.model.RewardModel`, or another in tests."""

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[RewardOutput]:
        """One judgement for each prompt and answer, in order."""
        ...


@dataclass(frozen=True)
class HealthPlan:
    """One role of a candidate to measure: its adapter and what that began from."""

    role: Role
    child: Path
    """Folder of the candidate's adapter."""
    parent: Path | None
    """Folder of the parent's; None where the role began from the seed."""
    seed: int
    """Of the generation: a fresh adapter's beginning."""
    text: LengthSettings = field(default_factory=LengthSettings)
    """How long a prompt may be."""


@dataclass(frozen=True)
class RoleHealth:
    """What was found for one role."""

    role: Role
    components: Components
    parts: dict[str, dict[str, Any]]
    """For each component by name, what it was made of."""
    answers: list[dict[str, Any]] = field(repr=False)
    """Prompt id, category, answer and its nine values, for whoever plots them."""

    def records(self, gen_id: int, about: Mapping[str, Any]) -> list[EvalRecord]:
        """The index first, then its components. `about` (judge, settings) goes into the index's details."""
        values = self.components.as_dict()
        details = {"components": values, **about, "answers": self.answers}
        n = len(self.answers)
        return [
            _record(gen_id, self.role, "rhi", self.components.rhi, n, details),
            *(_record(gen_id, self.role, name, value, n, self.parts[name]) for name, value in values.items()),
        ]


def _record(gen_id: int, role: Role, name: str, value: float, n: int, details: dict[str, Any]) -> EvalRecord:
    # No share of successes, so there is no Wilson interval: both ends are the value.
    return EvalRecord(
        gen_id=gen_id, role=role, eval=name, method="measured", value=value, n=n, low=value, high=value, details=details
    )


def measure_role(lean: LeanBase, plan: HealthPlan, judge: Judge, settings: HealthSettings) -> RoleHealth:
    """The five components of one role, from the child's own answers to the probe prompts."""
    probes = probe_prompts(settings.prompts, settings.seed)
    tensors = _tensors_on_the_way(lean, plan)
    bank = lean.empty_bank(len(tensors))
    for slot, values in enumerate(tensors):
        bank.load_state_dict(slot, values)
    generator = LeanGenerator(lean.model, lean.tokenizer, bank, {plan.role: CHILD}, lean.lanes)
    prompts = [fit(plan.role, probe.text, "", plan.text.room, generator.count).prompt for probe in probes]
    answers = [answer.text for answer in generator.generate(plan.role, prompts, settings.answer_tokens)]

    judged = judge_answers(judge, [probe.text for probe in probes], answers)
    rows = [answer_row(lean.tokenizer, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    gradients, child_losses = row_gradients(lean, tensors[CHILD], rows, settings)
    states = [prompt_states(lean, bank, slot, prompts, settings.layer_share) for slot in (PARENT, CHILD)]
    losses = [row_losses(lean, bank, slot, rows) for slot in (PARENT, MIDDLE)]

    found: dict[str, Measured] = {
        "dcs": dimensional_coherence(gradients, judged.rewards, DIMENSIONS),
        "gvs": gradient_stability(micro_batch_gradients(gradients, settings.micro_batches), settings.noise_half),
        "mss": manifold_stability(states[0], states[1], [*losses, child_losses], settings.curvature_half),
        "cdrs": cross_domain_stability(
            judged.rewards, judged.wholes, judged.again, [probe.category for probe in probes], judged.scalar_given
        ),
        "lrps": local_agreement(judged.local, judged.rewards),
    }
    return RoleHealth(
        plan.role,
        Components(**{name: measured.value for name, measured in found.items()}),
        {name: measured.parts for name, measured in found.items()},
        [
            {"id": probe.id, "category": probe.category, "answer": answer, "values": list(output.values())}
            for probe, answer, output in zip(probes, answers, judged.outputs, strict=True)
        ],
    )


# -- what is asked -----------------------------------------------------------------------------------------------


def probe_prompts(count: int, seed: int) -> list[SeedPrompt]:
    """About `count` of the shipped seed prompts, as many of each category, drawn by the seed, categories in turn.

    Prompts take turns by category, so that parts of every category are in every micro-batch.
    """
    by_category: dict[str, list[SeedPrompt]] = {}
    for prompt in seed_prompts():
        by_category.setdefault(prompt.category, []).append(prompt)
    each = max(2, round(count / len(by_category)))
    drawn = [
        random.Random(f"health:{seed}:{name}").sample(found, min(each, len(found)))
        for name, found in sorted(by_category.items())
    ]
    return [prompt for turn in zip(*drawn, strict=False) for prompt in turn]


def _tensors_on_the_way(lean: LeanBase, plan: HealthPlan) -> list[dict[str, Tensor]]:
    """The adapters of the parent, half-way, and of the child; without a parent the seed's fresh adapter, which is
    the bare base in effect."""
    shapes = lean.model.module_shapes
    child = read_adapter(plan.child, lean.lora, shapes)
    if plan.parent is None:
        parent = initial_adapter(shapes, lean.lora.rank, plan.seed, plan.role)
    else:
        parent = read_adapter(plan.parent, lean.lora, shapes)
    return [parent, blend(parent, child, 0.5), child]


# -- what the judge says -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judged:
    """A judge's view of M answers; tensors are float64, D the seven dimensions."""

    outputs: list[RewardOutput]
    rewards: Tensor  # (M, D) of the whole answers
    wholes: Tensor  # (M,) the one number for each; the mean of the dimensions where the judge gives none
    again: Tensor  # (M, D) of the answers restated
    local: Tensor  # (M, D) mean over the answers' beginnings
    scalar_given: bool


def judge_answers(judge: Judge, prompts: Sequence[str], answers: Sequence[str]) -> Judged:
    """Everything that is asked of the judge, in one call."""
    variants = [answers, [restated(answer) for answer in answers]]
    variants += [[beginning(answer, share) for answer in answers] for share in BEGINNINGS]
    outputs = judge.score([*prompts] * len(variants), [answer for variant in variants for answer in variant])
    m = len(answers)
    vectors = torch.tensor([output.vector() for output in outputs], dtype=torch.float64).view(len(variants), m, -1)
    scalars = [output.scalar_preference for output in outputs[:m]]
    given = all(value is not None for value in scalars)
    wholes = torch.tensor(scalars, dtype=torch.float64) if given else vectors[0].mean(1)
    return Judged(outputs[:m], vectors[0], wholes, vectors[1], vectors[2:].mean(0), given)


def restated(answer: str) -> str:
    """The same answer in another typography: curly quotes, double spaces between sentences, a line break at its end."""
    curly = re.sub(r'"([^"]*)"', "“\\1”", answer.replace("'", "’"))
    return re.sub(r"([.!?])\s+", r"\1  ", curly) + "\n"


def beginning(answer: str, share: float) -> str:
    """The first words of an answer, at least one where there is one."""
    ends = [match.end() for match in re.finditer(r"\S+", answer)]
    return answer[: ends[max(1, math.ceil(len(ends) * share)) - 1]] if ends else answer


# -- what the model does -----------------------------------------------------------------------------------------


def answer_row(tokenizer: Any, prompt: str, answer: str) -> Row:
    """Prompt and answer as tokens. No end of text is added: most answers are cut off, and an end that was not meant
    would be what all gradients have in common."""
    begin = prompt_ids(tokenizer, prompt)
    own = list(tokenizer(answer, add_special_tokens=False)["input_ids"]) or [tokenizer.eos_token_id]
    return Row([*begin, *own], len(begin))
