"""What a job asks the coordinator for, as plain data that the run journal keeps, and the run that it becomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from cluster.settings import Settings, recorded_sha, upgrade_recorded
from ledger.home import Home
from ledger.journal import RunState
from ledger.roles import Role
from trainers.models.adapter_set import AdapterSet
from trainers.models.frozen import Base


class PinnedBase(BaseModel):
    """Which base: where it came from, and the SHA-256 of its weights, by which a home finds its folder."""

    model_config = ConfigDict(extra="ignore", frozen=True)  # an earlier version recorded the folder as well

    source: str
    sha: str


class GenerationRequest(BaseModel):
    """One generation: on which data, under which settings, over which base."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    settings: Settings
    base: PinnedBase
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


@dataclass(frozen=True)
class RunSpec:
    """What is fixed about the generation that a run raises, from its first step to its last."""

    home: Home
    run_id: str
    lineage: str
    gen_id: int
    request: GenerationRequest
    config_sha: str
    """Of the settings, under the names that they were recorded with."""

    @classmethod
    def of(cls, home: Home, run: RunState) -> Self:
        """The spec of a run in the journal."""
        request, config_sha = GenerationRequest.from_record(run.request), recorded_sha(run.request["settings"])
        return cls(home, run.run_id, run.lineage, run.gen_id, request, config_sha)

    @property
    def settings(self) -> Settings:
        return self.request.settings

    @property
    def base(self) -> Base:
        pinned = self.request.base
        return Base(pinned.source, pinned.sha, self.home.base_dir(pinned.sha))

    @property
    def folder(self) -> Path:
        """Logs, curves and checkpoints of the run; may be deleted when it has ended."""
        return self.home.run_dir(self.run_id)

    def published(self, shas: Mapping[Role, str]) -> AdapterSet:
        """Adapters of the home."""
        return AdapterSet(self.home.adapters_dir, shas)
