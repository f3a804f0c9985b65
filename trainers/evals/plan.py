"""Which items each role is asked after a generation. Pure: equal arguments draw equal items."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain

from curriculum.agl.families import FAMILIES
from curriculum.agl.puzzles import plain_puzzles, puzzle_examples
from curriculum.everyday import EverydayQuestion
from curriculum.example import Example
from curriculum.preferences.pairs import Preference
from curriculum.recipes.build import category_examples, category_weights
from curriculum.split import HOLDOUT_PERCENT, Known, held_out, keys_of, keys_of_pair
from ledger.files import sha256_json
from ledger.roles import Role
from ledger.taken import Side
from trainers.evals.closed import closed_categories, label_bytes
from trainers.evals.exam import Recalled, RolePlan
from trainers.evals.settings import EvalSettings

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
    earlier: Mapping[int, Sequence[Example]] | None
    """What each earlier generation of the line was the first to be trained on; None when there is none, and the
    untouched base is asked the AGL items too."""
    trained_now: Sequence[Example]
    """What this generation trained on. Replayed items are left out of recall: they were just seen."""
    trained_pairs: Sequence[Preference] = ()
    """The preference pairs among it."""
    everyday: Mapping[Role, Sequence[EverydayQuestion]] = field(default_factory=dict)
    """The everyday questions that the untouched base gets right in each role's prompt."""
    least_recall: int = 0
    """Where fewer earlier examples than this have a question of their own, some that share one with what was trained
    are asked as well: replay leaves so many others, and counts them by their answers."""
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
    own, trained = ([e for e in items if e.role == role] for items in (material.holdout, material.trained_now))
    earlier = material.earlier or {}
    before = [Recalled(e, gen_id) for gen_id, items in earlier.items() for e in items if e.role == role]
    seen = {(item.context, item.input) for item in trained}  # whatever the answer: a replayed one may be the parent's
    ids = {item.id for item in trained}
    others = {one.example.id: one for one in before if one.example.id not in ids}
    left = {name: one for name, one in others.items() if (one.example.context, one.example.input) not in seen}
    spare = _in_hash_order(others.keys() - left.keys(), f"recall:{seed}:{role}")
    left |= {name: others[name] for name in spare[: max(0, material.least_recall - len(left))]}
    new = {item.id: item for item in own}
    asked, recalled = (
        _in_hash_order(ids, f"{name}:{seed}:{role}")[: settings.items]
        for name, ids in (("generalization", new), ("recall", left))
    )
    puzzles = settings.agl_items if role == "logical" else settings.agl_items * 2 // 5
    extras = {
        "agl_accuracy": agl_items(role, puzzles, material),
        "role_understanding": _recipe_items(role, "role_awareness", settings.extra_items, material),
        "tool_syntax": _recipe_items(role, "tool_syntax", settings.extra_items, material),
    }
    known = [*own, *trained, *(one.example for one in before), *chain.from_iterable(extras.values())]
    closed = closed_categories(known)
    return RolePlan(
        role=role,
        generalization=[new[item] for item in asked],
        recall=None if material.earlier is None else [left[item] for item in recalled],
        everyday=tuple(material.everyday.get(role, ())),
        extras=extras,
        base_extras=("agl_accuracy",) if material.earlier is None and role == "logical" else (),
        closed=closed,
        label_bytes=label_bytes(known, closed),
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

    return _askable(recipe, count, material)[:count]


def _askable(draw: Callable[[int], list[Example]], count: int, material: Material) -> list[Example]:
    """The askable items of a pool that is drawn again, twice as large, while it has fewer than `count` of them."""
    drawn = math.ceil(180 * count / max(material.percent, 1))  # nearly twice `count` are held out
    while True:
        pool = draw(drawn)
        found = material.askable(pool)
        if len(found) >= count or len(pool) < drawn:
            return found
        drawn *= 2


def _in_hash_order(ids: Iterable[str], seed: str) -> list[str]:
    """The ids in an order that depends on the seed and each id alone."""
    return sorted(ids, key=lambda item: sha256_json([seed, item]))
