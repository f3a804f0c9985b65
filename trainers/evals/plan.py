"""Which items each role is asked after a generation. Pure: equal arguments draw equal items."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain

from curriculum.agl.families import FAMILIES
from curriculum.agl.puzzles import plain_puzzles, puzzle_examples
from curriculum.example import Example, unique
from curriculum.preferences.pairs import Preference
from curriculum.recipes.build import category_examples, category_weights
from curriculum.split import HOLDOUT_PERCENT, Known, held_out, keys_of, keys_of_pair
from ledger.roles import Role
from ledger.taken import Side
from trainers.evals.closed import FEWEST_ANSWERS, by_scoring, fewest_answers
from trainers.evals.scoring import EvalSettings, RolePlan

_POOL_SEED = 20_260_102
"""Of the puzzles and recipes that extras are drawn from: fixed, so that generations are measured on the same items."""

_TRAINED: frozenset[Side] = frozenset({"train"})

_RECIPE_MOST = 6_400
"""Items drawn at most of one recipe category; each has that many."""


@dataclass(frozen=True)
class Material:
    """What a generation's items are drawn from; all roles together."""

    holdout: Sequence[Example]
    """Held-out part of the new data."""
    earlier: Sequence[Example] | None
    """Training examples of all earlier accepted generations; None when there is none, and the untouched base is asked
    the AGL items too."""
    trained_now: Sequence[Example]
    """What this generation trained on. Replayed items are left out of recall: they were just seen."""
    trained_pairs: Sequence[Preference] = ()
    """The preference pairs among it."""
    percent: int = HOLDOUT_PERCENT
    sides_of: Callable[[Collection[int]], Known] = lambda keys: {}
    """Where keys stand since earlier generations: `Ledger.sides_of`."""

    def askable(self, pool: Iterable[Example]) -> list[Example]:
        """The capability items of a pool that are held out, as new data would be, and like nothing that was trained."""
        items = list(pool)
        earlier = self.sides_of({key for item in items for key in keys_of(item)})
        return held_out(items, self.percent, {**earlier, **self._trained})

    @cached_property
    def _trained(self) -> Known:
        keys = chain(map(keys_of, self.trained_now), map(keys_of_pair, self.trained_pairs))
        return dict.fromkeys(chain.from_iterable(keys), _TRAINED)


def plan_role(role: Role, material: Material, settings: EvalSettings, seed: int) -> RolePlan:
    """The evaluation of one role."""
    earlier = material.earlier
    own, trained, before = (
        [item for item in items if item.role == role]
        for items in (material.holdout, material.trained_now, earlier or ())
    )
    recall = None
    if earlier is not None:
        seen = {item.id for item in trained}
        recall = _draw([e for e in before if e.id not in seen], settings.items, f"recall:{seed}:{role}")
    puzzles = settings.agl_items if role == "logical" else settings.agl_items * 2 // 5
    return RolePlan(
        role=role,
        recall=recall,
        generalization=_draw(own, settings.items, f"generalization:{seed}:{role}"),
        extras={
            "agl_accuracy": agl_items(role, puzzles, material),
            "role_understanding": _recipe_items(role, "role_awareness", settings.extra_items, material),
            "tool_syntax": _recipe_items(role, "tool_syntax", settings.extra_items, material),
        },
        base_extras=("agl_accuracy",) if earlier is None and role == "logical" else (),
        seed=seed,
        distractor_pool=[*own, *trained, *before],
    )


def agl_items(role: Role, count: int, material: Material) -> list[Example]:
    """Held-out puzzles in plain form: `count` over the fourteen families, rounded down to equal shares; fewer of a
    family of which too few are left."""
    share = max(1, count // len(FAMILIES))

    def puzzles(family: str, drawn: int) -> list[Example]:
        return puzzle_examples(plain_puzzles(_POOL_SEED, {family: drawn}), role)

    return [item for family in FAMILIES for item in _askable(partial(puzzles, family), share, material)[:share]]


def _recipe_items(role: Role, category: str, count: int, material: Material) -> list[Example]:
    """Held-out items of one recipe category; none where the role's recipe has no such category."""
    if not count or category not in category_weights(role):
        return []

    def recipe(drawn: int) -> list[Example]:
        return category_examples(role, category, min(drawn, _RECIPE_MOST), _POOL_SEED)

    found = _askable(recipe, count, material)
    taken = found[:count]
    if len({e.output for e in taken}) < FEWEST_ANSWERS:  # the first item of each answer before the others
        taken = unique([*reversed({e.output: e for e in reversed(found)}.values()), *found])[:count]
    fewest = fewest_answers(by_scoring(taken))
    return taken if fewest is not None and fewest >= FEWEST_ANSWERS else []


def _askable(draw: Callable[[int], list[Example]], count: int, material: Material) -> list[Example]:
    """The askable items of a pool that is drawn again, twice as large, while it has fewer than `count` of them."""
    drawn = math.ceil(180 * count / max(material.percent, 1))  # nearly twice `count` are held out
    while True:
        pool = draw(drawn)
        found = material.askable(pool)
        if len(found) >= count or len(pool) < drawn:
            return found
        drawn *= 2


def _draw(items: Sequence[Example], count: int, seed: str) -> list[Example]:
    """Up to `count` of the items, independent of their order."""
    ordered = sorted(items, key=lambda item: item.id)
    return random.Random(seed).sample(ordered, min(count, len(ordered)))
