"""Build a role's recipe: pure puzzles, filled templates, everyday lessons; in fixed proportions, inputs all different.

All numbers that decide what a recipe holds stand here; the proportions of its categories in the role's own file.
"""

from collections.abc import Mapping
from random import Random

from curriculum.agl.puzzles import LEARNED_LAST, lesson_puzzles, puzzle_examples
from curriculum.everyday.lessons import everyday_examples
from curriculum.example import Example, make_example
from curriculum.proportions import allocate
from curriculum.recipes import creative, dialectical, grammar, logical
from ledger.errors import LunaError
from ledger.roles import ROLES, Role

TOTALS: Mapping[Role, int] = {"creative": 800, "logical": 1600, "dialectical": 800}
"""Examples of a recipe where no total is asked for: what one generation learns well enough for the gates. Fourteen
families of puzzles need some 6,000 of the logical role."""

EVERYDAY_SHARE = 0.1
"""Share of everyday lessons and small talk in every recipe, in [0, 1]: so much keeps what the base could do."""

GOLDEN_RATIO = 0.6
"""Share of pure AGL in the rest of the logical and dialectical recipes, in [0, 1]: 60 % pure, 40 % hybrid."""

PUZZLES_A_FAMILY: Mapping[Role, int] = {"creative": 400, "logical": 200, "dialectical": 400}
"""Puzzles of a recipe that make it worth another family, easy ones first: few examples of many families teach none."""

_HYBRID: Mapping[str, Mapping[str, float]] = {
    "logical": logical.PROPORTIONS,
    "dialectical": dialectical.PROPORTIONS,
}


def build_recipe(role: Role, total: int, seed: int, golden_ratio: float = GOLDEN_RATIO) -> list[Example]:
    """`total` examples of a role, all fundamentals, inputs all different, equal for equal arguments.

    Pure puzzles come first, then the categories, then everyday lessons; a training order is made by `curriculum.mix`.
    `golden_ratio` in [0, 1] is the pure share for `logical` and `dialectical`, everyday lessons aside; `creative` has
    its own proportions. Raises `LunaError` for an unknown role, a ratio outside [0, 1] or a total beyond what the
    templates hold.
    """
    weights = category_weights(role, golden_ratio)
    everyday = round(EVERYDAY_SHARE * max(total, 0))
    counts = allocate(total - everyday, weights)
    pure = counts.pop("agl")
    examples = puzzle_examples(lesson_puzzles(_role_seed(role, seed), pure, puzzle_weights(role, pure)), role)
    for category, n in counts.items():
        examples += category_examples(role, category, n, seed)
    return examples + everyday_examples(role, everyday, seed)


def category_examples(role: Role, category: str, count: int, seed: int) -> list[Example]:
    """`count` examples of one hybrid category of a role's recipe, the same as in a recipe of this seed and size.

    Raises `LunaError` for a count beyond what the category's templates hold.
    """
    rng = Random(f"recipe:{role}:{category}:{seed}")
    return [
        make_example(
            role=role,
            stage="fundamentals",
            category=category,
            kind="hybrid",
            input=filled.input,
            output=filled.output,
            context=filled.context,
            source=f"recipe/{category}/{filled.template_id}",
        )
        for filled in grammar.fill_category(role, category, count, rng)
    ]


def category_weights(role: Role, golden_ratio: float = GOLDEN_RATIO) -> dict[str, float]:
    """Relative weight of every category of a role's recipe but everyday lessons; `agl`: all puzzle families."""
    if role not in ROLES:
        raise LunaError(f"there is no role {role!r}; use one of {', '.join(ROLES)}.")
    if not 0 <= golden_ratio <= 1:
        raise LunaError(f"golden_ratio is {golden_ratio}; it is the share of pure examples, between 0 and 1.")
    if role == "creative":
        return dict(creative.PROPORTIONS)
    hybrid = _HYBRID[role]
    scale = (1 - golden_ratio) / sum(hybrid.values())
    return {"agl": golden_ratio, **{category: share * scale for category, share in hybrid.items()}}


def puzzle_weights(role: Role, count: int) -> dict[str, int]:
    """Proportions of the puzzle families among `count` puzzles of a role's recipe."""
    return dict(list(LEARNED_LAST.items())[: max(1, count // PUZZLES_A_FAMILY[role])])


def _role_seed(role: Role, seed: int) -> int:
    """Roles draw different puzzles from one seed, so that the trio together sees three times as many."""
    return seed * len(ROLES) + ROLES.index(role)
