"""How much karma buys the next age (DESIGN section 8)."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_THRESHOLDS: tuple[int, ...] = (100, 250, 500, 1000)
"""Karma for the first four steps up; every later step costs twice the one before."""


def karma_threshold(age: int) -> int:
    """Karma that leads from ``age`` (0 or more) to the next one: 100, 250, 500, 1000, 2000 and so on."""
    if age < 0:
        raise ValueError(f"age must be 0 or more; got {age}")
    if age < len(FIRST_THRESHOLDS):
        return FIRST_THRESHOLDS[age]
    return FIRST_THRESHOLDS[-1] * 2 ** (age - len(FIRST_THRESHOLDS) + 1)


@dataclass(frozen=True)
class KarmaState:
    """Karma earned since the last age, and what the next one costs."""

    earned: float
    threshold: int

    @property
    def progress(self) -> float:
        """Share of the way, in [0, 1]. Karma can be negative (answers cost some); that is no progress."""
        return min(max(self.earned / self.threshold, 0.0), 1.0)

    @property
    def missing(self) -> float:
        """Karma still to earn, 0 when the age-up is due."""
        return max(self.threshold - self.earned, 0.0)

    @property
    def due(self) -> bool:
        return self.earned >= self.threshold


def karma_state(earned: float, age: int) -> KarmaState:
    """The state at ``age`` with ``earned`` karma."""
    return KarmaState(earned, karma_threshold(age))
