"""When the next age-up is tried: by karma, cadence and what was tried before (DESIGN section 8)."""

from __future__ import annotations

import math
from collections.abc import Collection

from ledger.rules.cadence import Cadence
from ledger.rules.karma import KarmaState

HEADROOM = 1.2
"""Margin on the number of examples: hashes decide which are held out, so the holdout's size varies by chance."""


def age_up_reason(karma: KarmaState, now: Cadence) -> str:
    """Why a generation is due, or "" when it is not."""
    if karma.due:
        return f"karma {karma.earned:.0f} of {karma.threshold}"
    if now.due:
        return f"enough new data: {now.memory:.0%} of the memory's share, {now.reward:.0%} of the reward's"
    return ""


def was_tried(lessons: Collection[str], tried: Collection[str]) -> bool:
    """Whether a rejected generation was already trained on all of these lessons (by example id).

    Karma survives a rejection, and the next try waits for new data.
    """
    return bool(tried) and set(lessons) <= set(tried)


def examples_needed(min_items: int, holdout_percent: int) -> int:
    """Examples that a role needs for a holdout of, most likely, at least `min_items`."""
    return math.ceil(HEADROOM * min_items * 100 / holdout_percent)
