"""What a job asks the coordinator for, as plain data that the run journal can keep."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from cluster.settings import Settings
from serving.settings import ServingSettings
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

    @field_validator("settings", mode="before")
    @classmethod
    def _with_known_serving_settings(cls, settings: Any) -> Any:
        """A request recorded earlier may name [serving] settings of its time; they decide nothing that is trained."""
        if not isinstance(settings, dict) or not isinstance(settings.get("serving"), dict):
            return settings
        known = {name: value for name, value in settings["serving"].items() if name in ServingSettings.model_fields}
        return {**settings, "serving": known}
