"""Putting a lesson's probes to a model, in the process of the bench."""

from __future__ import annotations

from collections.abc import Sequence

from bench.courses.scores import Marks
from bench.lessons.lesson import Lesson
from curriculum.example import Example
from curriculum.transcript import LengthSettings
from ledger.roles import BASE, ROLES
from trainers.evals.asking import Asking, mark
from trainers.evals.models import Speaker
from trainers.job import Engine
from trainers.models.adapter_set import AdapterSet


def ask(
    engine: Engine, adapters: AdapterSet, lesson: Lesson, probes: Sequence[Example], lengths: LengthSettings
) -> Marks:
    """Every probe, asked of its own role; of the base in that role's prompt where the role has no adapter yet."""
    generator = engine.generator(adapters)
    closed = frozenset() if lesson.kind == "open" else frozenset(probe.category for probe in probes)
    longest = max(generator.count(probe.output) for probe in probes)
    means, right = dict[str, float](), dict[str, bool]()
    for role in ROLES:
        own = [probe for probe in probes if probe.role == role]
        speaker = Speaker(generator, role if role in adapters.shas else BASE)
        for probe, found in zip(own, mark(speaker, own, Asking(role, closed, longest, lengths)), strict=True):
            means[probe.id], right[probe.id] = found.mean, bool(found.right)
    ordered = tuple(right[probe.id] for probe in probes)
    return Marks(tuple(means[probe.id] for probe in probes), None if lesson.kind == "open" else ordered)
