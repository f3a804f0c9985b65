"""The rows of a generation's training, in order: stage by stage, with replay spread evenly through what is new.

Stages go fundamentals, manual, logs_specs, conversations; nothing is ever shuffled across them. All of it is pure.
Equal arguments give equal rows.
"""

import random
from collections.abc import Iterable, Sequence

from curriculum.example import STAGES, Example
from curriculum.proportions import allocate

_PLACE = {stage: place for place, stage in enumerate(STAGES)}


def rows_of_passes(examples: Sequence[Example], count: int, seed: int | str) -> list[Example]:
    """`count` rows: whole passes over the examples, then a part of one in which every category keeps its share.

    Each pass is in curriculum order, shuffled anew within its stages. None where there are no examples.
    """
    rows: list[Example] = []
    number = 0
    while examples and len(rows) < count:
        own_seed = f"{seed}:{number}" if number else str(seed)
        part = stratified(examples, min(count - len(rows), len(examples)), own_seed)
        rows += shuffle_within_stages(part, own_seed)
        number += 1
    return rows


def spread(new: Sequence[Example], replay: Sequence[Example]) -> list[Example]:
    """Both lists in one, each in its own order, at even distances.

    Replay in one block before what is new would be forgotten again by its end.
    """
    places = [
        ((i + 0.5) / len(part), number, example)
        for number, part in enumerate((replay, new))
        for i, example in enumerate(part)
    ]
    return [example for _, _, example in sorted(places, key=lambda place: place[:2])]


def stratified(examples: Iterable[Example], count: int, seed: int | str) -> list[Example]:
    """`count` of the examples, drawn so that each category of each stage keeps its share; all if there are no more.

    The draw depends on the set of examples, not on their order.
    """
    strata: dict[str, list[Example]] = {}
    for example in sorted(examples, key=lambda example: example.id):
        strata.setdefault(f"{example.stage}/{example.category}", []).append(example)
    sizes = {name: len(strata[name]) for name in sorted(strata)}
    if count >= sum(sizes.values()):
        return [example for part in strata.values() for example in part]
    counts = allocate(count, shuffled_keys(sizes, seed))
    return [
        example for name in sizes for example in random.Random(f"draw:{seed}:{name}").sample(strata[name], counts[name])
    ]


def shuffled_keys(sizes: dict[str, int], seed: int | str) -> dict[str, int]:
    """The same sizes in another order, so that not always the same names get what cannot be divided."""
    names = list(sizes)
    random.Random(f"names:{seed}").shuffle(names)
    return {name: sizes[name] for name in names}


def curriculum_order(examples: Iterable[Example]) -> list[Example]:
    """Sort by stage; within a stage the given order is kept."""
    return sorted(examples, key=lambda example: _PLACE[example.stage])


def shuffle_within_stages(examples: Iterable[Example], seed: int | str) -> list[Example]:
    """Curriculum order with every stage shuffled on its own. The result depends on the set and the seed, not
    on the given order."""
    shuffled = sorted(examples, key=lambda example: example.id)
    random.Random(f"shuffle:{seed}").shuffle(shuffled)
    return curriculum_order(shuffled)
