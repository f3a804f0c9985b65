"""Which blend of parent and child to accept for a role that fails its gates (DESIGN section 6)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from ledger.roles import Role
from ledger.rules.gates import Gate, Judgement

Found = TypeVar("Found")
Alpha = Annotated[float, Field(gt=0.0, lt=1.0)]

ALPHAS: tuple[float, ...] = (0.75, 0.5, 0.25)
"""Blends ``parent + alpha * (child - parent)`` that are tried, largest first."""


BAD_DATA: frozenset[Gate] = frozenset({"style_drift", "bound"})
"""Gates that fail because of what the data says; less of it is as wrong, and only harder to see."""


class BlendSettings(BaseModel):
    """Whether and where to look between parent and child before a rejection."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = True
    """Off: a candidate that fails its gates is rejected at once."""
    alphas: tuple[Alpha, ...] = ALPHAS
    """Blends to try; nearer to 1 keeps more of what the child learned."""


def blends_may_help(judgement: Judgement) -> bool:
    """Whether a blend could mend what was rejected: too much forgotten or too hard a step, not bad data."""
    return not judgement.accepted and not any(failure.gate in BAD_DATA for failure in judgement.failures)


def blends_by_role(
    failed: Iterable[Role],
    alphas: Sequence[float],
    passes: Callable[[Role, float], bool],
    confirmed: Callable[[Role, float], Found | None],
) -> dict[Role, Found] | None:
    """A blend for each role that failed, or None as soon as one role has none.

    A role's alpha is chosen on one half of the items and its scores come from the other, so that what is reported was
    not selected. What does not confirm ends the search: a second choice would select on the confirming half.

    Args:
        failed: roles whose adapter as trained does not pass.
        passes: whether a role's blend passes its gates on the choosing half.
        confirmed: what the confirming half finds of the chosen blend; None if it fails there.
    """
    found: dict[Role, Found] = {}
    for role in failed:
        alpha = next((alpha for alpha in sorted(alphas, reverse=True) if passes(role, alpha)), None)
        if alpha is None or (one := confirmed(role, alpha)) is None:
            return None
        found[role] = one
    return found
