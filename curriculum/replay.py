"""Replay: examples of the parent's own training data, mixed in against forgetting."""

import random
from collections.abc import Iterable

from curriculum.example import Example
from curriculum.mix import curriculum_order
from ledger.errors import LunaError
from ledger.roles import ROLES


def sample_replay(
    parent_examples: Iterable[Example], delta: Iterable[Example] = (), *, k: int = 100, seed: str
) -> list[Example]:
    """Draw up to `k` examples a role from the parent's data, uniformly and without repeats, in curriculum
    order.

    `seed` is the parent's SHA-256, so a generation always replays the same examples. What is in `delta`
    anyway is left out. The draw depends on the set of examples, not on their order; a role with fewer than
    `k` gives all it has.
    """
    if k < 0:
        raise LunaError(f"replay k is {k}; it must be at least 0 examples a role (0 turns replay off).")
    seen = {example.id for example in delta}
    pool = {example.id: example for example in parent_examples if example.id not in seen}
    chosen: list[Example] = []
    for role in ROLES:
        ids = sorted(id for id, example in pool.items() if example.role == role)
        drawn = random.Random(f"replay:{seed}:{role}").sample(ids, min(k, len(ids)))
        chosen += [pool[id] for id in drawn]
    return curriculum_order(chosen)
