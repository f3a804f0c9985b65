"""The models of a judgement, opened when they are asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ledger.errors import LunaError
from ledger.roles import BASE, Role, Voice
from trainers.evals.exam import Compared
from trainers.generator import Generator
from trainers.models.adapter_set import AdapterSet


@dataclass(frozen=True)
class Speaker:
    """A voice of a model."""

    generator: Generator
    voice: Voice


class Models:
    """Child, parent and earlier generations of one judgement, asked through one engine.

    At most two sets of adapters are held at a time, the child's and another; equal ones count once.

    Args:
        open_model: the base with these adapters.
    """

    def __init__(self, compared: Compared, open_model: Callable[[AdapterSet], Generator]):
        self.compared, self._open = compared, open_model
        self._held: list[tuple[AdapterSet, Generator]] = []

    def child(self, role: Role) -> Speaker:
        """The generation that is judged."""
        return Speaker(self._model(self.compared.child), role)

    def base(self) -> Speaker:
        """The untouched base."""
        return Speaker(self._model(self.compared.child), BASE)

    def parent(self, role: Role) -> Speaker:
        """Its parent; the base where there is none."""
        if self.compared.parent is None:
            return self.base()
        return Speaker(self._model(self.compared.parent), role)

    def learned(self, gen_id: int, role: Role) -> Speaker:
        """An earlier generation.

        Raises:
            LunaError: its adapters were not given.
        """
        if gen_id not in self.compared.learned:
            raise LunaError(f"recall asks about what G{gen_id} learned, and its adapters are not there; restore them.")
        return Speaker(self._model(self.compared.learned[gen_id]), role)

    def _model(self, adapters: AdapterSet) -> Generator:
        found = [model for held, model in self._held if held == adapters]
        if found:
            return found[0]
        self._held = [one for one in self._held if one[0] == self.compared.child]  # first let go, then open
        self._held.append((adapters, self._open(adapters)))
        return self._held[-1][1]
