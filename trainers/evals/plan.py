"""Which items each role is asked after a generation. Pure: equal arguments draw equal items."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from curriculum.agl.families import FAMILIES
from curriculum.agl.puzzles import plain_puzzles, puzzle_examples
from curriculum.example import Example, unique
from curriculum.recipes.build import category_examples, category_weights
from curriculum.split import is_holdout
from ledger.roles import Role
from trainers.evals.closed import FEWEST_ANSWERS, by_scoring, fewest_answers
from trainers.evals.scoring import EvalSettings, RolePlan

_POOL_SEED = 20_260_102
"""Of the puzzles and recipes that extras are drawn from: fixed, so that generations are measured on the same items."""


def plan_role(
    role: Role,
    *,
    holdout: Sequence[Example],
    earlier: Sequence[Example] | None,
    trained_now: Iterable[Example],
    settings: EvalSettings,
    seed: int,
) -> RolePlan:
    """The evaluation of one role.

    Args:
        holdout: held-out part of the new data, all roles.
        earlier: training examples of all earlier accepted generations, all roles; None when there is none, and the
            untouched base is asked the AGL items too.
        trained_now: what this generation trained on. Replayed items are left out of recall: they were just seen.
    """
    own, trained, before = (
        [item for item in items if item.role == role] for items in (holdout, trained_now, earlier or ())
    )
    recall = None
    if earlier is not None:
        seen = {item.id for item in trained}
        recall = _draw([e for e in before if e.id not in seen], settings.items, f"recall:{seed}:{role}")
    return RolePlan(
        role=role,
        recall=recall,
        generalization=_draw(own, settings.items, f"generalization:{seed}:{role}"),
        extras={
            "agl_accuracy": agl_items(role, settings.agl_items if role == "logical" else settings.agl_items // 5),
            "role_understanding": _recipe_items(role, "role_awareness", settings.extra_items),
            "tool_syntax": _recipe_items(role, "tool_syntax", settings.extra_items),
        },
        base_extras=("agl_accuracy",) if earlier is None and role == "logical" else (),
        seed=seed,
        distractor_pool=[*own, *trained, *before],
    )


def agl_items(role: Role, count: int) -> list[Example]:
    """Held-out puzzles in plain form: `count` over the fourteen families, rounded down to equal shares."""
    per_family = max(1, count // len(FAMILIES))
    items: list[Example] = []
    for family in FAMILIES:
        puzzles = plain_puzzles(_POOL_SEED, {family: 12 * per_family})
        held_out = [example for example in puzzle_examples(puzzles, role) if is_holdout(example.id)]
        items += held_out[:per_family]
    return items


def _recipe_items(role: Role, category: str, count: int) -> list[Example]:
    """Held-out items of one recipe category; none where the role's recipe has no such category."""
    if not count or category not in category_weights(role):
        return []
    found = [e for e in category_examples(role, category, 8 * count, _POOL_SEED) if is_holdout(e.id)]
    taken = found[:count]
    if len({e.output for e in taken}) < FEWEST_ANSWERS:  # the first item of each answer before the others
        taken = unique([*reversed({e.output: e for e in reversed(found)}.values()), *found])[:count]
    fewest = fewest_answers(by_scoring(taken))
    return taken if fewest is not None and fewest >= FEWEST_ANSWERS else []


def _draw(items: Sequence[Example], count: int, seed: str) -> list[Example]:
    """Up to `count` of the items, independent of their order."""
    ordered = sorted(items, key=lambda item: item.id)
    return random.Random(seed).sample(ordered, min(count, len(ordered)))
