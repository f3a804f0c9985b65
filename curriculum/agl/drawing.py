"""What the puzzle families share: the form of a puzzle, three different letters, pairs of values by label.

The hot path runs 6,650 times in 50 ms, so indices are drawn as `int(r() * n)`: `Random.choice` costs five
times that.
"""

from collections.abc import Callable

from curriculum.agl import kleene
from curriculum.agl.kleene import FALSE, TRUE, UNDETERMINED

Puzzle = tuple[str, str, str, str]
"""(family, template, input, output). `template` names the shape of the text: its atoms and numbers blanked
out."""

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ONE_LINE = 0.33
"""Share of puzzles in the one-line spelling."""

BARE = ("¬{}", "{}:◑", "{}")
"""How the one-line spelling states an atom's value, by value: ⊥ as its negation, ● as the atom alone."""

_VALUES = (FALSE, UNDETERMINED, TRUE)


def _pairs_by_label(table: Callable[[int, int], int]) -> list[list[tuple[int, int]]]:
    """For each label, the pairs of values that the connective maps to it."""
    pairs = [(a, b) for a in _VALUES for b in _VALUES]
    return [[pair for pair in pairs if table(*pair) == label] for label in _VALUES]


CONJUNCTIONS = _pairs_by_label(kleene.conjunction)
DISJUNCTIONS = _pairs_by_label(kleene.disjunction)
BICONDITIONALS = _pairs_by_label(kleene.biconditional)


def three_letters(r: Callable[[], float]) -> tuple[str, str, str]:
    """Three different letters."""
    i = int(r() * 26)
    j = (i + 1 + int(r() * 25)) % 26
    low, high = (i, j) if i < j else (j, i)
    k = int(r() * 24)  # counted over the 24 letters that are left
    k += k >= low
    k += k >= high
    return LETTERS[i], LETTERS[j], LETTERS[k]
