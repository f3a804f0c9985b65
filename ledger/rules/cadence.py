"""When it is time to learn again (DESIGN section 8): enough that is new, and not in the quiet hours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Hour = Annotated[int, Field(ge=0, le=23)]


class CadenceSettings(BaseModel):
    """The `[cadence]` table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    memory_pairs: int = Field(500, ge=1)
    """New conversation pairs (a message and its answer) that make learning due by themselves."""
    reward_pairs: int = Field(200, ge=1)
    """New preference pairs that make it due by themselves."""
    quiet_hours: tuple[Hour, Hour] | None = None
    """From the first hour up to the second, of this machine's clock, nothing is to begin by itself; `[22, 7]` goes over
    midnight. None: any hour will do."""


@dataclass(frozen=True)
class Cadence:
    """Where the home stands."""

    memory: float
    """New conversation pairs over what is needed; 1 and more is enough."""
    reward: float
    """The same for preference pairs."""
    quiet: bool
    """Whether these are quiet hours."""

    @property
    def due(self) -> bool:
        """Whether there is enough to learn from: either is reached, or both are at half."""
        return max(self.memory, self.reward) >= 1 or min(self.memory, self.reward) >= 0.5


def cadence(memory_pairs: int, reward_pairs: int, hour: int, settings: CadenceSettings) -> Cadence:
    """The state with so many new pairs, at an hour (0 to 23) of this machine's clock."""
    return Cadence(
        memory_pairs / settings.memory_pairs, reward_pairs / settings.reward_pairs, is_quiet(hour, settings.quiet_hours)
    )


def is_quiet(hour: int, quiet_hours: tuple[int, int] | None) -> bool:
    """Whether an hour lies in [from, to), over midnight where `to` is the smaller. Equal bounds hold no hour."""
    if quiet_hours is None:
        return False
    begin, end = quiet_hours
    return begin <= hour < end if begin <= end else hour >= begin or hour < end
