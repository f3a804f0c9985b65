"""Which roles train on which device. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ledger.roles import ROLES, Role


@dataclass(frozen=True)
class Placement:
    """Roles that share one actor, and so one copy of the base."""

    roles: tuple[Role, ...]
    gpus: float
    """What one worker asks Ray for: 1 on an accelerator, a share of one that serves as well, 0 on the CPU."""
    workers: int = 1
    """With more than one they train together, each a share of every step's rows."""

    @property
    def name(self) -> str:
        """As the ledger's `placement` column spells it."""
        return "+".join(self.roles)


def place_roles(gpus: int) -> tuple[Placement, ...]:
    """Spread the trio over the accelerators there are.

    0 or 1: all three in one actor, fused over one base (fused training on one device is faster than three processes
    that share it). 2: the voice that users hear gets a device of its own, since its prompts are the longest.
    3 or more: each role has its own; further devices stay free for serving.
    """
    if gpus < 0:
        raise ValueError(f"a rig cannot have {gpus} GPUs")
    if gpus <= 1:
        return (Placement(ROLES, gpus),)
    if gpus == 2:
        return (Placement(("creative", "logical"), 1), Placement(("dialectical",), 1))
    return tuple(Placement((role,), 1) for role in ROLES)
