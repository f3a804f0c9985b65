"""Measuring a candidate's reward health on a fixed set of seed prompts, with the trainer's own model in memory.

One role at a time: the child answers the probe prompts; a judge scores the answers, their beginnings and the same
answers restated; one backward a few rows at once gives each answer's gradient, reduced to a sketch; the prompts' states
and the answers' losses are taken for the parent, the child, and half-way between. `trainers.health.index` makes of it
five numbers. No pass is needed for each reward dimension: its gradient is a sum of the rows' gradients by its rewards.
"""

from __future__ import annotations

import copy
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from curriculum.render import render_prompt
from curriculum.reward import DIMENSIONS, RewardOutput
from curriculum.teacher.seed_prompts import SeedPrompt, seed_prompts
from ledger.records import EvalRecord
from ledger.roles import Role
from trainers.fused.engine import FusedEngine
from trainers.health.index import (
    Components,
    HealthSettings,
    Measured,
    cross_domain_stability,
    dimensional_coherence,
    gradient_stability,
    local_agreement,
    manifold_stability,
    micro_batch_gradients,
)
from trainers.lean.adapter_bank import AdapterBank
from trainers.lean.generator import LeanGenerator, prompt_ids
from trainers.lean.lanes import Lanes
from trainers.lean.model import LeanModel, PackedAttention
from trainers.lean.packing import Group, Row, pack
from trainers.models.adapters import initial_adapter, interpolate, read_adapter

PARENT, MIDDLE, CHILD = 0, 1, 2
"""Slots of the bank that a probe asks."""

BEGINNINGS = (1 / 3, 2 / 3)
"""Shares of an answer's words whose rewards are the local ones."""

_ROWS_AT_ONCE = 4
"""Answers whose gradients are taken in one backward, each in a slot of its own: more costs memory, fewer time."""


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


def why_unmeasurable(engine: Any) -> str | None:
    """None if this engine's candidates can be measured; else the reason, for the user."""
    if isinstance(engine, FusedEngine):
        return None
    return (
        f"reward health is not measured with the {engine.name} engine: it needs the gradients and states of the fused "
        'one ([train] engine = "auto" takes it where the model\'s family is known)'
    )


def measure_role(engine: FusedEngine, plan: HealthPlan, judge: Judge, settings: HealthSettings) -> RoleHealth:
    """The five components of one role, from the child's own answers to the probe prompts."""
    probes = probe_prompts(settings.prompts, settings.seed)
    tensors = _tensors_on_the_way(engine, plan)
    bank = engine.bank(len(tensors), engine.lora, trainable=False)
    for slot, values in enumerate(tensors):
        bank.load(slot, values)
    prompts = [render_prompt(plan.role, probe.text) for probe in probes]
    generator = LeanGenerator(engine.model, engine.tokenizer, bank, {plan.role: CHILD}, engine.lanes)
    answers = generator.generate(plan.role, prompts, settings.answer_tokens)

    judged = judge_answers(judge, [probe.text for probe in probes], answers)
    rows = [answer_row(engine.tokenizer, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    gradients, child_losses = row_gradients(engine, tensors[CHILD], rows, settings)
    states = [prompt_states(engine, bank, slot, prompts, settings.layer_share) for slot in (PARENT, CHILD)]
    losses = [row_losses(engine.model, bank, slot, rows, engine.lanes) for slot in (PARENT, MIDDLE)]

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


def _tensors_on_the_way(engine: FusedEngine, plan: HealthPlan) -> list[dict[str, Tensor]]:
    """The adapters of the parent, half-way, and of the child; without a parent the seed's fresh adapter, which is
    the bare base in effect."""
    shapes, rank = engine.model.site_shapes, engine.lora.rank
    child = read_adapter(plan.child, rank, shapes)
    if plan.parent is None:
        parent = initial_adapter(shapes, rank, plan.seed, plan.role)
    else:
        parent = read_adapter(plan.parent, rank, shapes)
    return [parent, interpolate(parent, child, 0.5), child]


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


class Sketch:
    """Gradients of `size` numbers reduced to `width`, keeping inner products on average: signs drawn by the seed, then
    a sum over every `width`-th place (a count sketch; Charikar et al., 2002)."""

    def __init__(self, size: int, width: int, seed: int, device: torch.device):
        generator = torch.Generator().manual_seed(seed)
        self.width, self.size = width, size
        self.signs = (torch.randint(0, 2, (size,), generator=generator, dtype=torch.int8) * 2 - 1).to(device)

    def __call__(self, gradients: Tensor) -> Tensor:
        """(rows, size) to (rows, width), float32 on the CPU."""
        signed = torch.nn.functional.pad(gradients * self.signs, (0, -self.size % self.width))
        return signed.view(len(gradients), -1, self.width).sum(1).cpu()


def row_gradients(
    engine: FusedEngine, adapter: Mapping[str, Tensor], rows: Sequence[Row], settings: HealthSettings
) -> tuple[Tensor, Tensor]:
    """Sketches (M, sketch) of the gradients of each row's mean loss by the adapter's numbers, and the losses (M,)."""
    at_once = min(_ROWS_AT_ONCE, len(rows))
    bank = engine.bank(at_once, engine.lora, trainable=True)
    for slot in range(at_once):
        bank.load(slot, adapter)
    sketch = Sketch(bank.master.shape[1], settings.sketch, settings.seed, engine.device)
    chunks = [rows[start : start + at_once] for start in range(0, len(rows), at_once)]
    lanes = engine.lanes.count if len(chunks) > 1 else 1
    banks = [bank, *(bank.beside() for _ in range(lanes - 1))]

    def lane(number: int) -> list[tuple[Tensor, Tensor]]:
        return [_chunk_gradients(engine, banks[number], chunk, sketch) for chunk in chunks[number::lanes]]

    found = engine.lanes.map(lane, range(lanes))
    in_order = [found[number % lanes][number // lanes] for number in range(len(chunks))]
    return torch.cat([sketches for sketches, _ in in_order]), torch.cat([losses for _, losses in in_order])


def _chunk_gradients(
    engine: FusedEngine, bank: AdapterBank, rows: Sequence[Row], sketch: Sketch
) -> tuple[Tensor, Tensor]:
    """Each row in a slot of its own, with the same adapter, so that one backward keeps their gradients apart."""
    bank.grad.zero_()
    batch = pack([Group(slot, [row]) for slot, row in enumerate(rows)], engine.device)
    with torch.enable_grad():
        losses = -_row_means(engine.model.log_probs(batch, bank), batch.target_row, len(rows))
        losses.sum().backward()
    return sketch(bank.grad[: len(rows)]), losses.detach().cpu()


def _row_means(log_probs: Tensor, target_row: Tensor, rows: int) -> Tensor:
    sums = torch.zeros(rows, device=log_probs.device).index_add(0, target_row, log_probs)
    return sums / torch.bincount(target_row, minlength=rows).clamp_min(1)


def row_losses(model: LeanModel, bank: AdapterBank, slot: int, rows: Sequence[Row], lanes: Lanes) -> Tensor:
    """(M,) mean negative log-likelihood of each row's answer under one adapter, nats a token."""

    @torch.no_grad()
    def part(own: Sequence[Row]) -> Tensor:
        batch = pack([Group(slot, own)], model.device)
        return -_row_means(model.log_probs(batch, bank), batch.target_row, len(own)).cpu()

    return torch.cat(lanes.map(part, _parts(rows, lanes.count)))


def prompt_states(
    engine: FusedEngine, bank: AdapterBank, slot: int, prompts: Sequence[str], layer_share: float
) -> Tensor:
    """(M, width): each prompt's state under one adapter, the mean over its tokens after the role's shared header."""
    shallow = copy.copy(engine.model)
    shallow.layers = engine.model.layers[: max(1, round(len(engine.model.layers) * layer_share))]
    ids = [prompt_ids(engine.tokenizer, prompt) for prompt in prompts]

    @torch.no_grad()
    def part(own: Sequence[list[int]]) -> Tensor:
        batch = pack([Group(slot, [Row(tokens, len(tokens)) for tokens in own])], engine.device)
        x = shallow.blocks(shallow.embed(batch.ids), PackedAttention(shallow, batch), bank, batch.slices).float()
        of_row = torch.arange(len(own), device=x.device).repeat_interleave(batch.rest_lens)
        sums = x.new_zeros(len(own), x.shape[1]).index_add_(0, of_row, x[batch.rest_at])
        return (sums / batch.rest_lens[:, None]).cpu()

    return torch.cat(engine.lanes.map(part, _parts(ids, engine.lanes.count)))


def _parts(items: Sequence[Any], count: int) -> list[Sequence[Any]]:
    """The items in order, in up to `count` about equal parts of at least two (which share a header)."""
    parts, n = max(1, min(count, len(items) // 2)), len(items)
    return [items[n * i // parts : n * (i + 1) // parts] for i in range(parts)]
