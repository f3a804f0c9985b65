"""What each gate asks in plain words, and what parent and child answered, side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Column, Table
from rich.text import Text

from ledger.records import EvalRecord, GenerationRow
from ledger.roles import Role
from ledger.rules.gates import GATES, Gate, GateSettings, judge

ASKS: dict[Gate, str] = {
    "recall": "what earlier generations learned is still there",
    "generalization": "new questions that it never saw are passed",
    "style_drift": "answers with corporate or moralising speech",
    "learned": "new questions are answered better than before, or their true answers are likelier, in nats a token",
    "bound": "true answers are likelier under their own question than under similar ones; 0.25 is chance",
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
    shown: Sequence[tuple[str, Mapping[Role, str]]]
    """What was measured and by which bound, with each role's figures."""
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
            shown=_compared(by_name, f"{before} → G{rows[0].gen_id}", gates)
            if gate == "learned"
            else [(f"{gate} {_bound(gate, gates)}", {row.role: _share(by_name.get((row.role, gate))) for row in rows})],
            failed={failure.role: failure.message for failure in failures if failure.gate == gate},
        )
        for gate in GATES
    ]


def gates_table(gated: Sequence[Gated], roles: Sequence[Role]) -> Table:
    """Each role's share and number of items at every gate, and of what was learned the comparison with the parent; what
    did not pass is red."""
    table = Table(Column("gate", no_wrap=True), *roles)
    for one in gated:
        for name, cells in one.shown:
            table.add_row(name, *(Text(cells[role], "red" if role in one.failed else "") for role in roles))
    return table


def legend(gated: Sequence[Gated]) -> list[str]:
    """What each gate asks, a line each."""
    return [f"{one.gate}: {ASKS[one.gate]}" for one in gated]


def plain_gates(gated: Sequence[Gated]) -> list[dict[str, Any]]:
    """The same as JSON."""
    return [{"gate": one.gate, "asks": ASKS[one.gate], "bound": one.bound, "failed": dict(one.failed)} for one in gated]


def examples(evals: Iterable[EvalRecord]) -> list[str]:
    """One new question of each role, and what it answered before and after."""
    shown = [(score.role, score.details.get("example")) for score in evals if score.eval == "generalization"]
    return [
        f"{role}: {_line(one['question'])!r}  before {_line(one['before'])!r}  after {_line(one['after'])!r}"
        for role, one in shown
        if one
    ]


def _line(text: str) -> str:
    return textwrap.shorten(text, 100, placeholder=" …")


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
        "learned": f"gain > {gates.gain_min:g}, p < {gates.significance:g}",
        "bound": f"> {gates.bound_min:.2f}",
        "base_ability": f"≥ {1 - gates.base_loss_max:.2f}" + ("" if gates.base_ability else ", told only"),
        "bare_glyphs": f"≤ {gates.bare_glyphs_max:.2f}",
    }
    return bounds[gate]


def _share(score: EvalRecord | None) -> str:
    if score is None:
        return "too few to ask"
    return f"{score.value:.3f} of {score.n}" if score.n else "nothing earlier"


def _compared(
    by_name: Mapping[tuple[Role, str], EvalRecord], who: str, gates: GateSettings
) -> list[tuple[str, Mapping[Role, str]]]:
    """Parent and child on the same new questions: closed ones by what is right, open ones by the true answers."""
    details = {role: score.details for (role, name), score in by_name.items() if name == "generalization"}
    closed, fresh = ({role: own[kind] for role, own in details.items()} for kind in ("closed", "open"))
    shown = [
        (f"right, {who}", {role: f"{a['parent']} → {a['child']} of {a['n']}" for role, a in closed.items() if a["n"]}),
        ("true answer likelier", {role: f"{a['better']} of {a['n']}" for role, a in fresh.items() if a["n"]}),
        (
            f"gain > {gates.gain_min:g}",
            {role: f"{a['gain']:+.2f} ± {a['high'] - a['gain']:.2f}" for role, a in fresh.items() if a["n"] > 1},
        ),
    ]
    return [(f"learned: {name}", {role: cells.get(role, "") for role in details}) for name, cells in shown if cells]
