"""Every score of one role of a generation, beside its parent on the same items (DESIGN section 6).

A closed item passes if the answer comes whole, with its end (`exact`). An open one of new data passes if its true
answer is likelier for the child than for the parent (`better`), one of earlier data if it is hardly less likely than
for the generation that learned it (`kept`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from curriculum.example import Example
from curriculum.transcript import LengthSettings
from ledger.intervals import wilson_interval
from ledger.logs import log_context
from ledger.records import EvalRecord
from ledger.rules.gates import LEAST_PART, GateSettings, halved, learned_is_clear
from trainers.evals.asking import Asking, Mark, mark
from trainers.evals.exam import Recalled, RolePlan
from trainers.evals.growth import Sizes, ask_until_certain
from trainers.evals.manners import everyday_records, style_drift
from trainers.evals.models import Models, Speaker
from trainers.evals.outcomes import Paired, by_category, kept_details, method_of, new_details
from trainers.evals.rivals import RIVALS, rivals_of
from trainers.evals.settings import EvalSettings

logger = logging.getLogger(__name__)

_Z_TIED = 3.0
"""Quantile of the interval at which `bound` passes before its last look. With 1.96 there too, chance passes in seven of
a hundred roles; so it does in three."""


@dataclass(frozen=True)
class Exam:
    """A role's items, the models that they are put to, and how."""

    models: Models
    plan: RolePlan
    gen_id: int
    settings: EvalSettings
    gates: GateSettings
    asking: Asking

    @property
    def sizes(self) -> Sizes:
        """How the sets grow that a gate asks a number of items of."""
        least = (halved(self.gates) if self.plan.half else self.gates).min_items
        return Sizes(self.settings.block, self.settings.items, least)

    @property
    def child(self) -> Speaker:
        return self.models.child(self.plan.role)


def evaluate_role(
    models: Models,
    plan: RolePlan,
    gen_id: int,
    settings: EvalSettings,
    gates: GateSettings,
    lengths: LengthSettings = LengthSettings(),
) -> list[EvalRecord]:
    """Every score of one role: the gates' and the extras."""
    exam, records = Exam(models, plan, gen_id, settings, gates, asking_of(plan, settings, lengths)), []
    with log_context(role=plan.role):
        for record in _scores(exam):
            logger.info("%s %.3f of %d", record.eval, record.value, record.n)
            records.append(record)
    return records


def _scores(exam: Exam) -> Iterator[EvalRecord]:
    plan, gen_id, settings, asking = exam.plan, exam.gen_id, exam.settings, exam.asking
    yield EvalRecord.recall_by_definition(gen_id, plan.role) if plan.recall is None else _recall(exam, plan.recall)
    generalization, asked = _generalization(exam)
    yield generalization
    yield from _bound(exam, asked)
    yield style_drift(exam.child, gen_id, settings, asking)
    yield from everyday_records(exam.child, plan.everyday, gen_id, settings, asking)
    yield from _extras(exam)


def asking_of(plan: RolePlan, settings: EvalSettings, lengths: LengthSettings = LengthSettings()) -> Asking:
    """How the items of a plan are put."""
    return Asking(plan.role, plan.closed, max(settings.answer_tokens, plan.label_bytes), lengths)


def compare(own: Speaker, other: Speaker, items: Sequence[Example], asking: Asking) -> list[Paired]:
    """Both models' marks of the same items."""
    marks = mark(own, items, asking), mark(other, items, asking)
    return [Paired(item, mine, theirs) for item, mine, theirs in zip(items, *marks, strict=True)]


def compare_recalled(models: Models, items: Sequence[Recalled], asking: Asking) -> list[Paired]:
    """The child's marks beside those of the generation that learned each."""
    examples = [one.example for one in items]
    own = mark(models.child(asking.role), examples, asking)
    others: dict[int, Mark] = {}
    for gen_id in sorted({one.gen_id for one in items}):
        places = [i for i, one in enumerate(items) if one.gen_id == gen_id]
        found = mark(models.learned(gen_id, asking.role), [examples[i] for i in places], asking)
        others |= zip(places, found, strict=True)
    return [Paired(example, one, others[i]) for i, (example, one) in enumerate(zip(examples, own, strict=True))]


def _recall(exam: Exam, items: Sequence[Recalled]) -> EvalRecord:
    """What is left of what the line learned before.

    Closed items that the generation which trained on them did not learn are not counted, or an unchanged copy of it
    would have lost them; all are where too few others are left.
    """
    nats, asked = exam.settings.kept_nats, list[Paired]()

    def learned(block: Sequence[Recalled]) -> list[Paired]:
        marked = compare_recalled(exam.models, block, exam.asking)
        asked.extend(marked)
        return [one for one in marked if one.was_learned]

    found = ask_until_certain(items, learned, lambda one: one.kept(nats), exam.gates.recall_min, exam.sizes)
    if len(found) < exam.sizes.least:
        found = asked
    passed = [one.kept(nats) for one in found]
    details = {
        "by_category": by_category(found, passed),
        **kept_details(found, passed, len(asked)),
        "pool": len(items),
        "half": exam.plan.half,
    }
    return EvalRecord.of_share(exam.gen_id, exam.plan.role, "recall", method_of(found, "kept"), passed, details)


def _generalization(exam: Exam) -> tuple[EvalRecord, list[Paired]]:
    """What was learned of new data beyond the parent, and the items that were asked."""
    models, role = exam.models, exam.plan.role
    pool = exam.plan.generalization
    found = ask_until_certain(
        pool,
        lambda block: compare(exam.child, models.parent(role), block, exam.asking),
        lambda one: one.better,
        exam.gates.generalization_min,
        exam.sizes,
        lambda found: learned_is_clear(new_details(found), exam.gates),
    )
    passed = [one.better for one in found]
    details = {
        "by_category": by_category(found, passed),
        **new_details(found),
        "pool": len(pool),
        "half": exam.plan.half,
    }
    if exam.plan.half is None and found:
        details["example"] = _example(exam, min((one.item for one in found), key=lambda item: item.id))
    record = EvalRecord.of_share(exam.gen_id, role, "generalization", method_of(found, "better"), passed, details)
    return record, found


def _example(exam: Exam, item: Example) -> dict[str, str]:
    """One new question with its true answer, and what was and is answered: for people, not for a gate."""
    role, tokens = exam.plan.role, exam.settings.probe_tokens

    def answer(speaker: Speaker) -> str:
        prompt = exam.asking.prompt(speaker.generator, item.input, item.context)
        return speaker.generator.generate(speaker.voice, [prompt], tokens)[0].text

    before, after = answer(exam.models.parent(role)), answer(exam.child)
    return {"question": item.input, "answer": item.output, "before": before, "after": after}


def _bound(exam: Exam, asked: Sequence[Paired]) -> list[EvalRecord]:
    """Share of open answers that are likelier under their own prompt than under each of the most similar ones."""
    pool = [item for item in exam.plan.generalization if item.category not in exam.plan.closed]
    open_ = [one for one in asked if not one.closed]
    rivals = zip(open_, rivals_of([one.item for one in open_], pool), strict=True)
    tried = [(one, others) for one, others in rivals if len(others) == RIVALS][: exam.settings.bound_items]
    if len(tried) < LEAST_PART:
        return []
    # Where answers belong to their questions the first block is enough; a rival's prompt costs as much as an item.
    least = exam.gates.bound_min
    passed = ask_until_certain(
        tried,
        lambda block: _tied_to_prompts(exam, block),
        lambda tied: tied,
        least,
        Sizes(LEAST_PART, len(tried)),
        clear=lambda found: wilson_interval(sum(found), len(found), _Z_TIED)[0] > least,
    )
    return [EvalRecord.of_share(exam.gen_id, exam.plan.role, "bound", "prompts", passed)]


def _tied_to_prompts(exam: Exam, tried: Sequence[tuple[Paired, Sequence[Example]]]) -> list[bool]:
    """Whether each answer is likelier under its own prompt than under every rival's."""
    speaker, asking = exam.child, exam.asking
    pairs = [
        (asking.prompt(speaker.generator, other.input, other.context), one.item.output)
        for one, others in tried
        for other in others
    ]
    means = [one.mean for one in speaker.generator.likelihoods(speaker.voice, pairs, asking.lengths.max_tokens)]
    return [one.own.mean > max(means[RIVALS * i : RIVALS * (i + 1)]) for i, (one, _) in enumerate(tried)]


def _extras(exam: Exam) -> list[EvalRecord]:
    """Further sets: closed items by the whole answer, open ones against the untouched base."""
    plan, records = exam.plan, []

    def add(name: str, found: Sequence[Paired], passed: Sequence[bool]) -> None:
        details = {"by_category": by_category(found, passed)}
        records.append(EvalRecord.of_share(exam.gen_id, plan.role, name, method_of(found, "better"), passed, details))

    for name, items in plan.extras.items():
        if not items:
            continue
        if name in plan.base_extras or any(item.category not in plan.closed for item in items):
            found = compare(exam.child, exam.models.base(), items, exam.asking)
        else:
            marks = mark(exam.child, items, exam.asking)
            found = [Paired(item, own, None) for item, own in zip(items, marks, strict=True)]
        add(name, found, [one.better for one in found])
        if name in plan.base_extras:
            add(f"base_{name}", found, [bool(one.other and one.other.right) for one in found])
    return records
