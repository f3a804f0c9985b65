"""Error rates of verdicts, by exact arithmetic for one gate and by simulation for blends and three roles.

An item is passed with the adapter's true accuracy. What stops a set, passes a gate and picks a blend are the functions
that judge real generations, read off once for every count of passed items.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from math import comb

import numpy as np
from numpy.typing import NDArray

from bench.report import keep
from ledger.intervals import wilson_interval
from ledger.records import EvalRecord
from ledger.rules.blends import ALPHAS
from ledger.rules.certainty import BLOCK, MOST_ITEMS, Z_CERTAIN, is_certain
from ledger.rules.gates import (
    Gate,
    GateSettings,
    gate_bound,
    gate_problem,
    learned_is_clear,
    learned_problem,
)

Counts = NDArray[np.int64]
"""Passed items by (trial, block, half of the block)."""
Flags = NDArray[np.bool_]

MARGIN = 0.03
"""How far from a bound the error rates are held against `MOST_ERRORS`."""
MOST_ERRORS = 0.05
TRUE = tuple(round(0.80 + 0.01 * step, 2) for step in range(20))
GATES: tuple[Gate, Gate] = ("generalization", "recall")
BOUNDS: dict[Gate, float] = {gate: gate_bound(gate, GateSettings()) for gate in GATES}
LESSONS = ((0.92, 0.92), (0.95, 0.95), (0.90, 0.93), (0.90, 0.95), (0.60, 0.90))
"""Pairs of parent and child on closed items for the gate `learned`; in the first two nothing is new."""
CLEAR = 0.97
"""True accuracy of what is not in question."""


@cache
def table(gate: Gate, asked: int, z: float) -> tuple[Flags, Flags]:
    """For every number of passed items: whether the gate passes, and whether a look is certain."""
    settings = GateSettings(min_items=1)
    bound = gate_bound(gate, settings)
    passes = [gate_problem(gate, {gate: _score(gate, k, asked)}, settings) is None for k in range(asked + 1)]
    return np.array(passes), np.array([is_certain(k, asked, bound, z) for k in range(asked + 1)])


def _score(gate: Gate, passed: int, asked: int) -> EvalRecord:
    low, high = wilson_interval(passed, asked)
    return EvalRecord(
        gen_id=1, role="logical", eval=gate, method="exact", value=passed / asked, n=asked, low=low, high=high
    )


def looks(most: int) -> Iterator[int]:
    """After how many items a set is looked at."""
    yield from range(BLOCK, most, BLOCK)
    yield most


def exactly(gate: Gate, true: float, most: int = MOST_ITEMS, z: float = Z_CERTAIN) -> tuple[float, float]:
    """(chance that a set of up to `most` items passes, mean items asked), by adding up binomials."""
    left, accepted, items, before = np.array([1.0]), 0.0, 0.0, 0
    for asked in looks(most):
        more = asked - before
        items += more * left.sum()
        left = np.convolve(left, [comb(more, k) * true**k * (1 - true) ** (more - k) for k in range(more + 1)])
        passes, certain = table(gate, asked, z)
        ends = certain | (asked == most)
        accepted += left[ends & passes].sum()
        left, before = np.where(ends, 0.0, left), asked
    return float(accepted), float(items)


@dataclass(frozen=True)
class Role:
    """True accuracies of one role, in the order of `GATES`."""

    child: tuple[float, float]
    parent: tuple[float, float]
    paired: bool = False
    """Whether a blend passes the child's own items but for those between their accuracies; else it errs on its own."""

    def at(self, alpha: float) -> tuple[float, float]:
        """Of parent + alpha (child - parent), by a straight line."""
        one, two = (p + alpha * (c - p) for p, c in zip(self.parent, self.child, strict=True))
        return one, two


def accepted_alphas(role: Role, trials: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """The alpha at which each simulated role is accepted; 0 where it is rejected."""
    alphas = (1.0, *sorted(ALPHAS, reverse=True))
    counts = [_counts([role.at(alpha)[i] for alpha in alphas], role.paired, trials, rng) for i in range(len(GATES))]
    whole = np.all([_passes(gate, one[0].sum(2)) for gate, one in zip(GATES, counts, strict=True)], axis=0)
    found = np.where(whole, 1.0, 0.0)
    searching = ~whole
    for place, alpha in enumerate(alphas[1:], start=1):
        chosen, confirmed = (
            np.all([_passes(gate, _half(one[place], half)) for gate, one in zip(GATES, counts, strict=True)], axis=0)
            for half in (0, 1)
        )
        found = np.where(searching & chosen & confirmed, alpha, found)
        searching &= ~chosen  # one that is chosen and not confirmed ends the search
    return found


def _counts(accuracies: Sequence[float], paired: bool, trials: int, rng: np.random.Generator) -> list[Counts]:
    shape, half = (trials, MOST_ITEMS // BLOCK, 2), BLOCK // 2
    if not paired:
        return [rng.binomial(half, accuracy, shape) for accuracy in accuracies]
    order = np.argsort(accuracies)
    steps = np.diff([0.0, *np.array(accuracies)[order], 1.0])
    cells = rng.multinomial(half, steps / steps.sum(), shape).cumsum(-1)
    places = np.argsort(order)
    return [cells[..., place] for place in places]


def _half(counts: Counts, half: int) -> Counts:
    """One half's items in blocks of the usual size."""
    return counts[:, :, half].reshape(len(counts), -1, 2).sum(2)


def _passes(gate: Gate, blocks: Counts) -> Flags:
    """Whether sets pass a gate; `blocks` is the passed items by (trial, block)."""
    passed = blocks.cumsum(1)
    result, ended = np.zeros(len(blocks), bool), np.zeros(len(blocks), bool)
    for look in range(blocks.shape[1]):
        passes, certain = table(gate, BLOCK * (look + 1), Z_CERTAIN)
        ends = ~ended & (certain[passed[:, look]] | (look == blocks.shape[1] - 1))
        result |= ends & passes[passed[:, look]]
        ended |= ends
    return result


@dataclass(frozen=True)
class Shape:
    """A role that stands `MARGIN` below a bound in one gate, and how its blends do."""

    told: str
    gate: Gate
    parent: tuple[float, float] | None
    """None: as accurate as the child."""
    paired: bool

    def role(self, margin: float) -> Role:
        """The role at this distance from the bound, the other gate not in question."""
        child = _at(self.gate, BOUNDS[self.gate] + margin)
        return Role(child, self.parent or child, self.paired)


SHAPES = (
    *(Shape("blends as accurate as the child, erring on their own", gate, None, False) for gate in GATES),
    *(Shape("blends as accurate as the child, erring with it", gate, None, True) for gate in GATES),
    Shape("a parent that has learned little (0.50)", "generalization", (0.50, 0.99), True),
    Shape("a parent that has forgotten nothing (0.99)", "recall", (0.50, 0.99), True),
    Shape("a parent that has forgotten nothing and had learned it (0.90)", "recall", (0.90, 0.99), True),
)


def _at(gate: Gate, true: float) -> tuple[float, float]:
    one, two = (true if gate == name else max(true, CLEAR) for name in GATES)
    return one, two


def wrongly_accepted(role: Role, alphas: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which were accepted although a gate's true accuracy is `MARGIN` or more below its bound."""
    poor = [
        alpha
        for alpha in (1.0, *ALPHAS)
        if any(true <= BOUNDS[gate] - MARGIN + 1e-9 for gate, true in zip(GATES, role.at(alpha), strict=True))
    ]
    return np.isin(alphas, poor)


def keep_simulation(trials: int) -> None:
    """Simulate, print and write the table."""
    rng = np.random.default_rng(1)
    keep(
        "verdict_simulation",
        "How often a verdict errs",
        ("true accuracy", *(f"{gate}: {what}" for gate in GATES for what in ("accepted", "with blends", "items"))),
        [[f"{true:.2f}", *(cell for gate in GATES for cell in _cells(gate, true, trials, rng))] for true in TRUE],
        [
            _reading(trials),
            *_size_notes(),
            *(_shape_note(shape, trials, rng) for shape in SHAPES),
            *_verdict_notes(trials, rng),
            *(_learned_note(*pair, trials // 4, rng) for pair in LESSONS),
        ],
    )


def _reading(trials: int) -> str:
    return (
        f"bounds: generalization {BOUNDS['generalization']:.2f}, recall {BOUNDS['recall']:.2f}; sets grow by "
        f"{BLOCK} to at most {MOST_ITEMS} items, until the interval with z = {Z_CERTAIN:.2f} lies on one side of the "
        f"bound. `accepted` and the mean `items` are exact. `with blends`: {trials:,} trials a figure, blends as "
        "accurate as the child that err on their own, which is the worst case for false accepts"
    )


def _cells(gate: Gate, true: float, trials: int, rng: np.random.Generator) -> list[str]:
    accepted, items = exactly(gate, true)
    child = _at(gate, true)
    blended = (accepted_alphas(Role(child, child), trials, rng) > 0).mean()
    return [f"{accepted:.3f}", f"{blended:.3f}", f"{items:.0f}"]


def _size_notes() -> Iterator[str]:
    for gate in GATES:
        sizes = [
            f"{most}: {exactly(gate, BOUNDS[gate] - MARGIN, most)[0]:.3f} and "
            f"{1 - exactly(gate, BOUNDS[gate] + MARGIN, most)[0]:.3f}"
            for most in range(BLOCK, MOST_ITEMS + BLOCK, BLOCK)
        ]
        yield (
            f"{gate} without blends, false accepts at {BOUNDS[gate] - MARGIN:.2f} and false rejects at "
            f"{BOUNDS[gate] + MARGIN:.2f} by the most items there are (exact): {'; '.join(sizes)}"
        )


def _shape_note(shape: Shape, trials: int, rng: np.random.Generator) -> str:
    low, high = shape.role(-MARGIN), shape.role(MARGIN)
    accepts = float(wrongly_accepted(low, accepted_alphas(low, trials, rng)).mean())
    rejects = float((accepted_alphas(high, trials, rng) == 0).mean())
    return (
        f"{shape.told}, {shape.gate} at 3 points from its bound: false accepts {accepts:.3f}, false rejects "
        f"{rejects:.3f}: {_met(accepts, rejects)}"
    )


def _verdict_notes(trials: int, rng: np.random.Generator) -> Iterator[str]:
    clear = Role((CLEAR, CLEAR), (CLEAR, CLEAR))
    for gate in GATES:
        child = _at(gate, BOUNDS[gate] - MARGIN)
        poor = Role(child, child)
        others = np.all([accepted_alphas(clear, trials, rng) > 0 for _ in range(2)], axis=0)
        accepts = float((wrongly_accepted(poor, accepted_alphas(poor, trials, rng)) & others).mean())
        yield f"three roles, one of them 3 points too low in {gate}: false accepts {accepts:.3f}: {_met(accepts)}"
    for paired, how in ((True, "with the child"), (False, "on their own")):
        child = (BOUNDS["generalization"] + MARGIN, BOUNDS["recall"] + MARGIN)
        good = [accepted_alphas(Role(child, child, paired), trials, rng) > 0 for _ in range(3)]
        rejects = float(1 - np.all(good, axis=0).mean())
        yield (
            f"three roles, each just 3 points above both bounds, blends that err {how}: false rejects {rejects:.3f} "
            "of six gates together"
        )


def _learned_note(parent: float, child: float, trials: int, rng: np.random.Generator) -> str:
    lost = 0.01
    shares = [child - parent + lost, lost, parent - lost, 1 - child - lost]  # won, lost, both right, both wrong
    blocks = rng.multinomial(BLOCK, shares, (trials, MOST_ITEMS // BLOCK)).cumsum(1)
    ends = [_learned([one.tolist() for one in trial]) for trial in blocks]
    passed, items = np.mean([end[0] for end in ends]), np.mean([end[1] for end in ends])
    return (
        f"a lesson of answers that are fixed, parent {parent:.2f}, child {child:.2f} (1 % lost on the way): passes "
        f"`learned` in {passed:.3f} of {trials:,} trials, with {items:.0f} items"
    )


def _learned(looks: Sequence[Sequence[int]]) -> tuple[bool, int]:
    """(whether a set passes `learned`, items asked), by (won, lost, both right, both wrong) at each look."""
    settings = GateSettings()
    for look, (won, lost, both, _) in enumerate(looks, start=1):
        asked, child = BLOCK * look, won + both
        part = {"n": asked, "child": child, "parent": lost + both, "won": won, "lost": lost}
        passes, certain = table("generalization", asked, Z_CERTAIN)
        enough = certain[child] and (not passes[child] or learned_is_clear({"closed": part}, settings))
        if enough or look == len(looks):
            break
    return learned_problem({"closed": part}, settings) is None, asked


def _met(*errors: float) -> str:
    return f"at most {MOST_ERRORS:.0%}, " + ("met" if max(errors) <= MOST_ERRORS else "NOT met")
