"""What is added to a role's own data: recipe examples where it is too little for the gates, and everyday lessons."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from cluster.settings import Settings
from curriculum.everyday.lessons import everyday_examples, is_everyday
from curriculum.example import Example
from curriculum.recipes.build import EVERYDAY_SHARE, build_recipe
from ledger.errors import LunaError
from ledger.roles import ROLES, Role
from ledger.rules.age_up import examples_needed
from ledger.store import Ledger

logger = logging.getLogger(__name__)

_ROUNDS = 6
"""Draws at most. One or two suffice unless the split puts far fewer on the holdout's side than its share."""

_LEAST_DRAW = 30
"""So many that one without any on the holdout's side says that more would not help."""

_SEEDS_APART = 100_003
"""Between two draws, so that the seeds of one generation are no other's."""


def filling(
    ledger: Ledger,
    lineage: str,
    settings: Settings,
    own: Sequence[Example],
    held_out: Callable[[Sequence[Example]], Iterable[Example]],
) -> list[Example]:
    """Of each role's recipe what `own` lacks for a holdout that the gates accept, none of it taken before.

    The same for the same head, settings and data, so that a run that collects twice collects the same.

    Args:
        own: new examples of the inbox and of conversations.
        held_out: the held-out part of examples, as the generation will split them.
    """
    least, found, before = settings.gates.min_items, list[Example](), Counter[Role]()
    for number in range(_ROUNDS):
        held, have = Counter(e.role for e in held_out([*own, *found])), Counter(e.role for e in (*own, *found))
        drawn: list[Example] = []
        for role in ROLES:
            if held[role] >= least or (number and held[role] == before[role]):
                continue  # enough, or more of the recipe brings no more
            share = _share(held[role], have[role], settings.data.holdout_percent)
            count = max(_LEAST_DRAW, examples_needed(least - held[role], share))
            drawn += _draw(ledger, lineage, role, count, _seed(ledger, lineage, settings, number), [*own, *found])
        if not drawn:
            break
        found, before = [*found, *drawn], held
    _tell(own, found)
    return found


LEAST_EVERYDAY = 60
"""Everyday lessons of a role at least, however little else there is."""

MOST_EVERYDAY = 3_000
"""And at most, however much: there are hardly twice as many."""


def everyday_filling(ledger: Ledger, lineage: str, settings: Settings, new: Sequence[Example]) -> list[Example]:
    """Everyday lessons for a lineage's first generation, for each role whose new examples hold none of them.

    Without them a base that learns something else forgets how to answer in plain words. Later generations replay them.
    """
    if ledger.head(lineage) is not None:
        return []
    lacking = set(ROLES) - {example.role for example in new if is_everyday(example)}
    rows = Counter(example.role for example in new if example.role in lacking)
    # As many as make the share of all with them.
    counts = {
        role: min(max(LEAST_EVERYDAY, round(rows[role] * EVERYDAY_SHARE / (1 - EVERYDAY_SHARE))), MOST_EVERYDAY)
        for role in ROLES
        if role in lacking
    }
    if not counts:
        return []
    told = ", ".join(f"{count} for {role}" for role, count in counts.items())
    logger.info("everyday questions and small talk added, so that the base's own abilities stay: %s", told)
    known = {example.id for example in new}
    lessons = [lesson for role, count in counts.items() for lesson in everyday_examples(role, count, settings.seed)]
    return [lesson for lesson in lessons if lesson.id not in known]


def _share(held: int, have: int, percent: int) -> int:
    """Percent that the split holds out, as far as it can be seen, but no less than a quarter of what is asked for."""
    seen = 100 * held // have if have >= _LEAST_DRAW else percent
    return max(1, percent // 4, min(percent, seen))


def _draw(ledger: Ledger, lineage: str, role: Role, count: int, seed: int, have: Sequence[Example]) -> list[Example]:
    """`count` new examples, spread evenly over a recipe twice as long; fewer where it has no more."""
    try:
        recipe = build_recipe(role, 2 * count, seed)
    except LunaError:  # more than its templates hold
        return []
    known = {example.id for example in have} | ledger.taken_among([example.id for example in recipe], lineage)
    fresh = [example for example in recipe if example.id not in known]
    count = min(count, len(fresh))
    return [fresh[i * len(fresh) // count] for i in range(count)]


def _seed(ledger: Ledger, lineage: str, settings: Settings, number: int) -> int:
    head = ledger.head(lineage)
    return settings.seed + (0 if head is None else head + 1) + number * _SEEDS_APART


def _tell(own: Sequence[Example], found: Sequence[Example]) -> None:
    if not found:
        return
    yours, filled = Counter(example.role for example in own), Counter(example.role for example in found)
    told = [f"{role}: {yours[role]} of your own, {filled[role]} from the recipe" for role in ROLES if filled[role]]
    logger.info("too little for the gates, filled up: %s", "; ".join(told))
