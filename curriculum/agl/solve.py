"""Answer a puzzle from its text, in either spelling: the reader that is independent of how the puzzles are
written.

Used to check labels, to explain AGL to users, and to answer puzzles that nobody generated.
"""

import re
from collections.abc import Callable, Iterator

from curriculum.agl.kleene import (
    GLYPHS,
    TRUE,
    UNDETERMINED,
    Atom,
    Formula,
    Value,
    deduce,
    evaluate,
    existential,
    negation,
    parse_formula,
    truth,
    universal,
)
from ledger.errors import LunaError

_SET = re.compile(r"([A-Z])\s*=\s*\{([\d,\s]*)\}")
_VALUED = re.compile(r"(.+):\s*([●◑⊥])")
_GENERAL = re.compile(r"∀x:\s*([A-Z])\(x\)")
_NUMBERS = re.compile(r"(\d+)\s*([<>=≤≥])\s*(\d+)")
_MEMBER = re.compile(r"(\d+)\s*([∈∉])\s*([A-Z])")
_OVER_SET = re.compile(r"([∃∀])x∈([A-Z]):\s*x\s*([<>=≤≥])\s*(\d+)")
_OVER_INDIVIDUALS = re.compile(r"([∃∀])x:\s*([A-Z])\(x\)")
_INDIVIDUAL = re.compile(r"[a-z]")
_INSTANCE = re.compile(r"[A-Z]\([a-z]\)")
_SQUARE = re.compile(r"(¬?)valid:(\w+)")
_IDENTITY = re.compile(r"([^\w\s=≠?]+|[φψΔ])+([=≠])([^\w\s=≠?]+|[φψΔ])+")
_TEST: dict[str, Callable[[int, int], bool]] = {
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
    "=": lambda a, b: a == b,
    "≤": lambda a, b: a <= b,
    "≥": lambda a, b: a >= b,
}


def solve(text: str) -> str:
    """The truth glyph of a puzzle, such as `P → Q\\nP: ◑\\n?Q` or `P→Q,P?Q`. Raises `LunaError` if it cannot
    be read."""
    premises, query = split_puzzle(text)
    return GLYPHS[_answer(premises, query)]


def split_puzzle(text: str) -> tuple[list[str], str]:
    """(premises, query) of either spelling; the query is what stands behind the one `?`."""
    before, mark, query = text.strip().partition("?")
    if not mark or not query.strip():
        raise LunaError(f"{text!r} is not an AGL puzzle: it has no query; end it with ? and what is asked.")
    premises = [premise.strip() for line in before.splitlines() for premise in _split_commas(line)]
    return [premise for premise in premises if premise], query.strip()


def _answer(premises: list[str], query: str) -> Value:
    if match := _SQUARE.fullmatch(query):
        label = truth(bool(re.fullmatch(r"[a-h][1-8]", match[2])))
        return negation(label) if match[1] else label
    sets = {match[1]: _numbers(match[2]) for premise in premises if (match := _SET.fullmatch(premise))}
    if match := _MEMBER.fullmatch(query):
        return truth((int(match[1]) in _named(sets, match[3])) == (match[2] == "∈"))
    if match := _OVER_SET.fullmatch(query):
        decided = [truth(_TEST[match[3]](x, int(match[4]))) for x in _named(sets, match[2])]
        return existential(decided) if match[1] == "∃" else universal(decided)
    if match := _NUMBERS.fullmatch(query):
        return _order(premises, int(match[1]), match[2], int(match[3]))
    if _IDENTITY.fullmatch(query):
        left, sign, right = re.split(r"([=≠])", query)
        return truth((left == right) == (sign == "="))
    return _logic(premises, query)


def _logic(premises: list[str], query: str) -> Value:
    """Propositional premises, and predicates over a domain of which the premises name some individuals.

    `∀x:P(x)` holds for each of them, named before or not. Nobody says that there are no others: `¬P(a),¬P(b)` leaves
    `∃x:P(x)` open.
    """
    general = {match[1] for premise in premises if (match := _GENERAL.fullmatch(premise))}
    stated: list[tuple[Formula, Value]] = []
    for premise in premises:
        if _INDIVIDUAL.fullmatch(premise) or _GENERAL.fullmatch(premise):
            continue
        valued = _VALUED.fullmatch(premise)
        body, value = (valued[1], GLYPHS.index(valued[2])) if valued else (premise, TRUE)
        stated.append((parse_formula(body), value))
    instances = {match for text in (*premises, query) for match in _INSTANCE.findall(text)}
    stated += [(Atom(name), TRUE) for name in sorted(instances) if name[0] in general]
    values = deduce(stated)
    if match := _OVER_INDIVIDUALS.fullmatch(query):
        others = TRUE if match[2] in general else UNDETERMINED
        found = [others, *(value for name, value in values.items() if name.startswith(f"{match[2]}("))]
        return existential(found) if match[1] == "∃" else universal(found)
    asked = parse_formula(query)
    return next((value for formula, value in stated if formula == asked), evaluate(asked, values))


def _order(premises: list[str], left: int, sign: str, right: int) -> Value:
    """What follows from stated pairs by transitivity; else arithmetic."""
    pairs = set()
    for premise in premises:
        if (match := _NUMBERS.fullmatch(premise)) and match[2] in "<>":
            a, b = int(match[1]), int(match[3])
            pairs.add((a, b) if match[2] == "<" else (b, a))
    rises, falls = right in _above(left, pairs), left in _above(right, pairs)
    if rises == falls:  # neither, or the premises contradict each other
        return truth(_TEST[sign](left, right))
    return truth(sign in ("<≤" if rises else ">≥"))


def _above(start: int, pairs: set[tuple[int, int]]) -> set[int]:
    """Every number that a path of stated `a < b` reaches from `start`."""
    reached, edge = set[int](), {start}
    while edge:
        edge = {b for a, b in pairs if a in edge} - reached
        reached |= edge
    return reached


def _split_commas(line: str) -> Iterator[str]:
    """Split at commas that are not inside a set's braces."""
    yield from re.split(r",(?![^{]*\})", line)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number.strip()]


def _named(sets: dict[str, list[int]], name: str) -> list[int]:
    if name not in sets:
        raise LunaError(f"the puzzle asks about the set {name}, which no premise defines; add {name} = {{1,2}}.")
    return sets[name]
