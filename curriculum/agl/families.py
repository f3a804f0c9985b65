"""The fourteen families of pure AGL puzzles by name, each a pure function of a random generator and a count.

A family draws `n` puzzles as plain tuples, repeats included; labels come from the tables of `kleene` and are
drawn first where that balances them. About a third is in the one-line spelling. To add a family: write its
function, name it here and give it a reference count in `puzzles`.
"""

from collections.abc import Callable
from random import Random

from curriculum.agl import fact_families as facts
from curriculum.agl import formula_families as formulas
from curriculum.agl.drawing import Puzzle as Puzzle

FAMILIES: dict[str, Callable[[Random, int], list[Puzzle]]] = {
    "modus_ponens": formulas.modus_ponens,
    "modus_tollens": formulas.modus_tollens,
    "chain": formulas.chain,
    "conjunction": formulas.conjunction,
    "disjunction": formulas.disjunction,
    "negation": formulas.negation,
    "membership": facts.membership,
    "chess": facts.chess,
    "biconditional": formulas.biconditional,
    "existential": facts.existential,
    "universal": facts.universal,
    "identity": facts.identity,
    "comparison": facts.comparison,
    "transitive": facts.transitive,
}
