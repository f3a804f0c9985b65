"""When a new generation is due (DESIGN section 8): enough new data, outside the quiet hours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Hour = Annotated[int, Field(ge=0, le=23)]


class CadenceSettings(BaseModel):
    """The `[cadence]` table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    memory_pairs: int = Field(500, ge=1)
    """Lessons of conversations, new to the head's line, that suffice for a generation."""
    reward_pairs: int = Field(200, ge=1)
    """Preference pairs with a new lesson as the better answer that suffice."""
    quiet_hours: tuple[Hour, Hour] | None = None
    """From the first hour up to the second, by this machine's clock, no generation starts on its own; `[22, 7]` spans
    midnight. None: no hour is quiet."""


@dataclass(frozen=True)
class Cadence:
    """How much new data a home has, against what a generation needs."""

    memory: float
    """New lessons divided by those needed; 1 or more suffices."""
    reward: float
    """The same for preference pairs."""
    quiet: bool
    """Whether these are quiet hours."""

    @property
    def due(self) -> bool:
        """Whether the data suffices: either share is 1, or both are at least a half."""
        return max(self.memory, self.reward) >= 1 or min(self.memory, self.reward) >= 0.5


def cadence(memory_pairs: int, reward_pairs: int, hour: int, settings: CadenceSettings) -> Cadence:
    """The state, given the new pairs and the hour (0 to 23) of this machine's clock."""
    return Cadence(
        memory_pairs / settings.memory_pairs, reward_pairs / settings.reward_pairs, is_quiet(hour, settings.quiet_hours)
    )


def is_quiet(hour: int, quiet_hours: tuple[int, int] | None) -> bool:
    """Whether an hour lies in [from, to), across midnight if `to` is smaller. Equal bounds contain no hour."""
    if quiet_hours is None:
        return False
    begin, end = quiet_hours
    return begin <= hour < end if begin <= end else hour >= begin or hour < end
