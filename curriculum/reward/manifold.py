"""The reward manifold: seven dimensions, how strongly and whether to learn. Ranges bind (DESIGN section 7)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from ledger.errors import LunaError

DIMENSIONS = (
    "empathy",
    "social_coherence",
    "agency_support",
    "epistemic_integrity",
    "harm_avoidance",
    "narrative_alignment",
    "curiosity",
)
"""What an answer is judged by, each in [-1, 1]; docs/explanation/reward-manifold.md says what each means."""

VALUES = (*DIMENSIONS, "reward_intensity", "safety_score")
"""The nine values that every label has and the reward model predicts."""

RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(DIMENSIONS, (-1.0, 1.0)),
    "reward_intensity": (0.0, 1.0),
    "safety_score": (-1.0, 1.0),
    "scalar_preference": (-1.0, 1.0),
}

Signed = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False, strict=True)]
Unit = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=True)]


class RewardOutput(BaseModel):
    """One judgement of an answer."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    empathy: Signed
    social_coherence: Signed
    agency_support: Signed
    epistemic_integrity: Signed
    harm_avoidance: Signed
    narrative_alignment: Signed
    curiosity: Signed
    reward_intensity: Unit
    """How strongly to learn from this example."""
    safety_score: Signed
    """Whether to learn from it at all; see `gate`."""
    scalar_preference: Annotated[Signed | None, Field(validation_alias=AliasChoices("scalar_preference", "scalar"))] = (
        None
    )
    """One number for the whole, where the judge gives one. Files may call it `scalar`."""

    def vector(self) -> tuple[float, ...]:
        """The seven dimensions, in order."""
        return tuple(getattr(self, name) for name in DIMENSIONS)

    def values(self) -> tuple[float, ...]:
        """The nine values of `VALUES`, in order."""
        return tuple(getattr(self, name) for name in VALUES)


def gate(safety: float) -> float:
    """Share of an example's weight that its safety score lets through.

    0 at or below -0.5, 1 at or above 0.5, linear between.

    Raises:
        LunaError: `safety` is no number in [-1, 1].
    """
    return min(1.0, max(0.0, _within("safety_score", safety) + 0.5))


def example_weight(intensity: float, safety: float) -> float:
    """Weight of an example in both channels, in [0, 1]: intensity · gate(safety).

    Raises:
        LunaError: `intensity` is no number in [0, 1], or `safety` none in [-1, 1].
    """
    return _within("reward_intensity", intensity) * gate(safety)


def values_out_of_range(reward: Mapping[str, Any]) -> dict[str, float]:
    """The values of a raw reward object that lie outside their ranges, by name, as found.

    What is no finite number is left to the schema to refuse.
    """
    found: dict[str, float] = {}
    for key, value in reward.items():
        name = _value_name(key)
        number = _finite(value)
        if number is not None and name in RANGES and not RANGES[name][0] <= number <= RANGES[name][1]:
            found[name] = number
    return found


def _finite(value: object) -> float | None:
    """A JSON number as a float; None for what is none, or too large to be one."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def values_in(reward: object) -> int:
    """How many numbers a raw reward object gives for values of the manifold."""
    if not isinstance(reward, Mapping):
        return 0
    return sum(_value_name(key) in RANGES and _finite(value) is not None for key, value in reward.items())


def clamped(reward: Mapping[str, Any]) -> dict[str, Any]:
    """A raw reward object with the values out of range moved to the nearest bound."""
    outside = {name: min(RANGES[name][1], max(RANGES[name][0], v)) for name, v in values_out_of_range(reward).items()}
    return {key: outside.get(_value_name(key), value) for key, value in reward.items()}


def _within(name: str, value: float) -> float:
    low, high = RANGES[name]
    if not low <= value <= high:  # false for NaN too
        raise LunaError(f"{name} is {value}; it must be a number in [{low:g}, {high:g}].")
    return float(value)


def _value_name(key: object) -> str:
    return "scalar_preference" if key == "scalar" else str(key)
