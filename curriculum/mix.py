"""The training order of a generation: the delta in curriculum order, replay spread evenly through it."""

from collections.abc import Iterable

from curriculum.example import Example, unique
from curriculum.order import curriculum_order, shuffle_within_stages


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
