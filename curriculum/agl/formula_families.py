"""Seven families about formulas: rules of inference and connectives."""

import itertools
from collections.abc import Callable
from random import Random

from curriculum.agl import kleene
from curriculum.agl.drawing import (
    BARE,
    BICONDITIONALS,
    CONJUNCTIONS,
    DISJUNCTIONS,
    LETTERS,
    ONE_LINE,
    Puzzle,
    three_letters,
)
from curriculum.agl.kleene import FALSE, GLYPHS, TRUE, UNDETERMINED


def modus_ponens(rng: Random, n: int) -> list[Puzzle]:
    r, puzzles = rng.random, []
    for _ in range(n):
        a, b, c = three_letters(r)
        value = int(r() * 3)
        v, draw = GLYPHS[value], r()
        if draw < ONE_LINE:
            spelled = BARE[value].format(a) if r() < 0.7 else f"{a}:{v}"
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
    """Half deny the consequent; ● and ◑ of the consequent leave the antecedent ◑; some ask for the
    negation."""
    r, puzzles = rng.random, []
    for _ in range(n):
        a, b, c = three_letters(r)
        value = FALSE if r() < 0.66 else 1 + int(r() * 2)
        asks_negation = value == FALSE and r() < 0.4
        label = FALSE if value == FALSE else UNDETERMINED
        query = f"¬{a}" if asks_negation else a
        v, draw = GLYPHS[value], r()
        mark = f"{v}{'¬' if asks_negation else ''}"
        if draw < ONE_LINE:
            form, text = f"one/{mark}", f"{a}→{b},{BARE[value].format(b)}?{query}"
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
        pairs = itertools.pairwise(names)
        if r() < ONE_LINE:
            rules = ",".join([f"{a}→{b}" for a, b in pairs])
            form, text = f"one/{steps}{v}", f"{rules},{BARE[value].format(names[0])}?{names[-1]}"
        else:
            rules = "\n".join([f"{a} → {b}" for a, b in pairs])
            form, text = f"lines/{steps}{v}", f"{rules}\n{names[0]}: {v}\n?{names[-1]}"
        puzzles.append(("chain", form, text, v))
    return puzzles


def conjunction(rng: Random, n: int) -> list[Puzzle]:
    r, puzzles = rng.random, []
    for _ in range(n):
        if r() < 0.08:  # what a conjunction asserts, it asserts of both
            a, b, _unused = three_letters(r)
            side = int(r() * 2)
            puzzles.append(("conjunction", f"elimination/{side}", f"{a}∧{b}?{(a, b)[side]}", GLYPHS[TRUE]))
        else:
            puzzles.append(_connective("conjunction", "∧", CONJUNCTIONS, r))
    return puzzles


def disjunction(rng: Random, n: int) -> list[Puzzle]:
    r, puzzles = rng.random, []
    for _ in range(n):
        if r() < 0.08:  # disjunctive syllogism
            a, b, _unused = three_letters(r)
            out, left = (a, b) if r() < 0.5 else (b, a)
            puzzles.append(("disjunction", f"syllogism/{out == a}", f"{a}∨{b},¬{out}?{left}", GLYPHS[TRUE]))
        else:
            puzzles.append(_connective("disjunction", "∨", DISJUNCTIONS, r))
    return puzzles


def negation(rng: Random, n: int) -> list[Puzzle]:
    r, puzzles = rng.random, []
    for _ in range(n):
        a, b, _unused = three_letters(r)
        value, depth = int(r() * 3), 1 if r() < 0.7 else 2
        label = value if depth == 2 else kleene.negation(value)
        v, signs, draw = GLYPHS[value], "¬" * depth, r()
        if draw < ONE_LINE:
            form, text = f"one/{depth}{v}", f"{BARE[value].format(a)}?{signs}{a}"
        elif draw < 0.55:
            form, text = f"lines/{depth}{v}", f"{a}: {v}\n?{signs}{a}"
        else:
            w = GLYPHS[int(r() * 3)]
            first, second = ((a, v), (b, w)) if r() < 0.5 else ((b, w), (a, v))
            form = f"other-atom/{depth}{first[1]}{second[1]}{first[0] == a}"
            text = f"{first[0]}: {first[1]}\n{second[0]}: {second[1]}\n?{signs}{a}"
        puzzles.append(("negation", form, text, GLYPHS[label]))
    return puzzles


def biconditional(rng: Random, n: int) -> list[Puzzle]:
    r, puzzles = rng.random, []
    for _ in range(n):
        if r() < 0.2:  # an asserted ↔ carries the value, in both directions
            a, b, _unused = three_letters(r)
            value, swap = int(r() * 3), r() < 0.5
            known, asked = (b, a) if swap else (a, b)
            if r() < ONE_LINE:
                form, text = f"carry-one/{value}{swap}", f"{a}↔{b},{BARE[value].format(known)}?{asked}"
            else:
                form, text = f"carry/{value}{swap}", f"{a} ↔ {b}\n{known}: {GLYPHS[value]}\n?{asked}"
            puzzles.append(("biconditional", form, text, GLYPHS[value]))
        else:
            puzzles.append(_connective("biconditional", "↔", BICONDITIONALS, r))
    return puzzles


def _connective(family: str, sign: str, pairs: list[list[tuple[int, int]]], r: Callable[[], float]) -> Puzzle:
    """Two stated values under a connective; the label is drawn first, so the three glyphs are equally
    frequent."""
    a, b, _unused = three_letters(r)
    label = int(r() * 3)
    choices = pairs[label]
    first, second = choices[int(r() * len(choices))]
    v, w = GLYPHS[first], GLYPHS[second]
    draw = r()
    if draw < ONE_LINE:
        text = f"{BARE[first].format(a)},{BARE[second].format(b)}?{a}{sign}{b}"
        return family, f"one/{v}{w}", text, GLYPHS[label]
    if draw < 0.85:
        return family, f"lines/{v}{w}", f"{a}: {v}\n{b}: {w}\n?{a}{sign}{b}", GLYPHS[label]
    return family, f"swapped/{v}{w}", f"{a}: {v}\n{b}: {w}\n?{b}{sign}{a}", GLYPHS[label]
