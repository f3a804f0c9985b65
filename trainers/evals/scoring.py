"""Measuring a generation: recall, generalization, style drift, and what else is worth knowing (DESIGN section 6).

Two ways to score, both accuracies in [0, 1]. `exact`: greedy text equals the answer, white space aside. `choice`: the
true answer has the highest mean token log-likelihood among four, three of them answers to other prompts. `closed` says
which.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, Field

from curriculum.example import Example
from curriculum.tone import TONE_PROBES, corporate_phrase
from curriculum.transcript import LengthSettings, fit
from ledger.errors import LunaError
from ledger.records import EvalMethod, EvalRecord
from ledger.roles import BASE, Role, Voice
from trainers.evals.closed import FEWEST_ANSWERS, by_scoring
from trainers.generator import Generator


class EvalSettings(BaseModel):
    """Sizes of the evaluation sets and what counts as corporate."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    items: int = Field(120, ge=1)
    """Largest number of items in a recall or generalization set, drawn by the seed. The gates ask for at least 100."""
    agl_items: int = Field(140, ge=14)
    """Held-out puzzles behind the logical role's `agl_accuracy`, spread evenly over the fourteen families; two fifths
    as many for the other roles."""
    extra_items: int = Field(50, ge=0)
    """Items behind each of `role_understanding` and `tool_syntax`; of fewer than 50 no capability is made."""
    answer_tokens: int = Field(12, ge=1)
    """Longest generated answer to a closed question."""
    probe_tokens: int = Field(40, ge=1)
    """Longest generated answer to a tone probe."""
    corporate_phrases: tuple[str, ...] = ()
    """Phrases that make an answer count as corporate, on top of the detector's; case and white space do not matter."""


@dataclass(frozen=True)
class RolePlan:
    """What one role is asked. Recall None means that there is no earlier generation."""

    role: Role
    recall: Sequence[Example] | None
    generalization: Sequence[Example]
    extras: dict[str, Sequence[Example]] = field(default_factory=dict)
    """Further measured sets by name (`agl_accuracy`, ...); stored, never judged."""
    base_extras: tuple[str, ...] = ()
    """Extras that the untouched base is asked as well, stored as `base_<name>`."""
    seed: int = 0
    distractor_pool: Sequence[Example] = ()
    """Everything the role has been given. A set with too few open answers takes its wrong ones from here."""


@dataclass(frozen=True)
class ItemSet:
    """Items that are scored together, and where the wrong answers to choose from are drawn."""

    items: Sequence[Example]
    seed: int
    distractor_pool: Sequence[Example] = ()
    """Further items whose answers are drawn where the set has too few open ones of a kind."""


@dataclass(frozen=True)
class SetResult:
    """The outcome of one set: which items succeeded, and the example's category beside each."""

    passed: tuple[bool, ...]
    categories: tuple[str, ...]
    method: EvalMethod

    def record(self, gen_id: int, role: Role, name: str) -> EvalRecord:
        """As the ledger keeps it, with the share by category in the details."""
        by_category: dict[str, list[bool]] = defaultdict(list)
        for category, ok in zip(self.categories, self.passed, strict=True):
            by_category[category].append(ok)
        shares = {category: [sum(passed), len(passed)] for category, passed in sorted(by_category.items())}
        return EvalRecord.of_share(gen_id, role, name, self.method, self.passed, {"by_category": shares})


def evaluate_role(
    generator: Generator,
    plan: RolePlan,
    gen_id: int,
    settings: EvalSettings,
    lengths: LengthSettings = LengthSettings(),
) -> list[EvalRecord]:
    """Every score of one role: the three gates' and the extras."""
    role = plan.role

    def scored(name: str, items: Sequence[Example], pool: Sequence[Example], voice: Voice | None = None) -> EvalRecord:
        result = score_set(generator, role, ItemSet(items, plan.seed, pool), settings, voice, lengths)
        return result.record(gen_id, role, name)

    if plan.recall is None:
        records = [EvalRecord.recall_by_definition(gen_id, role)]
    else:
        records = [scored("recall", plan.recall, plan.distractor_pool)]
    records.append(scored("generalization", plan.generalization, plan.distractor_pool))
    records.append(style_drift(generator, role, gen_id, settings, lengths))
    for name, items in plan.extras.items():
        if items:
            records.append(scored(name, items, ()))
            if name in plan.base_extras:
                records.append(scored(f"base_{name}", items, (), BASE))
    return records


def score_set(
    generator: Generator,
    role: Role,
    item_set: ItemSet,
    settings: EvalSettings,
    voice: Voice | None = None,
    lengths: LengthSettings = LengthSettings(),
) -> SetResult:
    """Score each item its own way. `voice` answers in place of the role, in the role's prompts (the bare base).

    Prompts and answers are cut as in training.
    """
    items = item_set.items
    asked = by_scoring(items, item_set.distractor_pool)
    closed, open_, tokens = asked.whole, asked.choice, max(settings.answer_tokens, asked.answer_tokens)
    passed = {
        **_exact(generator, voice or role, role, closed, tokens, lengths),
        **_choice(generator, voice or role, role, ItemSet(open_, item_set.seed, asked.choice_pool), lengths),
    }
    method: EvalMethod = "mixed" if closed and open_ else "exact" if closed else "choice"
    return SetResult(tuple(passed[item.id] for item in items), tuple(item.category for item in items), method)


def same_answer(found: str, wanted: str) -> bool:
    """Equal but for white space at the ends and its kind and amount inside."""
    return found.split() == wanted.split()


def _exact(
    generator: Generator,
    voice: Voice,
    role: Role,
    items: Sequence[Example],
    answer_tokens: int,
    lengths: LengthSettings,
) -> dict[str, bool]:
    if not items:
        return {}
    prompts = [_prompt(generator, role, item, lengths) for item in items]
    answers = generator.generate(voice, prompts, answer_tokens)
    return {item.id: same_answer(found, item.output) for item, found in zip(items, answers, strict=True)}


def _choice(
    generator: Generator, voice: Voice, role: Role, item_set: ItemSet, lengths: LengthSettings
) -> dict[str, bool]:
    items = item_set.items
    if not items:
        return {}
    candidates = [four_answers(item, items, item_set.seed, item_set.distractor_pool) for item in items]
    prompts = [_prompt(generator, role, item, lengths) for item in items]
    pairs = [(prompt, answer) for prompt, answers in zip(prompts, candidates, strict=True) for answer in answers]
    scores = generator.mean_log_likelihoods(voice, pairs, lengths.max_tokens)
    return {
        item.id: scores[4 * i] > max(scores[4 * i + 1 : 4 * i + 4]) for i, item in enumerate(items)
    }  # fmt: skip


def _prompt(generator: Generator, role: Role, item: Example, lengths: LengthSettings) -> str:
    return fit(role, item.input, item.context, lengths.room, generator.count).prompt


def four_answers(
    item: Example, items: Sequence[Example], seed: int, distractor_pool: Sequence[Example] = ()
) -> list[str]:
    """The true answer first, then three different answers to other prompts, drawn by seed and item.

    They come from the item's own kind (its category up to the slash), in the set or else in the pool, where it has
    three: among answers of another kind the style alone would decide, for or against.

    Raises:
        LunaError: if set and pool together do not hold three others.
    """
    everything = [*items, *distractor_pool]
    found = (
        _other_answers(item, [other for other in pool if any_kind or _kind(other) == _kind(item)])
        for pool, any_kind in ((items, False), (everything, False), (everything, True))
    )
    others = next((answers for answers in found if len(answers) >= 3), None)
    if others is None:
        raise LunaError(
            f"the examples of {item.role} have only {len(_other_answers(item, everything)) + 1} different open "
            f"answers; scoring by choice needs {FEWEST_ANSWERS}. Add more varied examples."
        )
    return [item.output, *random.Random(f"choice:{seed}:{item.id}").sample(others, 3)]


def _other_answers(item: Example, items: Sequence[Example]) -> list[str]:
    return sorted({other.output for other in items if other.input != item.input} - {item.output})


def _kind(item: Example) -> str:
    return item.category.partition("/")[0]


def style_drift(
    generator: Generator,
    role: Role,
    gen_id: int,
    settings: EvalSettings,
    lengths: LengthSettings = LengthSettings(),
) -> EvalRecord:
    """Share of the answers to the tone probes that hold a corporate phrase; the answers are kept in the details."""
    prompts = [fit(role, probe, "", lengths.room, generator.count).prompt for probe in TONE_PROBES]
    answers = generator.generate(role, prompts, settings.probe_tokens)
    corporate = [corporate_phrase(answer, settings.corporate_phrases) is not None for answer in answers]
    details = {"answers": dict(zip(TONE_PROBES, answers, strict=True))}
    return EvalRecord.of_share(gen_id, role, "style_drift", "phrases", corporate, details)
