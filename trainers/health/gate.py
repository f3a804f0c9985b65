"""What follows from reward health, as pure decisions: the online gate, and the slow loop over runs (DESIGN section 7).

The third gate, RHI > 0.70 for acceptance, is in `ledger.rules.gates` with the others.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from trainers.health.settings import HealthSettings

Action = Literal["update", "skip", "roll_back", "freeze"]
"""What becomes of a step: its update is made, left out, left out with the one before taken back, or nothing moves."""


@dataclass(frozen=True)
class GateState:
    """What the online gate remembers from step to step."""

    frozen: bool = False
    """Whether it waits for recovery."""
    undoable: bool = False
    """Whether the latest update was made and not taken back, so that there is one to take back."""


def gate_step(state: GateState, partial: float, settings: HealthSettings) -> tuple[GateState, Action]:
    """One step of the online gate.

    - at or above `skip_below`: update; this also ends a freeze.
    - below it: skip; below `roll_back_below` also take the last update back, once (only one is kept).
    - below `freeze_below`: freeze, and stay frozen until `skip_below` is reached again.

    Args:
        partial: DCS + GVS of the step, in [0, 2]; what is not a number counts as 0.

    Returns:
        The next state, and what to do with this step.
    """
    if not math.isfinite(partial):
        partial = 0.0
    if partial >= settings.skip_below:
        return GateState(frozen=False, undoable=True), "update"
    if state.frozen or partial < settings.freeze_below:
        return GateState(frozen=True, undoable=state.undoable), "freeze"
    if partial < settings.roll_back_below and state.undoable:
        return GateState(frozen=False, undoable=False), "roll_back"
    return state, "skip"


@dataclass(frozen=True)
class Reduction:
    """What to train the next generation with, after an index that keeps falling."""

    lr: float
    rank: int
    reason: str


def reduction(indices: Sequence[float], lr: float, rank: int, settings: HealthSettings) -> Reduction | None:
    """The slow loop: a smaller learning rate, or at its floor a smaller adapter; None to go on as before.

    Args:
        indices: RHI of the judged generations that have one, oldest first.
        lr: learning rate of the last run.
        rank: of its adapters.
    """
    last = list(indices[-settings.falling_runs :])
    if len(last) < settings.falling_runs or any(later >= earlier for earlier, later in itertools.pairwise(last)):
        return None
    course = " → ".join(f"{value:.3f}" for value in last)
    smaller_lr, smaller_rank = lr * settings.reduce_factor, max(settings.rank_floor, int(rank * settings.reduce_factor))
    if smaller_lr >= settings.lr_floor:
        return Reduction(
            smaller_lr, rank, f"RHI fell over {len(last)} runs ({course}): try [train] lr = {smaller_lr:g}"
        )
    if smaller_rank < rank:
        words = f"lr {lr:g} is at its floor: try a new lineage with [lora] rank = {smaller_rank}"
        return Reduction(lr, smaller_rank, f"RHI fell over {len(last)} runs ({course}), {words}")
    return None
