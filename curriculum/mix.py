"""The training order of a generation: replay first, then the delta."""

from collections.abc import Iterable

from curriculum.example import Example, unique
from curriculum.order import curriculum_order, shuffle_within_stages


def mix(delta: Iterable[Example], replay: Iterable[Example], seed: int | str) -> list[Example]:
    """Replay in curriculum order, then the delta in curriculum order with every stage shuffled by `seed`.

    An example that is in both comes once, with the replay. Pure: equal arguments give an equal order.
    """
    return unique(curriculum_order(replay) + shuffle_within_stages(delta, seed))
