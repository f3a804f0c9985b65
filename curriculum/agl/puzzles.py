"""Sets of pure AGL puzzles: the reference counts at any total, without repeats, equal for equal seeds."""

from collections.abc import Iterable, Iterator, Mapping
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
    streams = {family: _distinct_stream(seed, family) for family in FAMILIES}
    puzzles: dict[str, list[Puzzle]] = {family: [] for family in FAMILIES}
    missing = total
    while missing:
        if not streams:
            raise LunaError(
                f"asked for {total} different AGL puzzles; there are only {total - missing}, ask for fewer."
            )
        for family, n in allocate(missing, {family: DISTINCT_WEIGHTS[family] for family in streams}).items():
            taken = [puzzle for _, puzzle in zip(range(n), streams[family], strict=False)]
            puzzles[family] += taken
            missing -= len(taken)
            if len(taken) < n:
                del streams[family]
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
    chosen: list[Puzzle] = []
    for family, count in per_family.items():
        stream = (puzzle for puzzle in _distinct_stream(seed, family) if plain_form(puzzle))
        chosen += [puzzle for _, puzzle in zip(range(count), stream, strict=False)]
    return chosen


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
