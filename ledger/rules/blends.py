"""Which blend of parent and child to accept when the child alone fails its gates (DESIGN section 6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Found = TypeVar("Found")
Alpha = Annotated[float, Field(gt=0.0, lt=1.0)]

ALPHAS: tuple[float, ...] = (0.75, 0.5, 0.25)
"""Blends ``parent + alpha * (child - parent)`` that are tried, largest first."""


class BlendSettings(BaseModel):
    """Whether and where to look between parent and child before a rejection."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = True
    """Off: a candidate that fails its gates is rejected at once."""
    alphas: tuple[Alpha, ...] = ALPHAS
    """Blends to try; nearer to 1 keeps more of what the child learned."""


def largest_that_passes(alphas: Sequence[float], attempt: Callable[[float], Found | None]) -> Found | None:
    """What `attempt` finds at the largest alpha where it finds anything; None if nowhere.

    Alphas are tried from the largest down and no further than needed, because each attempt evaluates all three roles.
    """
    return next((found for alpha in sorted(alphas, reverse=True) if (found := attempt(alpha)) is not None), None)
