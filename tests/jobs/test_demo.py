"""The demo: what it may say to a generation, and that each generation's data is there."""

from __future__ import annotations

from collections import Counter

import pytest

from cluster.settings import Settings
from curriculum.split import split_by_group
from jobs.demo.run import STEPS
from ledger.roles import ROLES


def test_no_generation_of_the_demo_is_trained_otherwise_than_by_the_profile() -> None:
    """Rates and steps chosen for each generation by its verdict would show what a verdict is worth: nothing."""
    assert all(step.overrides.keys() <= {"eval"} for step in STEPS)


@pytest.mark.slow
def test_every_role_brings_enough_to_each_generation_for_its_gates() -> None:
    settings = Settings()
    for step in STEPS:
        split = split_by_group(step.examples(), [], settings.data.holdout_percent)
        counts = Counter(example.role for example in split.holdout)
        assert all(counts[role] >= settings.gates.min_items for role in ROLES), (step.title, counts)
