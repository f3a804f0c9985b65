"""One group of roles on given devices: whether it fits, in how many parts a step, and how long a step takes. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cluster.devices import Device
from cluster.placement import Placement
from cluster.plan.memory import Footprint, footprint, parts_taken
from cluster.plan.seconds import step_seconds
from cluster.plan.wanted import RoleRows, Wanted

MARGIN = 0.15
"""Of states and logits, kept free: what the model of memory may be wrong by."""


@dataclass(frozen=True)
class Room:
    """What a trainer may take of a device."""

    device: Device
    gpus: float
    """What it asks Ray for; 0 on a CPU."""
    bytes: int


@dataclass(frozen=True)
class Seat:
    """A group of roles in its place."""

    placement: Placement
    devices: tuple[Device, ...]
    """One for each worker."""
    footprint: Footprint
    """Of each worker."""
    parts: int
    """Micro-batches that memory needs a step to be cut in at most, at least the settings'."""
    cut: int
    """Micro-batches of a step of the longest rows: the graph step takes no more than it needs."""
    step_seconds: float


def seat(wanted: Wanted, roles: tuple[RoleRows, ...], rooms: tuple[Room, ...]) -> Seat | None:
    """The group in these rooms, a worker in each, with as few parts as fit; None if it fits in no number of parts."""
    workers, smallest = len(rooms), min(rooms, key=lambda room: room.bytes)
    if workers > 1 and min(own.rows for own in roles) < workers:
        return None
    for parts in part_counts(wanted, roles, workers):
        own = footprint(wanted, roles, smallest.device, (parts, workers))
        if needed_bytes(own) <= smallest.bytes:
            return Seat(
                Placement(tuple(one.role for one in roles), smallest.gpus, workers),
                tuple(room.device for room in rooms),
                own,
                parts,
                max(parts_taken(wanted, roles, room.device, (parts, workers)) for room in rooms),
                max(_seconds(wanted, roles, room, parts, workers) for room in rooms),
            )
    return None


def needed_bytes(own: Footprint) -> int:
    """What there must be for it."""
    return own.total + int(MARGIN * (own.states + own.logits))


def least_bytes(wanted: Wanted, roles: tuple[RoleRows, ...], room: Room) -> int:
    """What it needs there at least, in as many parts as there can be."""
    *_, most = part_counts(wanted, roles, 1)
    return needed_bytes(footprint(wanted, roles, room.device, (most, 1)))


def part_counts(wanted: Wanted, roles: tuple[RoleRows, ...], workers: int) -> Iterator[int]:
    """From the settings' number of parts on, doubled up to a row a part; the trl engine cuts in equal parts alone."""
    most = max(1, -(-max(own.rows for own in roles) // workers))
    parts = wanted.parts
    yield parts
    while parts < most:
        parts = min(2 * parts, most)
        if wanted.engine != "trl" or all(own.rows % parts == 0 for own in roles):
            yield parts


def _seconds(wanted: Wanted, roles: tuple[RoleRows, ...], room: Room, parts: int, workers: int) -> float:
    taken = parts_taken(wanted, roles, room.device, (parts, workers))
    share = min(1.0, room.gpus) if room.gpus else 1.0
    return step_seconds(wanted, roles, room.device, taken, (workers, share))
