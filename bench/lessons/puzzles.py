"""AGL: plain puzzles of some of the fourteen families."""

from __future__ import annotations

from functools import partial

from bench.lessons.lesson import Lesson, Material, Size, generator_of
from curriculum.agl.puzzles import plain_puzzles, puzzle_examples
from ledger.errors import LunaError
from ledger.roles import ROLES

FORMULAS = ("modus_ponens", "modus_tollens", "chain", "conjunction", "disjunction", "negation", "biconditional")
FACTS = ("membership", "chess", "existential", "universal", "identity", "comparison", "transitive")


def agl_lesson(name: str, families: tuple[str, ...]) -> Lesson:
    """Some families as a closed lesson."""
    return Lesson(name, "closed", partial(_material, name, families))


def _material(name: str, families: tuple[str, ...], size: Size, seed: int) -> Material:
    """Evenly over the families, as far as the small ones (chess, negation) go."""
    needed = size.probes + len(ROLES) * size.rows
    puzzles = plain_puzzles(seed, dict.fromkeys(families, needed // (len(families) - 2) + 50))
    generator_of(name, seed).shuffle(puzzles)
    if len(puzzles) < needed:
        raise LunaError(f"{name} has {len(puzzles)} puzzles and {needed} are asked for; ask for fewer rows.")
    probes, rows = puzzles[: size.probes], puzzles[size.probes : needed]
    taught = [e for number, role in enumerate(ROLES) for e in puzzle_examples(rows[number :: len(ROLES)], role)]
    return Material(taught, puzzle_examples(probes, "logical"))
