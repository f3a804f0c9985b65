"""Which roles train together, and what each group asks Ray for. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from ledger.roles import ROLES, Role
from trainers.config import ShardedSettings
from trainers.job import MicroBatches


@dataclass(frozen=True)
class Placement:
    """Roles that share one copy of the base: a group, fixed for the whole of a run."""

    roles: tuple[Role, ...]
    gpus: float
    """What one worker asks Ray for: 0 on the CPU, a fraction of a card that it shares, else 1."""
    workers: int = 1
    """More than one: data parallel or sharded."""

    @property
    def name(self) -> str:
        """As the ledger's `placement` column spells it."""
        return "+".join(self.roles)

    @property
    def shares_its_card(self) -> bool:
        """Whether something else, such as a server, has the rest of its card."""
        return 0 < self.gpus < 1


@dataclass(frozen=True)
class Groups:
    """How the roles of a run train: decided when it begins, noted in its journal, and kept through every resume."""

    placements: tuple[Placement, ...]
    micro_batches: Mapping[str, MicroBatches] = field(default_factory=dict)
    """By the name of a group, what memory asks for above the settings."""
    sharded: ShardedSettings | None = None
    """How the sharded engine lays the base out, where the plan chose it; None: the engine is the settings'."""

    def given(self, now: Sequence[Placement]) -> Self:
        """The same groups on the devices of today's plan; see :func:`keep_groups`."""
        return replace(self, placements=keep_groups(self.placements, now))


def place_roles(gpus: float) -> tuple[Placement, ...]:
    """Spread the trio over the accelerators there are.

    Less than 2: all three in one actor, fused over one base (fused training on one device is faster than three
    processes that share it), on as much of a card as there is. 2: the voice that users hear gets a device of its own,
    since its prompts are the longest. 3 or more: each role has its own; further devices stay free for serving.
    """
    if gpus < 0:
        raise ValueError(f"a rig cannot have {gpus} GPUs")
    if gpus < 2:
        return (Placement(ROLES, min(gpus, 1)),)
    if gpus < 3:
        return (Placement(("creative", "logical"), 1), Placement(("dialectical",), 1))
    return tuple(Placement((role,), 1) for role in ROLES)


def keep_groups(recorded: Sequence[Placement], now: Sequence[Placement]) -> tuple[Placement, ...]:
    """The groups that a run began with, each asking for what a worker of today's plan asks for.

    Checkpoints and bytes belong to a group, never to a device. What began on GPUs waits for one where there is none:
    its checkpoint is of no use on the CPU.
    """
    share = min((place.gpus for place in now), default=0)
    return tuple(replace(place, gpus=share) if share and place.gpus else place for place in recorded)


def assign(
    waiting: Sequence[Placement], idle: Sequence[Placement], sharing: Collection[Placement]
) -> Mapping[Placement, Placement]:
    """On whose trainer each waiting group works now; a group that is not named waits on.

    Args:
        waiting: groups with work to do, in their order.
        idle: groups whose own trainer has its base loaded and nothing to do.
        sharing: groups that found no device of their own, and take turns on that of another.
    """
    own = {place: place for place in waiting if place in idle}
    free = [host for host in idle if host not in waiting]
    guests = [place for place in waiting if place in sharing and place not in own]
    return own | dict(zip(guests, free, strict=False))
