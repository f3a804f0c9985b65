"""The demo: what it may say to a generation, and that each generation's data is there."""

from __future__ import annotations

from collections import Counter

from jobs.demo.run import STEPS
from ledger.roles import ROLES


def test_no_generation_of_the_demo_is_trained_otherwise_than_by_the_profile() -> None:
    """Rates and steps chosen for each generation by its verdict would show what a verdict is worth: nothing."""
    assert all(step.overrides.keys() <= {"eval"} for step in STEPS)


def test_every_role_brings_enough_to_each_generation_for_its_gates() -> None:
    for step in STEPS:
        counts = Counter(example.role for example in step.examples())
        assert all(counts[role] >= 500 for role in ROLES), (step.title, counts)
