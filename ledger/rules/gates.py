"""The gates a generation must pass to be accepted (DESIGN section 6). Loss is not among them.

Every gate reads the recorded scores of one role and nothing else, so that a verdict can be told from the ledger again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from ledger.records import EvalRecord, Fraction
from ledger.roles import ROLES, Role
from ledger.rules.paired import paired_p

Gate = Literal["recall", "generalization", "style_drift", "learned", "bound", "base_ability", "bare_glyphs"]
GATES: tuple[Gate, ...] = get_args(Gate)

LEAST_PART = 20
"""Fewest items of one kind, open or closed, that tell anything about what was learned."""

RHI = "rhi"
"""The Reward Health Index (DESIGN section 7): judged where it was measured, which needs a reward model."""

RoleScores = Mapping[str, EvalRecord]
"""The scores of one role by name."""


class GateSettings(BaseModel):
    """Bounds of the gates, all strict but what may be lost of the base and the share of bare glyphs: a score equal to
    its bound fails."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recall_min: Fraction = 0.90
    """Recall must be above this share."""
    generalization_min: Fraction = 0.85
    """Generalization must be above this share."""
    style_drift_max: Fraction = 0.20
    """The share of probe answers with a corporate phrase must be below this."""
    min_items: int = Field(default=100, ge=1)
    """Fewest items in a recall or generalization set; a smaller set fails its gate."""
    style_probes_min: int = Field(default=40, ge=1)
    """Fewest tone probes that a style score must rest on."""
    gain_min: float = Field(default=0.0, ge=0.0)
    """The lower end of the gain's 95 % interval on open items must be above this, in nats a token."""
    closed_mastered: Fraction = 0.97
    """A parent that already has this share of the closed items right leaves nothing to learn in them."""
    significance: float = Field(default=0.05, gt=0.0, lt=0.5)
    """A difference between child and parent counts if chance alone would give it more rarely than this."""
    bound_min: Fraction = 0.25
    """The lower end of the 95 % interval of ``bound`` must be above this; 0.25 is chance, one prompt of four."""
    base_ability: bool = True
    """Off: what was lost against the base is told, and nothing is rejected for it."""
    base_loss_max: Fraction = 0.05
    """At most this share of the everyday questions that the base answers right may be lost."""
    bare_glyphs_max: Fraction = 0.02
    """At most this share of the answers to everyday questions may begin with a bare glyph."""


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
    remarks: tuple[str, ...] = ()
    """What is told and rejects nothing."""

    @property
    def accepted(self) -> bool:
        return not self.failures

    @property
    def failed_roles(self) -> tuple[Role, ...]:
        """The roles that did not pass, in the usual order."""
        return tuple(role for role in ROLES if any(failure.role == role for failure in self.failures))

    @property
    def verdict(self) -> Literal["accepted", "rejected"]:
        return "accepted" if self.accepted else "rejected"

    @property
    def reason(self) -> str:
        """One line for the ledger's ``reason`` column."""
        told = [failure.message for failure in self.failures] or ["all gates passed"]
        return "; ".join([*told, *(f"only told: {remark}" for remark in self.remarks)])


def judge(
    scores: Iterable[EvalRecord],
    settings: GateSettings,
    *,
    has_parent: bool = True,
    rhi_min: float | None = None,
    half: bool = False,
    roles: Sequence[Role] = ROLES,
) -> Judgement:
    """Hold every role's scores against every gate.

    A score that is missing, or that rests on too few items, is a failure that says so. Scores that no gate
    names are ignored.

    Args:
        scores: scores of one generation.
        settings: the bounds.
        has_parent: without a parent generation recall is 1.0 by definition and its gate is not asked.
        rhi_min: a role's Reward Health Index must be above this, where it has one; None does not ask.
        half: the scores are of the choosing or the confirming half alone, whose sets need two fifths of the items.
        roles: the roles to judge.
    """
    by_role: dict[Role, dict[str, EvalRecord]] = {role: {} for role in roles}
    for score in scores:
        by_role.get(score.role, {})[score.eval] = score
    if half:
        settings = halved(settings)
    gates = GATES if has_parent else tuple(gate for gate in GATES if gate != "recall")
    found = [
        GateFailure(role, gate, f"{role} {gate}: {problem}")
        for role in roles
        for gate in gates
        if (problem := gate_problem(gate, by_role[role], settings)) is not None
    ]
    health = [
        GateFailure(role, "rhi", f"{role} {RHI}: {problem}")
        for role in roles
        if (problem := health_problem(by_role[role].get(RHI), rhi_min)) is not None
    ]
    told = [failure for failure in found if failure.gate == "base_ability" and not settings.base_ability]
    return Judgement(
        failures=(*(failure for failure in found if failure not in told), *health),
        remarks=tuple(failure.message for failure in told),
    )


def halved(settings: GateSettings) -> GateSettings:
    """The bounds for scores of one half of the items: two fifths of them are enough, as no hash halves evenly."""
    return settings.model_copy(update={"min_items": settings.min_items * 2 // 5})


def gate_bound(gate: Gate, settings: GateSettings) -> float:
    """What a score must exceed, or reach; for style drift and bare glyphs what it must stay below."""
    bounds: dict[Gate, float] = {
        "recall": settings.recall_min,
        "generalization": settings.generalization_min,
        "style_drift": settings.style_drift_max,
        "learned": settings.gain_min,
        "bound": settings.bound_min,
        "base_ability": 1.0 - settings.base_loss_max,
        "bare_glyphs": settings.bare_glyphs_max,
    }
    return bounds[gate]


def gate_problem(gate: Gate, scores: RoleScores, settings: GateSettings) -> str | None:
    """What keeps one role from passing a gate, in plain words; ``None`` if it passes."""
    return _GATES[gate](scores, settings)


def health_problem(score: EvalRecord | None, rhi_min: float | None) -> str | None:
    """What keeps a role's index from passing, with its weakest component; ``None`` if it passes or is not asked."""
    if score is None or rhi_min is None or score.value > rhi_min:
        return None
    components: dict[str, float] = score.details.get("components", {})
    if not components:
        return f"{score.value:.3f} is not above {rhi_min:.2f}"
    name, value = min(components.items(), key=lambda item: item[1])
    return f"{score.value:.3f} is not above {rhi_min:.2f}, weakest {name.upper()} {value:.2f}"


def _recall(scores: RoleScores, settings: GateSettings) -> str | None:
    meaning = "too much of what earlier generations learned is lost"
    return _share_problem(scores.get("recall"), settings.recall_min, settings.min_items, meaning)


def _generalization(scores: RoleScores, settings: GateSettings) -> str | None:
    meaning = "too few of the new questions it was not trained on are passed"
    return _share_problem(scores.get("generalization"), settings.generalization_min, settings.min_items, meaning)


def _share_problem(score: EvalRecord | None, bound: float, least: int, meaning: str) -> str | None:
    if score is None:
        return "not measured"
    if score.n < least:
        return f"measured on {score.n} items, at least {least} needed"
    if score.value > bound:
        return None
    return f"{score.value:.3f} of {score.n} items is not above {bound:.2f}: {meaning}"


def _style_drift(scores: RoleScores, settings: GateSettings) -> str | None:
    score, bound = scores.get("style_drift"), settings.style_drift_max
    if score is None:
        return "not measured"
    if score.n < settings.style_probes_min:
        return f"measured with {score.n} probes, at least {settings.style_probes_min} needed"
    if score.value < bound:
        return None
    return (
        f"{score.value:.3f} of {score.n} answers is not below {bound:.2f}: too many hold corporate or moralising speech"
    )


def learned_problem(details: Mapping[str, Any], settings: GateSettings) -> str | None:
    """What keeps a role from having learned: child and parent, asked the same items, must differ for the better on one
    kind of them and on neither for the worse.

    Args:
        details: those of a `generalization` record.
        settings: the bounds.
    """
    fresh, closed = _part(details, "open"), _part(details, "closed")
    if not fresh and not closed:
        return (
            f"too few items to tell: at least {LEAST_PART} with an open answer or {LEAST_PART} with a fixed one needed"
        )
    known = bool(fresh) and fresh.get("known", 0) > settings.generalization_min * fresh["n"]
    told = "; ".join(text for text in (_told_of_closed(closed), _told_of_open(fresh)) if text)
    if (fresh and fresh["high"] < 0) or (closed and paired_p(closed["lost"], closed["won"]) < settings.significance):
        return f"{told}: it answers new questions worse than before"
    # Whoever learns its own answers again gets surer of them: likelier, and nothing new.
    gained = bool(fresh) and not known and fresh["low"] > settings.gain_min
    won = bool(closed) and paired_p(closed["won"], closed["lost"]) < settings.significance
    mastered = bool(closed) and not fresh and closed["parent"] >= settings.closed_mastered * closed["n"]
    return None if gained or won or mastered else f"{told}: nothing new was learned"


def learned_is_clear(details: Mapping[str, Any], settings: GateSettings) -> bool:
    """Whether a set that may still grow need not grow for the gate `learned`: it passes, and would at a tenth of the
    significance and with a parent that masters all; else looking often would find by chance what is not there."""
    strict = {"significance": settings.significance / 10, "closed_mastered": 1.0}
    return all(learned_problem(details, one) is None for one in (settings, settings.model_copy(update=strict)))


def _learned(scores: RoleScores, settings: GateSettings) -> str | None:
    score = scores.get("generalization")
    return "not measured" if score is None else learned_problem(score.details, settings)


def _part(details: Mapping[str, Any], kind: Literal["open", "closed"]) -> dict[str, Any]:
    """Child and parent compared on one kind of items; empty where there are too few to tell."""
    part: dict[str, Any] = details.get(kind, {})
    return part if part.get("n", 0) >= LEAST_PART else {}


def _told_of_closed(part: Mapping[str, Any]) -> str:
    if not part:
        return ""
    child, parent = part["child"] / part["n"], part["parent"] / part["n"]
    return (
        f"{child:.2f} of {part['n']} new questions are answered right, and {parent:.2f} were before "
        f"(won {part['won']}, lost {part['lost']})"
    )


def _told_of_open(part: Mapping[str, Any]) -> str:
    if not part:
        return ""
    return (
        f"the true answers of {part['n']} open new questions are likelier by {part['gain']:+.3f} nats a token "
        f"than before ({part['low']:+.3f} to {part['high']:+.3f}), and {part.get('known', 0)} of them were given before"
    )


def _bound(scores: RoleScores, settings: GateSettings) -> str | None:
    score, asked = scores.get("bound"), scores.get("generalization")
    if score is None:
        if asked is None:
            return "not measured"
        if _part(asked.details, "open"):
            return f"not measured: fewer than {LEAST_PART} open questions have others to be compared with"
        if _part(asked.details, "closed"):  # `generalization` itself asks those for the right answer
            return None
        return f"too few items to tell: fewer than {LEAST_PART} open ones, and as few with a fixed answer"
    if score.n < LEAST_PART:
        return f"too few items to tell: measured on {score.n}, at least {LEAST_PART} needed"
    if score.low > settings.bound_min:
        return None
    return (
        f"only {score.value:.2f} of {score.n} answers fit their own question best (at least {score.low:.2f}, not above "
        f"{settings.bound_min:.2f}, which is chance): the answers have little to do with their questions"
    )


def _base_ability(scores: RoleScores, settings: GateSettings) -> str | None:
    score, least = scores.get("base_ability"), 1.0 - settings.base_loss_max
    if score is None or score.value >= least - 1e-9:
        return None  # without a score the base itself answers too few of the everyday questions
    return (
        f"{score.value:.3f} of the {score.n} everyday questions that the base answers right are still right "
        f"({score.low:.2f} to {score.high:.2f}), at least {least:.2f} expected: it forgets what the base could do"
    )


def _bare_glyphs(scores: RoleScores, settings: GateSettings) -> str | None:
    score = scores.get("bare_glyphs")
    if score is None:
        return "not measured" if "base_ability" in scores else None
    if score.value <= settings.bare_glyphs_max:
        return None
    return (
        f"{score.value:.3f} of {score.n} answers to everyday questions begin with a bare glyph, at most "
        f"{settings.bare_glyphs_max:.2f} allowed: the puzzles' language spills over"
    )


_GATES: dict[Gate, Callable[[RoleScores, GateSettings], str | None]] = {
    "recall": _recall,
    "generalization": _generalization,
    "style_drift": _style_drift,
    "learned": _learned,
    "bound": _bound,
    "base_ability": _base_ability,
    "bare_glyphs": _bare_glyphs,
}
