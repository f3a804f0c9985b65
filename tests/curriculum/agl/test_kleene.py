"""Strong Kleene logic: tables, parsing, and what follows from premises."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curriculum.agl import kleene
from curriculum.agl.kleene import FALSE, TRUE, UNDETERMINED, Atom, Binary, Not, deduce, evaluate, parse_formula
from curriculum.agl.solve import solve
from ledger.errors import LunaError

VALUES = (FALSE, UNDETERMINED, TRUE)
values = st.sampled_from(VALUES)


def possible(value: int) -> set[bool]:
    """The classical values that a Kleene value leaves open: the independent meaning of the three glyphs."""
    return {FALSE: {False}, UNDETERMINED: {False, True}, TRUE: {True}}[value]


def from_possible(outcomes: set[bool]) -> int:
    return UNDETERMINED if len(outcomes) == 2 else TRUE if True in outcomes else FALSE


@pytest.mark.parametrize(
    ("table", "classical"),
    [
        (kleene.conjunction, lambda a, b: a and b),
        (kleene.disjunction, lambda a, b: a or b),
        (kleene.implication, lambda a, b: (not a) or b),
        (kleene.biconditional, lambda a, b: a == b),
    ],
)
def test_a_connective_is_decided_exactly_when_every_completion_of_its_inputs_agrees(table, classical):
    for a, b in itertools.product(VALUES, VALUES):
        outcomes = {bool(classical(x, y)) for x in possible(a) for y in possible(b)}
        assert table(a, b) == from_possible(outcomes)


def test_negation_swaps_true_and_false_and_keeps_undetermined():
    assert [kleene.negation(value) for value in (TRUE, UNDETERMINED, FALSE)] == [FALSE, UNDETERMINED, TRUE]


@given(values, values)
def test_de_morgan_holds(a, b):
    assert kleene.negation(kleene.conjunction(a, b)) == kleene.disjunction(kleene.negation(a), kleene.negation(b))


def test_quantifiers_over_an_empty_domain():
    assert kleene.universal([]) == TRUE
    assert kleene.existential([]) == FALSE


def test_conjunction_binds_before_disjunction_and_implication_goes_to_the_right():
    a, b, c = Atom("A"), Atom("B"), Atom("C")
    assert parse_formula("A ∨ B ∧ C") == Binary("∨", a, Binary("∧", b, c))
    assert parse_formula("A→B→C") == Binary("→", a, Binary("→", b, c))
    assert parse_formula("¬A∧B") == Binary("∧", Not(a), b)
    assert parse_formula("¬(A∧B)") == Not(Binary("∧", a, b))


@pytest.mark.parametrize(
    ("text", "named"),
    [("A∧", "ends where"), ("(A∨B", "not closed"), ("A B", "'B'"), ("A + B", "'+ B'"), ("", "ends where")],
)
def test_a_formula_that_cannot_be_read_is_refused_with_the_place(text, named):
    with pytest.raises(LunaError, match="cannot read") as error:
        parse_formula(text)
    assert named in str(error.value)


def test_an_atom_without_a_value_is_undetermined():
    assert evaluate(parse_formula("A ∨ ¬A"), {}) == UNDETERMINED
    assert evaluate(parse_formula("A ∨ ●"), {}) == TRUE


@given(values)
def test_an_implication_carries_any_value_forward(value):
    assert deduce([(parse_formula("P → Q"), TRUE), (Atom("P"), value)])["Q"] == value


@given(values)
def test_an_implication_carries_only_false_backward(value):
    reached = deduce([(parse_formula("P → Q"), TRUE), (Atom("Q"), value)])
    assert reached.get("P", UNDETERMINED) == (FALSE if value == FALSE else UNDETERMINED)


@given(values, values)
def test_two_rules_for_one_conclusion_give_the_stronger_ground(a, b):
    rules = [(parse_formula("A → C"), TRUE), (parse_formula("B → C"), TRUE)]
    assert deduce([*rules, (Atom("A"), a), (Atom("B"), b)])["C"] == max(a, b)


def test_the_order_of_premises_does_not_matter():
    premises = ["A → B", "B → C", "C → D", "A: ◑"]
    answers = {solve("\n".join([*order, "?D"])) for order in itertools.permutations(premises)}
    assert answers == {"◑"}


def test_a_stated_value_is_never_overwritten_by_a_rule():
    assert solve("P → Q\nP: ●\nQ: ⊥\n?Q") == "⊥"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        # every example of the AGL facts
        ("P → Q\nP: ●\n?Q", "●"),
        ("P → Q\nQ: ⊥\n?P", "⊥"),
        ("A → B\nB → C\nA: ◑\n?C", "◑"),
        ("A: ●\nB: ◑\n?A∧B", "◑"),
        ("A: ⊥\nB: ●\n?A∨B", "●"),
        ("A: ⊥\n?¬A", "●"),
        ("S = {2,5,9}\n?5 ∈ S", "●"),
        ("?valid:e4", "●"),
        ("?valid:k4", "⊥"),
        ("A: ●\nB: ⊥\n?A↔B", "⊥"),
        ("S = {3,8}\n?∃x∈S: x>7", "●"),
        ("S = {3,8}\n?∀x∈S: x>2", "●"),
        ("?●=◑", "⊥"),
        ("?12<40", "●"),
        ("3<9\n9<21\n?3<21", "●"),
        ("P→Q,P?Q", "●"),
        ("∀x:P(x),a?P(a)", "●"),
        ("P∧Q?P", "●"),
        ("∀x:P(x),a?P(b)", "●"),
        # and what they leave open
        ("P → Q\nQ: ●\n?P", "◑"),
        ("¬P(a),¬P(b)?∃x:P(x)", "◑"),
        ("P(a):◑,¬P(b)?∃x:P(x)", "◑"),
        ("3<9\n9<21\n?21<3", "⊥"),
        ("A∨B?B", "◑"),
        ("A∨B,¬A?B", "●"),
        ("A ↔ B\nB: ⊥\n?A", "⊥"),
        ("S={2,5,9}?4∉S", "●"),
    ],
)
def test_solve_answers_a_puzzle_from_its_text(text, answer):
    assert solve(text) == answer


@pytest.mark.parametrize(
    ("text", "named"), [("P → Q", "no query"), ("?3 ∈ S", "set S"), ("P→?Q", "P→"), ("A?", "no query")]
)
def test_a_puzzle_that_cannot_be_read_is_refused(text, named):
    with pytest.raises(LunaError, match=named):
        solve(text)
