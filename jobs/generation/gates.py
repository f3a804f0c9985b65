"""What each gate asks in plain words, and what parent and child answered, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from ledger.records import EvalRecord, GenerationRow
from ledger.roles import Role
from ledger.rules.gates import GATES, Gate, GateSettings, judge

ASKS: dict[Gate, str] = {
    "recall": "what earlier generations learned is still there",
    "generalization": "new questions that it never saw are passed",
    "style_drift": "answers with corporate or moralising speech",
    "learned": "new questions are answered better than before",
    "bound": "answers fit their own question best",
    "base_ability": "everyday questions the base gets right still are",
    "bare_glyphs": "everyday answers that begin with a bare glyph",
}
"""Each gate in a clause."""

_SHOWN = 2
"""Found answers that are shown of each role and gate."""


@dataclass(frozen=True)
class Gated:
    """One gate of one generation."""

    gate: Gate
    bound: str
    cells: Mapping[Role, str]
    failed: Mapping[Role, str]
    """Why a role did not pass; those that passed are absent."""


def gates_of(rows: Sequence[GenerationRow], evals: Iterable[EvalRecord], gates: GateSettings) -> list[Gated]:
    """Every gate as a generation met it; none of one that an earlier version judged otherwise."""
    scores = list(evals)
    by_name = {(score.role, score.eval): score for score in scores}
    asked = [by_name.get((row.role, "generalization")) for row in rows]
    if any(score is None or not {"open", "closed"} <= score.details.keys() for score in asked):
        return []
    failures = [
        failure
        for row in rows
        for failure in judge(
            scores,
            gates,
            has_parent=row.parent_gen is not None,
            half=row.alpha != 1.0,  # a blend's scores come from the confirming half
            roles=[row.role],
        ).failures
    ]
    before = "the base" if rows[0].parent_gen is None else f"G{rows[0].parent_gen}"
    return [
        Gated(
            gate=gate,
            bound=_bound(gate, gates),
            cells={row.role: _cell(gate, by_name, row.role, before) for row in rows},
            failed={failure.role: failure.message for failure in failures if failure.gate == gate},
        )
        for gate in GATES
    ]


def gates_table(gated: Sequence[Gated], roles: Sequence[Role]) -> Table:
    """A row a gate; what did not pass is red."""
    table = Table("gate", *roles)
    for one in gated:
        name = Text.assemble((f"{one.gate} {one.bound}", "bold"), f"\n{ASKS[one.gate]}")
        table.add_row(name, *(Text(one.cells[role], "red" if role in one.failed else "") for role in roles))
    return table


def plain_gates(gated: Sequence[Gated]) -> list[dict[str, Any]]:
    """The same as JSON."""
    return [{"gate": one.gate, "asks": ASKS[one.gate], "bound": one.bound, "failed": dict(one.failed)} for one in gated]


def findings(evals: Iterable[EvalRecord]) -> list[str]:
    """Up to two answers of each role in which corporate speech or a bare glyph was found."""
    found = {"style_drift": "corporate", "bare_glyphs": "a bare glyph"}
    return [
        f"{score.role}, {found[score.eval]}: {one['probe']!r} → {' '.join(one['answer'].split())!r} ({one['phrase']})"
        for score in evals
        if score.eval in found
        for one in score.details.get("found", [])[:_SHOWN]
    ]


def _bound(gate: Gate, gates: GateSettings) -> str:
    bounds: dict[Gate, str] = {
        "recall": f"> {gates.recall_min:.2f}",
        "generalization": f"> {gates.generalization_min:.2f}",
        "style_drift": f"< {gates.style_drift_max:.2f}",
        "learned": f"gain > {gates.gain_min:g} or p < {gates.significance:g}",
        "bound": f"surely > {gates.bound_min:.2f}",
        "base_ability": f"≥ {1 - gates.base_loss_max:.2f}" + ("" if gates.base_ability else ", told only"),
        "bare_glyphs": f"≤ {gates.bare_glyphs_max:.2f}",
    }
    return bounds[gate]


def _cell(gate: Gate, by_name: Mapping[tuple[Role, str], EvalRecord], role: Role, before: str) -> str:
    if gate == "learned":
        return _compared(by_name[role, "generalization"].details, before)
    score = by_name.get((role, gate))
    if score is None:
        return "too few to ask"
    if score.n == 0:
        return "nothing earlier"
    return f"{score.value:.3f} of {score.n} [{score.low:.2f}, {score.high:.2f}]"


def _compared(details: Mapping[str, Any], before: str) -> str:
    """Child and parent on closed and on open items."""
    closed, fresh = details["closed"], details["open"]
    told = []
    if closed["n"]:
        told.append(f"right {closed['child']} of {closed['n']}, {before} {closed['parent']}")
    if fresh["n"]:
        told.append(f"likelier {fresh['better']} of {fresh['n']}")
        told.append(f"gain {fresh['gain']:+.2f} [{fresh['low']:+.2f}, {fresh['high']:+.2f}]")
    return "\n".join(told)
