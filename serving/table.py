"""Which name means which adapter. Pure: every change gives a new table with the next version number.

Public names are `luna-<role>` (the generation that is current), `luna-<role>-g<n>` and `base`. An adapter's own name
holds part of its hash, so that no two adapters ever share one: vLLM keeps adapters by name and would serve the old one
under a name that is used again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from ledger.errors import LunaError
from ledger.roles import BASE, ROLES, Role, Voice


def model_name(voice: Voice, generation: int | None = None) -> str:
    """The public name of a role's current adapter, of one generation's, or of the base."""
    if voice == BASE:
        return BASE
    return f"luna-{voice}" if generation is None else f"luna-{voice}-g{generation}"


class Adapter(BaseModel):
    """One role of one generation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gen: int
    role: Role
    sha: str

    @property
    def name(self) -> str:
        """The adapter's own name inside the engine, used for nothing else ever."""
        return f"luna-{self.role}-g{self.gen}-{self.sha[:12]}"


class Table(BaseModel):
    """What is served: generations by number, the current one and the one before it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = Field(0, ge=0)
    generations: dict[int, dict[Role, str]] = {}
    """SHA of each role's adapter."""
    current: int | None = None
    previous: int | None = None

    def add(self, gen: int, shas: Mapping[Role, str]) -> Self:
        """With a generation served under its own number."""
        if set(shas) != set(ROLES):
            raise LunaError(f"G{gen} has adapters for {', '.join(sorted(shas)) or 'no role'}; all three are needed.")
        if gen in self.generations:
            if self.generations[gen] != dict(shas):
                raise LunaError(f"G{gen} is served with other adapters; a generation's number is never used again.")
            return self
        return self._with(generations={**self.generations, gen: dict(shas)})

    def remove(self, gen: int) -> Self:
        """Without a generation.

        Raises:
            LunaError: the current names point to it or can be rolled back to it.
        """
        if gen in (self.current, self.previous):
            raise LunaError(f"G{gen} is current or the one before it; deploy another generation first.")
        return self._with(generations={g: shas for g, shas in self.generations.items() if g != gen})

    def switch(self, gen: int) -> Self:
        """With `luna-<role>` meaning this generation. One table replaces the other, so all three roles move at once."""
        if gen not in self.generations:
            raise LunaError(f"G{gen} is not loaded; deploy it with `luna deploy G{gen}`.")
        if gen == self.current:
            return self
        return self._with(current=gen, previous=self.current)

    def names(self) -> dict[str, Adapter | None]:
        """Every public name and what it means now; None is the base."""
        found: dict[str, Adapter | None] = {BASE: None}
        for gen, shas in self.generations.items():
            for role, sha in shas.items():
                adapter = Adapter(gen=gen, role=role, sha=sha)
                found[model_name(role, gen)] = adapter
                if gen == self.current:
                    found[model_name(role)] = adapter
        return found

    def resolve(self, name: str) -> Adapter | None:
        """What a public name, or an adapter's own, means now; None is the base.

        Raises:
            LunaError: nothing of that name is served.
        """
        names = self.names()
        if name in names:
            return names[name]
        own = {adapter.name: adapter for adapter in names.values() if adapter}
        if name not in own:
            raise LunaError(f"there is no model {name!r}; /v1/models lists what is served.")
        return own[name]

    def _with(self, **changes: object) -> Self:
        return self.model_copy(update={**changes, "version": self.version + 1})
