"""The gates a generation must pass to be accepted (DESIGN section 6). Loss is not among them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from ledger.records import EvalRecord, Fraction
from ledger.roles import ROLES, Role

Gate = Literal["recall", "generalization", "style_drift"]
GATES: tuple[Gate, ...] = ("recall", "generalization", "style_drift")

STYLE_PROBES = 10
"""Number of tone probes that a style score must rest on."""

RHI = "rhi"
"""The Reward Health Index (DESIGN section 7): judged where it was measured, which needs a reward model."""


class GateSettings(BaseModel):
    """Bounds of the gates. They are strict: a score equal to its bound fails."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recall_min: Fraction = 0.90
    """Recall must be above this accuracy."""
    generalization_min: Fraction = 0.85
    """Generalization must be above this accuracy."""
    style_drift_max: Fraction = 0.20
    """The share of probe answers with a corporate phrase must be below this."""
    min_items: int = Field(default=100, ge=1)
    """Fewest items in a recall or generalization set; a smaller set fails its gate."""


@dataclass(frozen=True)
class GateFailure:
    """One gate that one role did not pass; ``message`` says why in a sentence."""

    role: Role
    gate: Gate | Literal["rhi"]
    message: str


@dataclass(frozen=True)
class Judgement:
    """Accepted if and only if nothing failed."""

    failures: tuple[GateFailure, ...]

    @property
    def accepted(self) -> bool:
        return not self.failures

    @property
    def verdict(self) -> Literal["accepted", "rejected"]:
        return "accepted" if self.accepted else "rejected"

    @property
    def reason(self) -> str:
        """One line for the ledger's ``reason`` column."""
        if self.accepted:
            return "all gates passed"
        return "; ".join(failure.message for failure in self.failures)


def judge(
    scores: Iterable[EvalRecord], settings: GateSettings, *, has_parent: bool = True, rhi_min: float | None = None
) -> Judgement:
    """Hold every role's scores against every gate.

    A score that is missing, or that rests on too few items, is a failure that says so. Scores that no gate
    names are ignored.

    Args:
        scores: scores of one generation, all roles together.
        settings: the bounds.
        has_parent: without a parent generation recall is 1.0 by definition and its gate is not asked.
        rhi_min: a role's Reward Health Index must be above this, where it has one; None does not ask.
    """
    by_name = {(score.role, score.eval): score for score in scores}
    gates = GATES if has_parent else tuple(gate for gate in GATES if gate != "recall")
    failures = [
        GateFailure(role, gate, f"{role} {gate}: {problem}")
        for role in ROLES
        for gate in gates
        if (problem := gate_problem(gate, by_name.get((role, gate)), settings)) is not None
    ]
    failures += [
        GateFailure(role, "rhi", f"{role} {RHI}: {problem}")
        for role in ROLES
        if (problem := health_problem(by_name.get((role, RHI)), rhi_min)) is not None
    ]
    return Judgement(tuple(failures))


def health_problem(score: EvalRecord | None, rhi_min: float | None) -> str | None:
    """What keeps a role's index from passing, with its weakest component; ``None`` if it passes or is not asked."""
    if score is None or rhi_min is None or score.value > rhi_min:
        return None
    components: dict[str, float] = score.details.get("components", {})
    if not components:
        return f"{score.value:.3f} is not above {rhi_min:.2f}"
    name, value = min(components.items(), key=lambda item: item[1])
    return f"{score.value:.3f} is not above {rhi_min:.2f}, weakest {name.upper()} {value:.2f}"


def gate_bound(gate: Gate, settings: GateSettings) -> float:
    """What a score must exceed; for style drift what it must stay below."""
    bounds: dict[Gate, float] = {
        "recall": settings.recall_min,
        "generalization": settings.generalization_min,
        "style_drift": settings.style_drift_max,
    }
    return bounds[gate]


def gate_problem(gate: Gate, score: EvalRecord | None, settings: GateSettings) -> str | None:
    """What keeps one score from passing its gate, or ``None`` if it passes."""
    if score is None:
        return "not measured"
    if gate == "style_drift":
        if score.n != STYLE_PROBES:
            return f"measured with {score.n} probes, {STYLE_PROBES} needed"
        if not score.value < (bound := gate_bound(gate, settings)):
            return f"{score.value:.3f} is not below {bound:.2f}"
        return None
    if score.n < settings.min_items:
        return f"measured on {score.n} items, at least {settings.min_items} needed"
    if not score.value > (bound := gate_bound(gate, settings)):
        return f"{score.value:.3f} is not above {bound:.2f}"
    return None
