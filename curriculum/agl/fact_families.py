"""Seven families about facts: sets, chess squares, thresholds, glyphs, numbers."""

import itertools
from collections.abc import Callable
from random import Random

from curriculum.agl import kleene
from curriculum.agl.drawing import BARE, DISJUNCTIONS, LETTERS, ONE_LINE, Puzzle, three_letters
from curriculum.agl.kleene import GLYPHS, TRUE, UNDETERMINED, truth

_IDENTITY_GLYPHS = tuple("●◕◑◔○◐⊥∧∨¬→↔∃∀∈∴∵Δ⊕φψ✓✗💜✨🌱🌊🌙🌀🪞")
_SQUARES = [f"{file}{rank}" for file in "abcdefgh" for rank in range(1, 9)]
_NOT_SQUARES = [f"{file}{rank}" for file in "abcdefghijklmnop" for rank in range(10) if f"{file}{rank}" not in _SQUARES]
_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "<": int.__lt__,
    ">": int.__gt__,
    "=": int.__eq__,
    "≤": int.__le__,
    "≥": int.__ge__,
}


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
    """Half squares of the board, half other names; a third asks for the negation. 320 different puzzles
    exist."""
    r, puzzles = rng.random, []
    for index in range(n):
        squares = _NOT_SQUARES if index % 2 else _SQUARES
        label = truth(not index % 2)
        square = squares[int(r() * len(squares))]
        negated = r() < 0.33
        text = f"?{'¬' if negated else ''}valid:{square}"
        puzzles.append(("chess", f"{negated}{label}", text, GLYPHS[kleene.negation(label) if negated else label]))
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
    """Two or three ordered pairs of numbers; asked for the outer pair, in the right or in the reversed
    direction."""
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
        facts = ("," if one_line else "\n").join([f"{a}{sign}{b}" for a, b in itertools.pairwise(numbers)])
        form = f"{'one' if one_line else 'lines'}/{sign}{size}{'r' if reversed_ else ''}"
        text = f"{facts}{'' if one_line else chr(10)}?{query}"
        puzzles.append(("transitive", form, text, GLYPHS[truth(not reversed_)]))
    return puzzles


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
    """`P(a):v,P(b):w?∃x:P(x)`: ● if one of them is; else ◑, since there may be others."""
    letter, other, _unused = three_letters(r)
    label = int(r() * 3)
    pairs = DISJUNCTIONS[label]
    first, second = pairs[int(r() * len(pairs))]
    predicate, a, b = LETTERS[int(r() * 26)], letter.lower(), other.lower()
    premises = f"{BARE[first].format(f'{predicate}({a})')},{BARE[second].format(f'{predicate}({b})')}"
    value = kleene.existential((UNDETERMINED, first, second))
    return "existential", f"witness/{first}{second}", f"{premises}?∃x:{predicate}(x)", GLYPHS[value]


def _instance(r: Callable[[], float]) -> Puzzle:
    """`∀x:P(x),a?P(a)`, or another individual than the one that was named: both are instances, so ●."""
    letter, other, _unused = three_letters(r)
    predicate, a, b = LETTERS[int(r() * 26)], letter.lower(), other.lower()
    stated = r() < 0.6
    text = f"∀x:{predicate}(x),{a}?{predicate}({a if stated else b})"
    return "universal", f"instance/{stated}", text, GLYPHS[TRUE]
