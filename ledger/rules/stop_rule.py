"""When to stop training and look at the data (DESIGN section 6).

Over the last two judged generations of the head's line, each compared with its own parent on its own held-out items:
if both gain less than epsilon and at least one drifts by more than theta, training stops. The head goes back to before
those two, and the lineage refuses the same data until it changes. Neither of the two gained epsilon, and no generation
of the line is between them and the head they go back to; so one that did gain is never undone.

Of the line are the head, its ancestors, and what was tried from the head; not what a roll back has left behind. So
the head only ever moves to one of its own ancestors, never forward.

What a role *gains* is, over its items with a fixed answer, the share that only the child has right less the share that
only the parent has; over its open items, the share whose true answer is likelier for the child, less the half that
chance gives. One number comes from three roles so: the gain is the mean over the roles (all count alike), the *drift*
is the largest increase of any role (one voice turning corporate is enough).

A generation without a parent generation is left out: it drifts from nothing. While scores are missing, as in homes of
earlier versions, the rule does not fire. After a stop the count begins anew, so that one poor generation is never held
against two stops.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from ledger.records import EvalRecord, GenerationRow, Stop
from ledger.roles import ROLES, Role


class StopRuleSettings(BaseModel):
    """The two bounds, both strict."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gain_epsilon: float = Field(default=0.05, ge=0.0, le=1.0)
    """A gain over the parent on the same items below this counts as none."""
    drift_theta: float = Field(default=0.1, ge=0.0, le=1.0)
    """An increase in style drift above this counts as drifting."""


@dataclass(frozen=True)
class GenerationScores:
    """What the stop rule needs to know of one judged generation; what was not measured is absent."""

    gen_id: int
    parent_gen: int | None
    gain: Mapping[Role, float]
    """The child against its own parent on the child's items, -1 to 1."""
    style_drift: Mapping[Role, float]
    """Share of probe answers with a corporate phrase, 0 to 1."""


@dataclass(frozen=True)
class Comparison:
    """One generation against its own parent."""

    gen_id: int
    parent_gen: int
    gain: float
    """Mean gain over the roles."""
    drift: float
    """Largest increase in style drift over the roles."""


@dataclass(frozen=True)
class StopDecision:
    """Stop: move the head to ``head``, itself or one of its ancestors; refuse the data of ``generations``."""

    generations: tuple[int, int]
    head: int
    reason: str


def generation_scores(rows: Sequence[GenerationRow], evals: Iterable[EvalRecord]) -> GenerationScores:
    """The rule's view of one generation. Roles that were never held against their parent count as not measured: their
    style was probed by an earlier version, with other phrases."""
    by_name = {(score.role, score.eval): score for score in evals}
    asked = {role: by_name[role, "generalization"] for role in ROLES if (role, "generalization") in by_name}
    gain = {role: gained for role, score in asked.items() if (gained := gain_of(score)) is not None}
    return GenerationScores(
        gen_id=rows[0].gen_id,
        parent_gen=rows[0].parent_gen,
        gain=gain,
        style_drift={role: by_name[role, "style_drift"].value for role in gain if (role, "style_drift") in by_name},
    )


def gain_of(generalization: EvalRecord) -> float | None:
    """What a role gained over its parent, -1 to 1; None where the record does not hold them against each other."""
    closed, fresh = generalization.details.get("closed", {}), generalization.details.get("open", {})
    asked: int = closed.get("n", 0) + fresh.get("n", 0)
    if not asked:
        return None
    right = closed["child"] - closed["parent"] if closed.get("n") else 0
    likelier = fresh["better"] - fresh["n"] / 2 if fresh.get("n") else 0.0
    return float(right + likelier) / asked


def compare(child: GenerationScores, parent: GenerationScores) -> Comparison | None:
    """How far the child came from its parent; ``None`` if too little was measured."""
    toned = child.style_drift.keys() & parent.style_drift.keys()
    if not child.gain or not toned:
        return None
    gain = sum(child.gain.values()) / len(child.gain)
    drift = max(child.style_drift[role] - parent.style_drift[role] for role in toned)
    # Rounded so that a difference of exactly a bound, such as 0.85 - 0.80, is not pushed across it.
    return Comparison(child.gen_id, parent.gen_id, round(gain, 9), round(drift, 9))


def stop_decision(
    judged: Sequence[GenerationScores], last_stop_gen: int | None, settings: StopRuleSettings
) -> StopDecision | None:
    """Apply the rule to a lineage.

    Args:
        judged: judged generations of the lineage, accepted and rejected, oldest first, the new one last; of the
            earlier ones at least the new one's parent, that one's parent, and what was tried last from the former.
        last_stop_gen: newest generation that was judged when the rule fired last, or ``None``.
        settings: the bounds.

    Returns:
        What to do, or ``None`` to go on.
    """
    by_gen = {scores.gen_id: scores for scores in judged}
    head = judged[-1].parent_gen
    line = _ancestry(by_gen, head)
    window = [
        scores
        for scores in judged
        if scores.parent_gen in by_gen
        and (scores.gen_id in line or scores.parent_gen == head)
        and (last_stop_gen is None or scores.gen_id > last_stop_gen)
    ][-2:]
    if len(window) < 2 or window[-1] is not judged[-1]:
        return None
    earlier, later = (compare(scores, by_gen[scores.parent_gen]) for scores in window)  # type: ignore[index]
    if earlier is None or later is None:
        return None
    if max(earlier.gain, later.gain) >= settings.gain_epsilon:
        return None
    if max(earlier.drift, later.drift) <= settings.drift_theta:
        return None
    return StopDecision(
        generations=(earlier.gen_id, later.gen_id),
        head=earlier.parent_gen,
        reason=(
            f"stopped: G{earlier.gen_id} and G{later.gen_id} gained {earlier.gain:+.3f} and {later.gain:+.3f} over "
            f"their parents on new questions (at least {settings.gain_epsilon:.2f} expected), and their style drifted "
            f"by {earlier.drift:+.3f} and {later.drift:+.3f} (at most {settings.drift_theta:.2f} allowed). "
            "Fix the data, not the size."
        ),
    )


def _ancestry(by_gen: Mapping[int, GenerationScores], gen_id: int | None) -> set[int]:
    """A generation and its ancestors, as far as they are known."""
    found: set[int] = set()
    while gen_id is not None and gen_id in by_gen:
        found.add(gen_id)
        gen_id = by_gen[gen_id].parent_gen
    return found


def stopped_refusal(stop: Stop | None, delta_sha: str) -> str | None:
    """Why a stopped lineage refuses this delta, or ``None`` if it is not stopped or the data changed."""
    if stop is None or delta_sha not in stop.data_delta_shas:
        return None
    return (
        f"the lineage is stopped and its data has not changed (delta {delta_sha[:12]}). {stop.reason} "
        "Remove or correct examples, or add better ones, then run the generation again."
    )
