"""The training order of a generation: stage by stage, with replay spread evenly through the delta.

Stages go fundamentals, manual, logs_specs, conversations; nothing is ever shuffled across them.
"""

import random
from collections.abc import Iterable

from curriculum.example import STAGES, Example, unique

_PLACE = {stage: place for place, stage in enumerate(STAGES)}


def mix(delta: Iterable[Example], replay: Iterable[Example], seed: int | str) -> list[Example]:
    """The delta in curriculum order, every stage shuffled by `seed`; for each role its replay at even distances.

    Replay in one block before the delta would be forgotten again by the delta's end. An example that is in both comes
    once. Pure: equal arguments give an equal order.
    """
    new, old = shuffle_within_stages(delta, seed), curriculum_order(replay)
    mixed: list[Example] = []
    for role in dict.fromkeys(example.role for example in (*old, *new)):
        own_old = [example for example in old if example.role == role]
        own_new = [example for example in new if example.role == role]
        places = [
            ((i + 0.5) / len(part), number, example)
            for number, part in enumerate((own_old, own_new))
            for i, example in enumerate(part)
        ]
        mixed += [example for _, _, example in sorted(places, key=lambda place: place[:2])]
    return unique(mixed)


def curriculum_order(examples: Iterable[Example]) -> list[Example]:
    """Sort by stage; within a stage the given order is kept."""
    return sorted(examples, key=lambda example: _PLACE[example.stage])


def shuffle_within_stages(examples: Iterable[Example], seed: int | str) -> list[Example]:
    """Curriculum order with every stage shuffled on its own. The result depends on the set and the seed, not
    on the given order."""
    shuffled = sorted(examples, key=lambda example: example.id)
    random.Random(f"shuffle:{seed}").shuffle(shuffled)
    return curriculum_order(shuffled)
