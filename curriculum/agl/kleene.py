"""Strong Kleene logic over ⊥ < ◑ < ●, a parser for its formulas, and what follows from asserted premises.

Connectives: ¬ swaps ⊥ and ●; ∧ is the minimum and ∨ the maximum; A → B is ¬A ∨ B and A ↔ B is (A → B) ∧ (B →
A).

A premise is a literal with a value (`A: ◑`; a bare `A` is ●, a bare `¬A` makes A ⊥) or an asserted formula.
An asserted formula is a rule of inference that carries values (`deduce`):

- `P → Q` forward: Q gets the value of P, whichever it is; P counts as the only ground that is named for Q.
  With several rules for one Q it gets the maximum of their antecedents.
- `P → Q` backward: Q: ⊥ gives P: ⊥ (modus tollens). Q: ● or Q: ◑ says nothing about P, so P stays ◑.
- `P ↔ Q` carries the value in both directions.
- `P ∧ Q` makes both ●.  `P ∨ Q` makes one ● when the other is ⊥.

What no premise reaches is ◑, and a stated value is never overwritten. Not two-valued deduction: `P → Q` with
P: ⊥ gives Q: ⊥ here, as the puzzles have it, where classical logic would leave Q open.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ledger.errors import LunaError

Value = int
"""0 is ⊥ (false), 1 is ◑ (undetermined), 2 is ● (true)."""

FALSE, UNDETERMINED, TRUE = 0, 1, 2
GLYPHS = "⊥◑●"


def negation(a: Value) -> Value:
    return 2 - a


def conjunction(a: Value, b: Value) -> Value:
    return min(b, a)


def disjunction(a: Value, b: Value) -> Value:
    return max(b, a)


def implication(a: Value, b: Value) -> Value:
    return disjunction(2 - a, b)


def biconditional(a: Value, b: Value) -> Value:
    return conjunction(implication(a, b), implication(b, a))


def universal(values: Iterable[Value]) -> Value:
    """∀: the conjunction over a domain; ● over an empty one."""
    return min(values, default=TRUE)


def existential(values: Iterable[Value]) -> Value:
    """∃: the disjunction over a domain; ⊥ over an empty one."""
    return max(values, default=FALSE)


def truth(fact: bool) -> Value:
    """The value of something decidable, such as `3 < 9`."""
    return TRUE if fact else FALSE


@dataclass(frozen=True, slots=True)
class Atom:
    name: str


@dataclass(frozen=True, slots=True)
class Constant:
    value: Value


@dataclass(frozen=True, slots=True)
class Not:
    body: "Formula"


@dataclass(frozen=True, slots=True)
class Binary:
    connective: str
    """One of ∧ ∨ → ↔."""
    left: "Formula"
    right: "Formula"


Formula = Atom | Constant | Not | Binary

_TABLES = {"∧": conjunction, "∨": disjunction, "→": implication, "↔": biconditional}
_BINDS = {"↔": 1, "→": 2, "∨": 3, "∧": 4}
_TOKEN = re.compile(r"\s*([A-Za-z][A-Za-z0-9]*(?:\([a-z]\))?|[●◑⊥¬∧∨→↔()])")


def evaluate(formula: Formula, values: Mapping[str, Value]) -> Value:
    """The strong Kleene value of a formula; an atom without a value is ◑."""
    match formula:
        case Constant(value):
            return value
        case Atom(name):
            return values.get(name, UNDETERMINED)
        case Not(body):
            return negation(evaluate(body, values))
        case Binary(connective, left, right):
            return _TABLES[connective](evaluate(left, values), evaluate(right, values))


def parse_formula(text: str) -> Formula:
    """Parse ¬ ∧ ∨ → ↔ (binding in this order, → to the right), ● ◑ ⊥, atoms `A`, `P(a)`, and brackets.

    Raises `LunaError` that names the place which cannot be read.
    """
    tokens, position = [], 0
    while position < len(text.rstrip()):
        match = _TOKEN.match(text, position)
        if match is None:
            raise LunaError(
                f"cannot read {text!r} at {text[position:].strip()[:8]!r}; write atoms and ¬ ∧ ∨ → ↔ ● ◑ ⊥."
            )
        tokens.append(match.group(1))
        position = match.end()
    formula, rest = _parse_binary(tokens, 0, text)
    if rest:
        raise LunaError(f"cannot read {text!r}: {rest[0]!r} is left over after a complete formula.")
    return formula


def deduce(premises: Iterable[tuple[Formula, Value]]) -> dict[str, Value]:
    """The value of every atom that the premises reach, by the rules of the module's docstring.

    Each premise is (formula, asserted value); only a literal may be asserted with a value other than ●.
    """
    values: dict[str, Value] = {}
    rules: list[Binary] = []
    for formula, value in premises:
        if isinstance(formula, Binary) and value == TRUE:
            rules.append(formula)
        else:
            _assign(formula, value, values)
    while True:
        before = len(values)
        for rule in rules:
            _apply(rule, rules, values)
        if len(values) == before:
            return values


def _apply(rule: Binary, rules: list[Binary], values: dict[str, Value]) -> None:
    left, right = rule.left, rule.right
    match rule.connective:
        case "∧":
            _assign(left, TRUE, values)
            _assign(right, TRUE, values)
        case "∨":
            for one, other in ((left, right), (right, left)):
                if evaluate(one, values) == FALSE:
                    _assign(other, TRUE, values)
        case "↔":
            for one, other in ((left, right), (right, left)):
                if _is_known(one, values):
                    _assign(other, evaluate(one, values), values)
        case "→":
            grounds = [other.left for other in rules if other.connective == "→" and other.right == right]
            if all(_is_known(ground, values) for ground in grounds):
                _assign(right, existential(evaluate(ground, values) for ground in grounds), values)
            elif evaluate(left, values) == TRUE:
                _assign(right, TRUE, values)
            if evaluate(right, values) == FALSE:
                _assign(left, FALSE, values)


def _assign(formula: Formula, value: Value, values: dict[str, Value]) -> None:
    """Give a literal's atom its value unless it has one; ∧ made true assigns both sides."""
    match formula:
        case Atom(name):
            values.setdefault(name, value)
        case Not(body):
            _assign(body, negation(value), values)
        case Binary("∧", left, right) if value == TRUE:
            _assign(left, TRUE, values)
            _assign(right, TRUE, values)
        case _:
            # A compound whose value does not settle its parts (A ∨ B is ●, A ∧ B is ⊥): nothing follows for
            # an atom.
            return


def _is_known(formula: Formula, values: Mapping[str, Value]) -> bool:
    """Whether no further value can change the formula's: it is ● or ⊥ already, or all of its atoms have
    one."""
    return evaluate(formula, values) != UNDETERMINED or atoms_of(formula) <= values.keys()


def atoms_of(formula: Formula) -> set[str]:
    match formula:
        case Atom(name):
            return {name}
        case Not(body):
            return atoms_of(body)
        case Binary(_, left, right):
            return atoms_of(left) | atoms_of(right)
        case Constant(_):
            return set()


def _parse_binary(tokens: list[str], weakest: int, text: str) -> tuple[Formula, list[str]]:
    left, tokens = _parse_unary(tokens, text)
    while tokens and _BINDS.get(tokens[0], -1) >= weakest:
        connective = tokens[0]
        # → binds to the right, so its right side may hold another →; the others bind to the left.
        right, tokens = _parse_binary(tokens[1:], _BINDS[connective] + (connective != "→"), text)
        left = Binary(connective, left, right)
    return left, tokens


def _parse_unary(tokens: list[str], text: str) -> tuple[Formula, list[str]]:
    if not tokens:
        raise LunaError(f"cannot read {text!r}: it ends where a formula should stand.")
    head, rest = tokens[0], tokens[1:]
    if head == "¬":
        body, rest = _parse_unary(rest, text)
        return Not(body), rest
    if head == "(":
        inner, rest = _parse_binary(rest, 0, text)
        if not rest or rest[0] != ")":
            raise LunaError(f"cannot read {text!r}: a bracket is not closed.")
        return inner, rest[1:]
    if head in GLYPHS:
        return Constant(GLYPHS.index(head)), rest
    if head[0].isalpha():
        return Atom(head), rest
    raise LunaError(f"cannot read {text!r}: {head!r} stands where an atom, ¬ or a bracket should.")
