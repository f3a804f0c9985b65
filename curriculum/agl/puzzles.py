"""Sets of pure AGL puzzles: the reference counts at any total, without repeats, equal for equal seeds."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from random import Random

from curriculum.agl.families import FAMILIES, Puzzle
from curriculum.example import Example, make_example
from curriculum.proportions import allocate
from ledger.errors import LunaError
from ledger.roles import Role

REFERENCE_COUNTS: dict[str, int] = {
    "modus_ponens": 800,
    "modus_tollens": 600,
    "chain": 750,
    "conjunction": 500,
    "disjunction": 500,
    "negation": 400,
    "membership": 500,
    "chess": 800,
    "biconditional": 400,
    "existential": 300,
    "universal": 300,
    "identity": 200,
    "comparison": 300,
    "transitive": 300,
}
"""Puzzles a family in the reference set (chess: 400 valid squares and 400 invalid)."""

DISTINCT_WEIGHTS: dict[str, int] = {**REFERENCE_COUNTS, "chess": 320}
"""Proportions of `distinct_puzzles`: the reference, with chess at the number of its different puzzles."""

REFERENCE_TOTAL = sum(REFERENCE_COUNTS.values())
"""6,650 puzzles before repeats are removed."""


def generate_puzzles(seed: int, total: int = REFERENCE_TOTAL) -> list[Puzzle]:
    """Draw `total` puzzles in the reference proportions and drop repeats, so that fewer are returned.

    In the reference set some 700 go, most of them chess squares, of which only 320 puzzles exist. See
    `distinct_puzzles` for an exact number.
    """
    counts = allocate(total, REFERENCE_COUNTS)
    drawn = (puzzle for family, n in counts.items() for puzzle in FAMILIES[family](_family_rng(seed, family), n))
    return list({puzzle[2]: puzzle for puzzle in drawn}.values())


def distinct_puzzles(seed: int, total: int) -> list[Puzzle]:
    """Exactly `total` different puzzles, in the reference proportions as far as each family has that many.

    What a small family (chess, identity) cannot give is spread over the others. Raises `LunaError` when all
    run dry.
    """
    puzzles = _drawn({family: _distinct_stream(seed, family) for family in FAMILIES}, DISTINCT_WEIGHTS, total)
    if len(puzzles) < total:
        raise LunaError(f"asked for {total} different AGL puzzles; there are only {len(puzzles)}, ask for fewer.")
    return puzzles


def _drawn(streams: Mapping[str, Iterator[Puzzle]], weights: Mapping[str, float], total: int) -> list[Puzzle]:
    """`total` puzzles in the proportions of the weights; what one family cannot give is spread over the others."""
    left = dict(streams)
    puzzles: dict[str, list[Puzzle]] = {family: [] for family in streams}
    missing = total
    while missing and left:
        for family, n in allocate(missing, {family: weights[family] for family in left}).items():
            taken = list(islice(left[family], n))
            puzzles[family] += taken
            missing -= len(taken)
            if len(taken) < n:
                del left[family]
    return [puzzle for family in puzzles.values() for puzzle in family]


_PLAIN_FORMS: dict[str, tuple[str, ...]] = {
    "chain": ("lines/",),
    "chess": ("False",),
    "comparison": ("",),
    "existential": ("lines/",),
    "identity": ("=1",),
    "membership": ("lines/∈",),
    "modus_tollens": ("lines/⊥", "lines/◑", "lines/●"),
    "negation": ("lines/1", "one/1"),
    "transitive": ("lines/<3", "lines/>3"),
}
"""Beginnings of a family's template names that are its plain form; `lines/` for the families not named."""


def plain_form(puzzle: Puzzle) -> bool:
    """Whether a puzzle has its family's plain form, as in the notation's reference table.

    The other forms (one line, an idle premise, a negated question, pairs of glyphs, named individuals) make a set more
    varied, and harder to learn from few examples.
    """
    family, template = puzzle[0], puzzle[1]
    return template.startswith(_PLAIN_FORMS.get(family, ("lines/",))) and not template.endswith("¬")


def plain_puzzles(seed: int, per_family: Mapping[str, int]) -> list[Puzzle]:
    """Different puzzles in plain form, up to the given number a family; a small family gives all that it has."""
    return [puzzle for family, count in per_family.items() for puzzle in islice(_plain_stream(seed, family), count)]


LEARNED_LAST: dict[str, int] = {
    "modus_ponens": 150,
    "modus_tollens": 150,
    "chain": 180,
    "conjunction": 300,
    "disjunction": 300,
    "negation": 230,
    "membership": 400,
    "chess": 160,
    "biconditional": 300,
    "existential": 700,
    "universal": 520,
    "identity": 500,
    "comparison": 800,
    "transitive": 260,
}
"""Puzzles of each family that teach all of them, easy families first: more of those that are learned last
(docs/dev/log.md). As proportions where it is not all of these."""

PLAIN_SHARE = 0.9
"""Share of plain forms among the puzzles of a lesson, in [0, 1]."""


def lesson_puzzles(
    seed: int, total: int, weights: Mapping[str, float], plain_share: float = PLAIN_SHARE
) -> list[Puzzle]:
    """`total` different puzzles, in the proportions of the weights and mostly in plain form, as far as there are such.

    What these families cannot give comes from all others, in the reference proportions. Raises `LunaError` when all
    run dry.
    """
    plain = _drawn({family: _plain_stream(seed, family) for family in weights}, weights, round(plain_share * total))
    known = {puzzle[2] for puzzle in plain}
    fresh = {family: _without(known, _distinct_stream(seed, family)) for family in weights}
    puzzles = plain + _drawn(fresh, weights, total - len(plain))
    if len(puzzles) < total:
        known, missing = {puzzle[2] for puzzle in puzzles}, total - len(puzzles)
        others = [puzzle for puzzle in distinct_puzzles(seed, total) if puzzle[2] not in known]
        puzzles += [others[i * len(others) // missing] for i in range(missing)]
    return puzzles


def puzzle_examples(puzzles: Iterable[Puzzle], role: Role) -> list[Example]:
    """The puzzles as pure examples of one role: category `agl/<family>`, stage `fundamentals`."""
    return [
        make_example(
            role=role,
            stage="fundamentals",
            category=f"agl/{family}",
            kind="pure",
            input=text,
            output=label,
            source=f"recipe/agl/{family}/{template}",
        )
        for family, template, text, label in puzzles
    ]


def _family_rng(seed: int, family: str) -> Random:
    """Every family has its own generator, so that changing one leaves the others' puzzles as they were."""
    return Random(f"agl:{seed}:{family}")


def _plain_stream(seed: int, family: str) -> Iterator[Puzzle]:
    return filter(plain_form, _distinct_stream(seed, family))


def _without(known: Collection[str], puzzles: Iterator[Puzzle]) -> Iterator[Puzzle]:
    return (puzzle for puzzle in puzzles if puzzle[2] not in known)


def _distinct_stream(seed: int, family: str) -> Iterator[Puzzle]:
    """The family's different puzzles, ending when 2,000 draws in a row bring nothing new."""
    rng, seen = _family_rng(seed, family), set[str]()
    stale = 0
    while stale < 2000:
        for puzzle in FAMILIES[family](rng, 100):
            if puzzle[2] in seen:
                stale += 1
            else:
                stale = 0
                seen.add(puzzle[2])
                yield puzzle
