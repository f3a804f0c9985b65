"""A table that answers like a model, and items to ask it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from curriculum.everyday import EverydayQuestion
from curriculum.example import make_example
from ledger.roles import BASE
from ledger.rules.gates import GateSettings
from trainers.evals.exam import Compared, RolePlan
from trainers.evals.models import Models
from trainers.evals.scoring import evaluate_role
from trainers.evals.settings import EvalSettings
from trainers.generator import Answer, Likelihood
from trainers.models.adapter_set import AdapterSet

SETTINGS = EvalSettings()
GATES = GateSettings()


class Table:
    """A generator whose answers and likelihoods stand in tables, and which keeps what it was asked."""

    def __init__(
        self,
        texts: Mapping[str, str | Answer] = {},
        mean: Callable[[str, str, str], float] = lambda voice, prompt, answer: -1.0,
    ):
        self.texts, self.mean = texts, mean
        self.decoded: list[Any] = []
        self.rows: list[Any] = []
        self.room = 0

    def count(self, prompt):
        return len(prompt.split())

    def generate(self, voice, prompts, max_new_tokens):
        self.decoded += prompts
        self.room = max_new_tokens
        found = [self.texts.get(prompt, "") if voice != BASE else "" for prompt in prompts]
        return [answer if isinstance(answer, Answer) else Answer(answer, True) for answer in found]

    def likelihoods(self, voice, pairs, max_tokens=None):
        self.rows += pairs
        return [
            Likelihood(self.mean(voice, prompt, answer), voice != BASE and self.texts.get(prompt) == answer)
            for prompt, answer in pairs
        ]


def adapters(name):
    return AdapterSet(Path("adapters"), dict.fromkeys(("creative", "logical", "dialectical"), name))


def models_of(child, parent=None, learned: Mapping[int, Table] = {}):
    """Models over tables."""
    tables = {"child": child, "parent": parent, **{f"g{gen}": table for gen, table in learned.items()}}
    compared = Compared(
        adapters("child"), None if parent is None else adapters("parent"), {gen: adapters(f"g{gen}") for gen in learned}
    )
    return Models(compared, lambda own: tables[own.shas["logical"]])


def open_items(count, category="talk", role="creative"):
    return [
        make_example(
            role=role, stage="conversations", category=category, kind="hybrid", input=f"{category} question {i}?",
            output=f"{category} answer {i}", source="t",
        )
        for i in range(count)
    ]  # fmt: skip


def scores_of(models, plan, settings=SETTINGS, gates=GATES, half=None):
    return {score.eval: score for score in evaluate_role(models, plan.on(half), 3, settings, gates)}


def plan_for(items, recall=None, role="creative", **more):
    closed = frozenset({item.category for item in items if item.category.startswith("agl/")})
    return RolePlan(role=role, generalization=items, recall=recall, closed=closed, **more)


def everyday(count):
    return [EverydayQuestion(f"e{n}", f"What comes after {n}?", (str(n + 1),)) for n in range(count)]
