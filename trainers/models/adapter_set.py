"""Where the adapters of some roles lie: what training, measuring and blending pass to each other."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from ledger.roles import Role


@dataclass(frozen=True)
class AdapterSet:
    """The adapters of some roles: ``folder/<sha>`` is one, in PEFT's format."""

    folder: Path
    shas: Mapping[Role, str]
    """SHA-256 of each role's ``adapter_model.safetensors``; a role without one has no adapter."""

    def path(self, role: Role) -> Path:
        """Folder of a role's adapter."""
        return self.folder / self.shas[role]

    def of(self, roles: Collection[Role]) -> AdapterSet:
        """The same, of these roles only."""
        return AdapterSet(self.folder, {role: sha for role, sha in self.shas.items() if role in roles})
