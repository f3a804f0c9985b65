"""Measuring a generation: recall, generalization, style drift, and what else is worth knowing (DESIGN section 6).

Two ways to score, both accuracies in [0, 1]. `exact`: greedy text equals the answer, white space aside. `choice`: the
true answer has the highest mean token log-likelihood among four, three of them answers to other prompts.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from curriculum.example import Example, scoring_of
from curriculum.probes import CORPORATE_PHRASES, TONE_PROBES, has_corporate_phrase
from curriculum.render import render_prompt
from ledger.errors import LunaError
from ledger.intervals import wilson_interval
from ledger.records import EvalMethod, EvalRecord
from ledger.roles import Role

if TYPE_CHECKING:  # imports torch, which whoever only reads settings can do without
    from trainers.lean.generator import Generator, Voice


class EvalSettings(BaseModel):
    """Sizes of the evaluation sets and what counts as corporate."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    items: int = Field(120, ge=1)
    """Largest number of items in a recall or generalization set, drawn by the seed. The gates ask for at least 100."""
    agl_items: int = Field(140, ge=14)
    """Held-out puzzles behind the logical role's `agl_accuracy`, spread evenly over the fourteen families; a fifth as
    many for the other roles."""
    extra_items: int = Field(24, ge=0)
    """Items behind each of `role_understanding` and `tool_syntax`."""
    answer_tokens: int = Field(12, ge=1)
    """Longest generated answer to a closed question."""
    probe_tokens: int = Field(40, ge=1)
    """Longest generated answer to a tone probe."""
    corporate_phrases: tuple[str, ...] = CORPORATE_PHRASES
    """Phrases that make an answer count as corporate; case and white space do not matter."""


@dataclass(frozen=True)
class RolePlan:
    """What one role is asked. A set that is None is not measured; recall None means there is nothing earlier."""

    role: Role
    recall: Sequence[Example] | None
    generalization: Sequence[Example]
    extras: dict[str, Sequence[Example]] = field(default_factory=dict)
    """Further measured sets by name (`agl_accuracy`, ...); stored, never judged."""
    base_extras: tuple[str, ...] = ()
    """Extras that the untouched base is asked as well, stored as `base_<name>`."""
    seed: int = 0
    known: Sequence[Example] = ()
    """Everything the role has been given. A set with too few open answers takes its wrong ones from here."""


@dataclass(frozen=True)
class Marks:
    """The outcome of one set: which items succeeded, and the example's category beside each."""

    passed: tuple[bool, ...]
    categories: tuple[str, ...]
    method: EvalMethod

    def record(self, gen_id: int, role: Role, name: str) -> EvalRecord:
        """As the ledger keeps it, with the share by category in the details."""
        by_category: dict[str, list[bool]] = defaultdict(list)
        for category, ok in zip(self.categories, self.passed, strict=True):
            by_category[category].append(ok)
        return _record(
            gen_id, role, name, self.method, sum(self.passed), len(self.passed),
            {"by_category": {key: [sum(marks), len(marks)] for key, marks in sorted(by_category.items())}},
        )  # fmt: skip


def evaluate_role(generator: Generator, plan: RolePlan, gen_id: int, settings: EvalSettings) -> list[EvalRecord]:
    """Every score of one role: the three gates' and the extras."""
    role = plan.role
    if plan.recall is None:
        records = [EvalRecord.recall_by_definition(gen_id, role)]
    else:
        marks = score_set(generator, role, plan.recall, plan.seed, settings, known=plan.known)
        records = [marks.record(gen_id, role, "recall")]
    marks = score_set(generator, role, plan.generalization, plan.seed, settings, known=plan.known)
    records.append(marks.record(gen_id, role, "generalization"))
    records.append(style_drift(generator, role, gen_id, settings))
    for name, items in plan.extras.items():
        if items:
            marks = score_set(generator, role, items, plan.seed, settings)
            records.append(marks.record(gen_id, role, name))
            if name in plan.base_extras:
                marks = score_set(generator, role, items, plan.seed, settings, voice="base")
                records.append(marks.record(gen_id, role, f"base_{name}"))
    return records


def score_set(
    generator: Generator,
    role: Role,
    items: Sequence[Example],
    seed: int,
    settings: EvalSettings,
    voice: Voice | None = None,
    known: Sequence[Example] = (),
) -> Marks:
    """Score each item its own way. `voice` answers in place of the role, in the role's prompts (the bare base).

    Wrong answers to choose from come from the items, or where those are too few from `known`.
    """
    closed = [item for item in items if scoring_of(item) == "exact"]
    open_ = [item for item in items if scoring_of(item) == "choice"]
    passed = {
        **_exact(generator, voice or role, role, closed, settings.answer_tokens),
        **_choice(generator, voice or role, role, open_, seed, [e for e in known if scoring_of(e) == "choice"]),
    }
    method: EvalMethod = "mixed" if closed and open_ else "exact" if closed else "choice"
    return Marks(tuple(passed[item.id] for item in items), tuple(item.category for item in items), method)


def same_answer(found: str, wanted: str) -> bool:
    """Equal but for white space at the ends and its kind and amount inside."""
    return found.split() == wanted.split()


def _exact(
    generator: Generator, voice: Voice, role: Role, items: Sequence[Example], answer_tokens: int
) -> dict[str, bool]:
    if not items:
        return {}
    prompts = [render_prompt(role, item.input, item.context) for item in items]
    answers = generator.generate(voice, prompts, answer_tokens)
    return {item.id: same_answer(found, item.output) for item, found in zip(items, answers, strict=True)}


def _choice(
    generator: Generator, voice: Voice, role: Role, items: Sequence[Example], seed: int, known: Sequence[Example]
) -> dict[str, bool]:
    if not items:
        return {}
    candidates = [four_answers(item, items, seed, known) for item in items]
    pairs = [
        (render_prompt(role, item.input, item.context), answer)
        for item, answers in zip(items, candidates, strict=True)
        for answer in answers
    ]
    scores = generator.mean_log_likelihoods(voice, pairs)
    return {
        item.id: scores[4 * i] > max(scores[4 * i + 1 : 4 * i + 4]) for i, item in enumerate(items)
    }  # fmt: skip


def four_answers(item: Example, items: Sequence[Example], seed: int, known: Sequence[Example] = ()) -> list[str]:
    """The true answer first, then three different answers to other prompts, drawn by seed and item.

    They come from the item's own kind (its category up to the slash), in the set or else in `known`, where it has
    three: among answers of another kind the style alone would decide, for or against.

    Raises:
        LunaError: if set and `known` together do not hold three others.
    """
    everything = [*items, *known]
    found = (
        _other_answers(item, [other for other in pool if any_kind or _kind(other) == _kind(item)])
        for pool, any_kind in ((items, False), (everything, False), (everything, True))
    )
    others = next((answers for answers in found if len(answers) >= 3), None)
    if others is None:
        raise LunaError(
            f"the examples of {item.role} have only {len(_other_answers(item, everything)) + 1} different open "
            "answers; scoring by choice needs 4. Add more varied examples."
        )
    return [item.output, *random.Random(f"choice:{seed}:{item.id}").sample(others, 3)]


def _other_answers(item: Example, items: Sequence[Example]) -> list[str]:
    return sorted({other.output for other in items if other.input != item.input} - {item.output})


def _kind(item: Example) -> str:
    return item.category.partition("/")[0]


def style_drift(generator: Generator, role: Role, gen_id: int, settings: EvalSettings) -> EvalRecord:
    """Share of the answers to the tone probes that hold a corporate phrase; the answers are kept in the details."""
    answers = generator.generate(role, [render_prompt(role, p) for p in TONE_PROBES], settings.probe_tokens)
    corporate = [has_corporate_phrase(answer, settings.corporate_phrases) for answer in answers]
    details: dict[str, object] = {"answers": dict(zip(TONE_PROBES, answers, strict=True))}
    return _record(gen_id, role, "style_drift", "phrases", sum(corporate), len(answers), details)


def _record(
    gen_id: int, role: Role, name: str, method: EvalMethod, successes: int, n: int, details: dict[str, object]
) -> EvalRecord:
    low, high = wilson_interval(successes, n)
    return EvalRecord(
        gen_id=gen_id, role=role, eval=name, method=method, value=successes / n, n=n, low=low, high=high,
        details=details,
    )  # fmt: skip
