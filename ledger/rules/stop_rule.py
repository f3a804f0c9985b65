"""When to stop training and look at the data (DESIGN section 6).

Over the last two judged generations of the head's line, each compared with its own parent: if both gain less than
epsilon in generalization and at least one drifts by more than theta, training stops. The head goes back to before
those two, and the lineage refuses the same data until it changes.

Of the line are the head, its ancestors, and what was tried from the head; not what a roll back has left behind. So
the head only ever moves to one of its own ancestors, never forward.

How one number comes from three roles: the *gain* is the difference of the means over the roles (all roles
count alike), the *drift* is the largest increase of any role (one voice turning corporate is enough).

A generation without a parent generation has nothing to be compared with and is left out. While scores are
missing the rule does not fire. After a stop the count begins anew, so that one poor generation is never held
against two stops.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from ledger.records import GenerationRow, Stop
from ledger.roles import Role


class StopRuleSettings(BaseModel):
    """The two bounds, both strict."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gain_epsilon: float = Field(default=0.05, ge=0.0, le=1.0)
    """A gain in generalization below this counts as none."""
    drift_theta: float = Field(default=0.1, ge=0.0, le=1.0)
    """An increase in style drift above this counts as drifting."""


@dataclass(frozen=True)
class GenerationScores:
    """What the stop rule needs to know of one judged generation. Scores are shares in [0, 1] by role."""

    gen_id: int
    parent_gen: int | None
    generalization: Mapping[Role, float]
    style_drift: Mapping[Role, float]


@dataclass(frozen=True)
class Comparison:
    """One generation against its own parent."""

    gen_id: int
    parent_gen: int
    gain: float
    """Mean generalization over the roles, child minus parent."""
    drift: float
    """Largest increase in style drift over the roles."""


@dataclass(frozen=True)
class StopDecision:
    """Stop: move the head to ``head``, itself or one of its ancestors; refuse the data of ``generations``."""

    generations: tuple[int, int]
    head: int
    reason: str


def generation_scores(rows: Sequence[GenerationRow]) -> GenerationScores:
    """The scores in one generation's rows; what was not measured is absent."""
    return GenerationScores(
        gen_id=rows[0].gen_id,
        parent_gen=rows[0].parent_gen,
        generalization={row.role: row.eval_generalization for row in rows if row.eval_generalization is not None},
        style_drift={row.role: row.eval_style_drift for row in rows if row.eval_style_drift is not None},
    )


def compare(child: GenerationScores, parent: GenerationScores) -> Comparison | None:
    """How far the child came from its parent; ``None`` if they share no scored role."""
    learned = child.generalization.keys() & parent.generalization.keys()
    toned = child.style_drift.keys() & parent.style_drift.keys()
    if not learned or not toned:
        return None
    gain = sum(child.generalization[role] - parent.generalization[role] for role in learned) / len(learned)
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
            f"stopped: G{earlier.gen_id} and G{later.gen_id} gained {earlier.gain:+.3f} and "
            f"{later.gain:+.3f} in generalization (at least {settings.gain_epsilon:.2f} expected), and "
            f"drifted by {earlier.drift:+.3f} and {later.drift:+.3f} (at most {settings.drift_theta:.2f} "
            "allowed). "
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
