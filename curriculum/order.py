"""Curriculum order: fundamentals, manual, logs_specs, conversations; never a shuffle across stages."""

import random
from collections.abc import Iterable

from curriculum.example import STAGES, Example

_PLACE = {stage: place for place, stage in enumerate(STAGES)}


def curriculum_order(examples: Iterable[Example]) -> list[Example]:
    """Sort by stage; within a stage the given order is kept."""
    return sorted(examples, key=lambda example: _PLACE[example.stage])


def shuffle_within_stages(examples: Iterable[Example], seed: int | str) -> list[Example]:
    """Curriculum order with every stage shuffled on its own. The result depends on the set and the seed, not
    on the given order."""
    shuffled = sorted(examples, key=lambda example: example.id)
    random.Random(f"shuffle:{seed}").shuffle(shuffled)
    return curriculum_order(shuffled)
