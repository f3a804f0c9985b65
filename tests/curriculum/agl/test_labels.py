"""Labels as logic has them: a second evaluator, with nothing of the package, answers every puzzle by trying all models.

A model gives each atom true or false; a premise with ● or ⊥ keeps the models that agree, one with ◑ keeps all. The
individuals are those that the puzzle names and one that it does not. What all models agree on is ● or ⊥, everything
else ◑. AGL adds one rule of its own: an implication carries ⊥ too, to a consequent that nothing else supports.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter

import pytest

from curriculum.agl.families import FAMILIES
from curriculum.agl.puzzles import distinct_puzzles, generate_puzzles
from curriculum.agl.solve import solve

COMPARE = {
    "<": lambda a, b: a < b, ">": lambda a, b: a > b, "=": lambda a, b: a == b, "≤": lambda a, b: a <= b,
    "≥": lambda a, b: a >= b,
}  # fmt: skip
CONNECT = [  # weakest first; each splits at its last occurrence, → at its first
    ("↔", lambda a, b: a == b), ("→", lambda a, b: not a or b), ("∨", lambda a, b: a or b), ("∧", lambda a, b: a and b),
]  # fmt: skip


def split_at(text, sign):
    """The two sides of the connective outside brackets, or None."""
    depth, places = 0, []
    for place, glyph in enumerate(text):
        depth += (glyph == "(") - (glyph == ")")
        if glyph == sign and depth == 0:
            places.append(place)
    if not places:
        return None
    place = places[0] if sign == "→" else places[-1]
    return text[:place], text[place + 1 :]


def holds(text, model):
    """Whether a formula without spaces holds in a model of {atom: bool}."""
    for sign, rule in CONNECT:
        if sides := split_at(text, sign):
            return rule(holds(sides[0], model), holds(sides[1], model))
    if text.startswith("¬"):
        return not holds(text[1:], model)
    if text.startswith("("):
        return holds(text[1:-1], model)
    if quantified := re.fullmatch(r"([∀∃])x:([A-Z])\(x\)", text):
        found = [value for atom, value in model.items() if atom.startswith(f"{quantified[2]}(")]
        return all(found) if quantified[1] == "∀" else any(found)
    return model[text]


def glyph(outcomes):
    return "◑" if len(outcomes) == 2 else "●" if outcomes == {True} else "⊥"


def by_models(premises, query):
    text = " ".join([*premises, query])
    names = set(re.findall(r"\(([a-z])\)", re.sub(r"[∀∃]x:.\(x\)", "", text))) | {"fresh"}
    predicates = set(re.findall(r"([A-Z])\(", text))
    atoms = [f"{predicate}({name})" for predicate in sorted(predicates) for name in sorted(names)]
    atoms += sorted(set(re.findall(r"[A-Z](?!\()", text)))
    rules, values = [], []
    for premise in premises:
        if re.fullmatch(r"[a-z]", premise):
            continue  # an individual is named
        valued = re.fullmatch(r"(.*):([●◑⊥])", premise)
        if valued is None:
            rules.append(premise)
        elif valued[2] != "◑":
            values.append((valued[1], valued[2] == "●"))
    models = [dict(zip(atoms, row, strict=True)) for row in itertools.product((True, False), repeat=len(atoms))]
    models = [m for m in models if all(holds(r, m) for r in rules) and all(holds(f, m) == v for f, v in values)]
    implications = [sides for rule in rules if (sides := split_at(rule, "→"))]
    for _ in implications:
        for _, consequent in implications:
            grounds = [one for one, other in implications if other == consequent]
            if not any(holds(ground, model) for ground in grounds for model in models):
                models = [m for m in models if not holds(consequent, m)]
    assert models, f"the premises contradict each other: {premises}"
    return glyph({holds(query, model) for model in models})


def by_orders(premises, query):
    """Every order of the numbers that the premises allow."""
    numbers = sorted({int(number) for line in (*premises, query) for number in re.findall(r"\d+", line)})
    outcomes = set()
    for order in itertools.permutations(numbers):
        ranks = {number: rank for rank, number in enumerate(order)}
        *given, asked = (
            COMPARE[sign](ranks[int(a)], ranks[int(b)])
            for a, sign, b in (re.fullmatch(r"(\d+)(.)(\d+)", line).groups() for line in (*premises, query))
        )
        if all(given):
            outcomes.add(asked)
    return glyph(outcomes)


def answer(puzzle):
    before, _, query = puzzle.replace(" ", "").rpartition("?")
    premises = [line for line in re.split(r"\n|,(?![^{]*\})", before) if line]
    if square := re.fullmatch(r"(¬?)valid:(.+)", query):
        inside = len(square[2]) == 2 and square[2][0] in "abcdefgh" and square[2][1] in "12345678"
        return glyph({inside != bool(square[1])})
    sets = {}
    for premise in premises:
        if named := re.fullmatch(r"([A-Z])=\{(.*)\}", premise):
            sets[named[1]] = {int(number) for number in named[2].split(",")}
    if member := re.fullmatch(r"(\d+)([∈∉])([A-Z])", query):
        return glyph({(int(member[1]) in sets[member[3]]) == (member[2] == "∈")})
    if over := re.fullmatch(r"([∀∃])x∈([A-Z]):x(.)(\d+)", query):
        decided = [COMPARE[over[3]](x, int(over[4])) for x in sets[over[2]]]
        return glyph({all(decided) if over[1] == "∀" else any(decided)})
    if compared := re.fullmatch(r"(\d+)([<>=≤≥])(\d+)", query):
        fact = glyph({COMPARE[compared[2]](int(compared[1]), int(compared[3]))})
        assert not premises or by_orders(premises, query) == fact, puzzle
        return fact
    if not premises and (same := re.fullmatch(r"(.+)([=≠])(.+)", query)):
        return glyph({(same[1] == same[3]) == (same[2] == "=")})
    return by_models(premises, query)


def shape(puzzle):
    """Family and spelling, values left out."""
    family, template, *_ = puzzle
    return family, re.sub(r"[●◑⊥\d]", "", template)


@pytest.mark.parametrize("puzzles", [generate_puzzles(seed=5), distinct_puzzles(seed=11, total=4000)], ids=["5", "11"])
def test_every_label_of_every_family_in_every_spelling_is_what_all_models_say(puzzles):
    wrong = [(text, label, found) for _, _, text, label in puzzles if (found := answer(text)) != label]
    assert wrong == []
    assert {family for family, *_ in puzzles} == set(FAMILIES)
    assert len(Counter(map(shape, puzzles))) >= 40, "spellings"


HAND_WRITTEN = {
    "P → Q\nP: ●\n?Q": "●",
    "P→Q,P?Q": "●",
    "P→Q,P:◑?Q": "◑",
    "P→Q,¬P?Q": "⊥",  # AGL's own rule
    "P→Q,R→Q,¬P?Q": "◑",
    "P→Q,R→Q,¬P,R?Q": "●",
    "P → Q\nQ: ⊥\n?P": "⊥",
    "P→Q,¬Q?¬P": "●",
    "P→Q,Q?P": "◑",
    "A → B\nB → C\nA: ◑\n?C": "◑",
    "A→B,B→C,C→D,A?D": "●",
    "A→B,B→C,¬C?A": "⊥",
    "A: ●\nB: ◑\n?A∧B": "◑",
    "A∧B?B": "●",
    "A: ⊥\nB: ◑\n?A∧B": "⊥",
    "A∨B,¬A?B": "●",
    "A∨B?A": "◑",
    "A:◑,B?A∨B": "●",
    "A: ⊥\n?¬¬A": "⊥",
    "A ↔ B\nB: ⊥\n?A": "⊥",
    "A↔B,A:◑?B": "◑",
    "A: ●\nB: ⊥\n?A↔B": "⊥",
    "S = {2,5,9}\n?5 ∈ S": "●",
    "S={2,5,9}?5∉S": "⊥",
    "?valid:e4": "●",
    "?¬valid:k4": "●",
    "S = {3,8}\n?∃x∈S: x>7": "●",
    "S={3,8}?∀x∈S:x≤7": "⊥",
    "P(a):◑,¬P(b)?∃x:P(x)": "◑",
    "¬P(a),P(b)?∃x:P(x)": "●",
    "¬P(a),¬P(b)?∃x:P(x)": "◑",
    "P(a),P(b)?∀x:P(x)": "◑",
    "P(a),¬P(b)?∀x:P(x)": "⊥",
    "∀x:P(x),a?P(a)": "●",
    "∀x:N(x),p?N(w)": "●",
    "∀x:N(x)?N(w)": "●",
    "∀x: N(x)\n?¬N(w)": "⊥",
    "∀x:N(x),p?M(p)": "◑",
    "∀x:N(x)?∃x:N(x)": "●",
    "∀x:N(x),N(a)→Q?Q": "●",
    "?●=◑": "⊥",
    "?φψ≠ψφ": "●",
    "?12<40": "●",
    "?40≤12": "⊥",
    "3<9\n9<21\n?3<21": "●",
    "21>9,9>3?3>21": "⊥",
    "3<9,9<21?3≤21": "●",
    "3<9,9<21?3=21": "⊥",
    "A∨B?A∨B": "●",
}


@pytest.mark.parametrize(("text", "label"), HAND_WRITTEN.items(), ids=lambda text: text.replace("\n", "/"))
def test_what_is_written_by_hand_is_answered_as_logic_has_it(text, label):
    assert answer(text) == label
    assert solve(text) == label
