"""The fourteen families of pure AGL puzzles, each a pure function of a random generator and a count.

A family draws `n` puzzles as plain tuples (family, template, input, output), repeats included; labels come from the
tables of `kleene` and are drawn first where that balances them. `template` names the shape of the text: the text
with its atoms and numbers blanked out. About a third is in the one-line spelling.

The hot path runs 6,650 times in 50 ms, so indices are drawn as `int(r() * n)`: `Random.choice` costs five times that.
"""

from collections.abc import Callable
from random import Random

from curriculum.agl import kleene
from curriculum.agl.kleene import FALSE, GLYPHS, TRUE, UNDETERMINED, truth

Puzzle = tuple[str, str, str, str]
"""(family, template, input, output)."""

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ONE_LINE = 0.33
"""Share of puzzles in the one-line spelling."""

_VALUES = (FALSE, UNDETERMINED, TRUE)


def _pairs_by_label(table: Callable[[int, int], int]) -> list[list[tuple[int, int]]]:
    """For each label, the pairs of values that the connective maps to it."""
    pairs = [(a, b) for a in _VALUES for b in _VALUES]
    return [[pair for pair in pairs if table(*pair) == label] for label in _VALUES]


_CONJUNCTIONS = _pairs_by_label(kleene.conjunction)
_DISJUNCTIONS = _pairs_by_label(kleene.disjunction)
_BICONDITIONALS = _pairs_by_label(kleene.biconditional)
# One-line spelling of a stated value, to be put after the atom's sign: ● is the bare atom, ⊥ the negated one.
_BARE = ("¬{}", "{}:◑", "{}")
_IDENTITY_GLYPHS = ("●", "◕", "◑", "◔", "○", "◐", "⊥", "∧", "∨", "¬", "→", "↔", "∃", "∀", "∈", "∴", "∵", "Δ", "⊕", "φ",
                    "ψ", "✓", "✗", "💜", "✨", "🌱", "🌊", "🌙", "🌀", "🪞")  # fmt: skip
_SQUARES = [f"{file}{rank}" for file in "abcdefgh" for rank in range(1, 9)]
_NOT_SQUARES = [f"{file}{rank}" for file in "abcdefghijklmnop" for rank in range(10) if f"{file}{rank}" not in _SQUARES]
_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "<": int.__lt__,
    ">": int.__gt__,
    "=": int.__eq__,
    "≤": int.__le__,
    "≥": int.__ge__,
}


def modus_ponens(rng: Random, n: int) -> list[Puzzle]:
    r, puzzles = rng.random, []
    for _ in range(n):
        a, b, c = _three(r)
        value = int(r() * 3)
        v, draw = GLYPHS[value], r()
        if draw < ONE_LINE:
            spelled = _BARE[value].format(a) if r() < 0.7 else f"{a}:{v}"
            form, text = f"one/{spelled.replace(a, 'P')}", f"{a}→{b},{spelled}?{b}"
        elif draw < 0.65:
            form, text = f"lines/{v}", f"{a} → {b}\n{a}: {v}\n?{b}"
        elif draw < 0.85:
            form, text = f"value-first/{v}", f"{a}: {v}\n{a} → {b}\n?{b}"
        else:
            w = GLYPHS[int(r() * 3)]
            form, text = f"other-atom/{v}{w}", f"{a} → {b}\n{c}: {w}\n{a}: {v}\n?{b}"
        puzzles.append(("modus_ponens", form, text, v))
    return puzzles


def modus_tollens(rng: Random, n: int) -> list[Puzzle]:
    """Half deny the consequent; ● and ◑ of the consequent leave the antecedent ◑; some ask for the negation."""
    r, puzzles = rng.random, []
    for _ in range(n):
        a, b, c = _three(r)
        value = FALSE if r() < 0.66 else 1 + int(r() * 2)
        asks_negation = value == FALSE and r() < 0.4
        label = FALSE if value == FALSE else UNDETERMINED
        query = f"¬{a}" if asks_negation else a
        v, draw = GLYPHS[value], r()
        mark = f"{v}{'¬' if asks_negation else ''}"
        if draw < ONE_LINE:
            form, text = f"one/{mark}", f"{a}→{b},{_BARE[value].format(b)}?{query}"
        elif draw < 0.65:
            form, text = f"lines/{mark}", f"{a} → {b}\n{b}: {v}\n?{query}"
        elif draw < 0.85:
            form, text = f"value-first/{mark}", f"{b}: {v}\n{a} → {b}\n?{query}"
        else:
            w = GLYPHS[int(r() * 3)]
            form, text = f"other-atom/{mark}{w}", f"{a} → {b}\n{c}: {w}\n{b}: {v}\n?{query}"
        puzzles.append(("modus_tollens", form, text, GLYPHS[kleene.negation(label) if asks_negation else label]))
    return puzzles


def chain(rng: Random, n: int) -> list[Puzzle]:
    """2 to 6 implications in a row, in equal parts; the value of the first atom carries to the last."""
    r, puzzles = rng.random, []
    for index in range(n):
        steps = 2 + index % 5
        names = rng.sample(LETTERS, steps + 1)
        value = int(r() * 3)
        v = GLYPHS[value]
        pairs = zip(names, names[1:], strict=False)
        if r() < ONE_LINE:
            rules = ",".join([f"{a}→{b}" for a, b in pairs])
            form, text = f"one/{steps}{v}", f"{rules},{_BARE[value].format(names[0])}?{names[-1]}"
        else:
            rules = "\n".join([f"{a} → {b}" for a, b in pairs])
            form, text = f"lines/{steps}{v}", f"{rules}\n{names[0]}: {v}\n?{names[-1]}"
        puzzles.append(("chain", form, text, v))
    return puzzles


def conjunction(rng: Random, n: int) -> list[Puzzle]:
    r, puzzles = rng.random, []
    for _ in range(n):
        if r() < 0.08:  # what a conjunction asserts, it asserts of both
            a, b, _unused = _three(r)
            side = int(r() * 2)
            puzzles.append(("conjunction", f"elimination/{side}", f"{a}∧{b}?{(a, b)[side]}", GLYPHS[TRUE]))
        else:
            puzzles.append(_connective("conjunction", "∧", _CONJUNCTIONS, r))
    return puzzles


def disjunction(rng: Random, n: int) -> list[Puzzle]:
    r, puzzles = rng.random, []
    for _ in range(n):
        if r() < 0.08:  # disjunctive syllogism
            a, b, _unused = _three(r)
            out, left = (a, b) if r() < 0.5 else (b, a)
            puzzles.append(("disjunction", f"syllogism/{out == a}", f"{a}∨{b},¬{out}?{left}", GLYPHS[TRUE]))
        else:
            puzzles.append(_connective("disjunction", "∨", _DISJUNCTIONS, r))
    return puzzles


def negation(rng: Random, n: int) -> list[Puzzle]:
    r, puzzles = rng.random, []
    for _ in range(n):
        a, b, _unused = _three(r)
        value, depth = int(r() * 3), 1 if r() < 0.7 else 2
        label = value if depth == 2 else kleene.negation(value)
        v, signs, draw = GLYPHS[value], "¬" * depth, r()
        if draw < ONE_LINE:
            form, text = f"one/{depth}{v}", f"{_BARE[value].format(a)}?{signs}{a}"
        elif draw < 0.55:
            form, text = f"lines/{depth}{v}", f"{a}: {v}\n?{signs}{a}"
        else:
            w = GLYPHS[int(r() * 3)]
            first, second = ((a, v), (b, w)) if r() < 0.5 else ((b, w), (a, v))
            form = f"other-atom/{depth}{first[1]}{second[1]}{first[0] == a}"
            text = f"{first[0]}: {first[1]}\n{second[0]}: {second[1]}\n?{signs}{a}"
        puzzles.append(("negation", form, text, GLYPHS[label]))
    return puzzles


def membership(rng: Random, n: int) -> list[Puzzle]:
    """3 to 7 of 1..19; the number asked for is in the set in half of them."""
    r, puzzles, numbers = rng.random, [], range(1, 20)
    for index in range(n):
        size = 3 + index % 5
        drawn = rng.sample(numbers, size + 1)
        outside = drawn.pop()
        inside = r() < 0.5
        x = drawn[int(r() * size)] if inside else outside
        drawn.sort()
        items = ",".join(map(str, drawn))
        negated = r() < 0.2
        sign = "∉" if negated else "∈"
        if r() < ONE_LINE:
            form, text = f"one/{sign}{size}", f"S={{{items}}}?{x}{sign}S"
        else:
            form, text = f"lines/{sign}{size}", f"S = {{{items}}}\n?{x} {sign} S"
        label = truth(x in drawn)
        puzzles.append(("membership", form, text, GLYPHS[kleene.negation(label) if negated else label]))
    return puzzles


def chess(rng: Random, n: int) -> list[Puzzle]:
    """Half squares of the board, half other names; a third asks for the negation. 320 different puzzles exist."""
    r, puzzles = rng.random, []
    for index in range(n):
        squares = _NOT_SQUARES if index % 2 else _SQUARES
        label = truth(not index % 2)
        square = squares[int(r() * len(squares))]
        negated = r() < 0.33
        text = f"?{'¬' if negated else ''}valid:{square}"
        puzzles.append(("chess", f"{negated}{label}", text, GLYPHS[kleene.negation(label) if negated else label]))
    return puzzles


def biconditional(rng: Random, n: int) -> list[Puzzle]:
    r, puzzles = rng.random, []
    for _ in range(n):
        if r() < 0.2:  # an asserted ↔ carries the value, in both directions
            a, b, _unused = _three(r)
            value, swap = int(r() * 3), r() < 0.5
            known, asked = (b, a) if swap else (a, b)
            if r() < ONE_LINE:
                form, text = f"carry-one/{value}{swap}", f"{a}↔{b},{_BARE[value].format(known)}?{asked}"
            else:
                form, text = f"carry/{value}{swap}", f"{a} ↔ {b}\n{known}: {GLYPHS[value]}\n?{asked}"
            puzzles.append(("biconditional", form, text, GLYPHS[value]))
        else:
            puzzles.append(_connective("biconditional", "↔", _BICONDITIONALS, r))
    return puzzles


def existential(rng: Random, n: int) -> list[Puzzle]:
    """Is some member above (below) a threshold; one in seven asks for a witness among named individuals."""
    return _quantified(rng, n, "existential", "∃")


def universal(rng: Random, n: int) -> list[Puzzle]:
    """Are all members above (below) a threshold; one in seven instantiates a general premise."""
    return _quantified(rng, n, "universal", "∀")


def identity(rng: Random, n: int) -> list[Puzzle]:
    """Strings of one or two glyphs, compared with = or ≠; half of the answers are ●."""
    r, puzzles, glyphs = rng.random, [], _IDENTITY_GLYPHS
    count = len(glyphs)
    for _ in range(n):
        length = 1 if r() < 0.5 else 2
        left = [glyphs[int(r() * count)] for _ in range(length)]
        right = list(left)
        if r() < 0.5:  # change one place; the step is never 0, so the strings differ
            place = int(r() * length)
            right[place] = glyphs[(glyphs.index(left[place]) + 1 + int(r() * (count - 1))) % count]
        sign = "≠" if r() < 0.3 else "="
        label = truth(left == right)
        text = f"?{''.join(left)}{sign}{''.join(right)}"
        output = GLYPHS[label if sign == "=" else kleene.negation(label)]
        puzzles.append(("identity", f"{sign}{length}", text, output))
    return puzzles


def comparison(rng: Random, n: int) -> list[Puzzle]:
    """Two numbers of 1..100 under one of five signs, in equal parts; half of the answers are ●."""
    r, puzzles, signs = rng.random, [], tuple(_COMPARE)
    for index in range(n):
        sign = signs[index % 5]
        a = 1 + int(r() * 100)
        if r() < (0.5 if sign == "=" else 0.1):
            b = a
        else:
            b = 1 + int(r() * 100)
        puzzles.append(("comparison", sign, f"?{a}{sign}{b}", GLYPHS[truth(_COMPARE[sign](a, b))]))
    return puzzles


def transitive(rng: Random, n: int) -> list[Puzzle]:
    """Two or three ordered pairs of numbers; asked for the outer pair, in the right or in the reversed direction."""
    r, puzzles = rng.random, []
    for _ in range(n):
        size = 3 if r() < 0.75 else 4
        numbers = sorted(rng.sample(range(1, 100), size))
        sign = "<"
        if r() < 0.4:
            sign = ">"
            numbers.reverse()
        first, last = numbers[0], numbers[-1]
        reversed_ = r() < 0.5
        query = f"{last}{sign}{first}" if reversed_ else f"{first}{sign}{last}"
        one_line = r() < ONE_LINE
        facts = ("," if one_line else "\n").join([f"{a}{sign}{b}" for a, b in zip(numbers, numbers[1:], strict=False)])
        form = f"{'one' if one_line else 'lines'}/{sign}{size}{'r' if reversed_ else ''}"
        text = f"{facts}{'' if one_line else chr(10)}?{query}"
        puzzles.append(("transitive", form, text, GLYPHS[truth(not reversed_)]))
    return puzzles


FAMILIES: dict[str, Callable[[Random, int], list[Puzzle]]] = {
    "modus_ponens": modus_ponens,
    "modus_tollens": modus_tollens,
    "chain": chain,
    "conjunction": conjunction,
    "disjunction": disjunction,
    "negation": negation,
    "membership": membership,
    "chess": chess,
    "biconditional": biconditional,
    "existential": existential,
    "universal": universal,
    "identity": identity,
    "comparison": comparison,
    "transitive": transitive,
}


def _three(r: Callable[[], float]) -> tuple[str, str, str]:
    """Three different letters."""
    i = int(r() * 26)
    j = (i + 1 + int(r() * 25)) % 26
    k = (j + 1 + int(r() * 24)) % 26
    return LETTERS[i], LETTERS[j], LETTERS[k if k != i else (k + 1) % 26 if (k + 1) % 26 != j else (k + 2) % 26]


def _connective(family: str, sign: str, pairs: list[list[tuple[int, int]]], r: Callable[[], float]) -> Puzzle:
    """Two stated values under a connective; the label is drawn first, so the three glyphs are equally frequent."""
    a, b, _unused = _three(r)
    label = int(r() * 3)
    choices = pairs[label]
    first, second = choices[int(r() * len(choices))]
    v, w = GLYPHS[first], GLYPHS[second]
    draw = r()
    if draw < ONE_LINE:
        text = f"{_BARE[first].format(a)},{_BARE[second].format(b)}?{a}{sign}{b}"
        return family, f"one/{v}{w}", text, GLYPHS[label]
    if draw < 0.85:
        return family, f"lines/{v}{w}", f"{a}: {v}\n{b}: {w}\n?{a}{sign}{b}", GLYPHS[label]
    return family, f"swapped/{v}{w}", f"{a}: {v}\n{b}: {w}\n?{b}{sign}{a}", GLYPHS[label]


def _quantified(rng: Random, n: int, family: str, quantifier: str) -> list[Puzzle]:
    r, puzzles, numbers = rng.random, [], range(1, 20)
    exists = quantifier == "∃"
    for index in range(n):
        if r() < 0.14:
            puzzles.append(_witness(r) if exists else _instance(r))
            continue
        size = 2 + index % 4
        members = sorted(rng.sample(numbers, size))
        above, label = r() < 0.6, int(r() * 2)
        # The member that decides: the greatest for "some x > t" and "all x < t", the least for the other two.
        edge = members[-1] if exists == above else members[0]
        if above:  # t < edge is true: 0..edge-1, or else edge..19
            t = int(r() * edge) if label else edge + int(r() * (20 - edge))
        else:  # t > edge is true: edge+1..20, or else 1..edge
            t = edge + 1 + int(r() * (20 - edge)) if label else 1 + int(r() * edge)
        sign = ">" if above else "<"
        decided = [truth(x > t if above else x < t) for x in members]
        value = kleene.existential(decided) if exists else kleene.universal(decided)
        items = ",".join(map(str, members))
        if r() < ONE_LINE:
            form, text = f"one/{sign}{size}", f"S={{{items}}}?{quantifier}x∈S:x{sign}{t}"
        else:
            form, text = f"lines/{sign}{size}", f"S = {{{items}}}\n?{quantifier}x∈S: x{sign}{t}"
        puzzles.append((family, form, text, GLYPHS[value]))
    return puzzles


def _witness(r: Callable[[], float]) -> Puzzle:
    """`P(a):v,P(b):w?∃x:P(x)`: the disjunction of what is stated."""
    letter, other, _unused = _three(r)
    label = int(r() * 3)
    pairs = _DISJUNCTIONS[label]
    first, second = pairs[int(r() * len(pairs))]
    predicate, a, b = LETTERS[int(r() * 26)], letter.lower(), other.lower()
    premises = f"{_BARE[first].format(f'{predicate}({a})')},{_BARE[second].format(f'{predicate}({b})')}"
    value = kleene.existential((first, second))
    return "existential", f"witness/{first}{second}", f"{premises}?∃x:{predicate}(x)", GLYPHS[value]


def _instance(r: Callable[[], float]) -> Puzzle:
    """`∀x:P(x),a?P(a)` is ●; of an individual that was not stated, nothing is known."""
    letter, other, _unused = _three(r)
    predicate, a, b = LETTERS[int(r() * 26)], letter.lower(), other.lower()
    stated = r() < 0.6
    text = f"∀x:{predicate}(x),{a}?{predicate}({a if stated else b})"
    return "universal", f"instance/{stated}", text, GLYPHS[TRUE if stated else UNDETERMINED]
