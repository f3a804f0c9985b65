"""What a job asks the coordinator for, as plain data that the run journal can keep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from cluster.settings import Settings, upgrade_recorded
from trainers.models.frozen import Base


class GenerationRequest(BaseModel):
    """One generation: on which data, under which settings, over which base."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    settings: Settings
    base: Base
    data: tuple[str, ...]
    """SHAs of example files under the home's `data/inbox/`."""
    preferences: str = ""
    """SHA of the frozen preference pairs of a dual generation, both parts in one; empty if there are none."""
    note: str = ""
    """What the user calls this generation; shown, never judged."""

    @classmethod
    def from_record(cls, recorded: Mapping[str, Any]) -> Self:
        """A request of the run journal, which an earlier version may have recorded under other names of settings."""
        return cls.model_validate({**recorded, "settings": upgrade_recorded(recorded["settings"])})
