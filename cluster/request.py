"""What a job asks the coordinator for, as plain data that the run journal can keep."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from cluster.settings import Settings
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
