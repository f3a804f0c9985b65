"""The fastest way to train a trio on the devices there are. Pure.

Tried are all groupings of the roles, each group on a card of its own or, alike for all groups, on several equal cards
of one node, with serving on cards of its own or beside a trainer. What takes the fewest seconds by `seconds` is taken,
of equal ones that with the fewest cards for trainers: one card is the answer where a second trainer's start costs more
than it saves.

Groups that take a card each are placed in every order, each on the card that suits it best of those left. That misses
nothing: whatever cannot be bettered for one group without harm to another comes out of one of the orders
(Abdulkadiroglu and Sonmez, 1998, on serial dictatorship).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from cluster.devices import CPU, Device
from cluster.placement import Placement
from cluster.plan.memory import Way, host_bytes
from cluster.plan.seating import Room, Seat, seat
from cluster.plan.seconds import start_seconds
from cluster.plan.serving import Served, with_serving
from cluster.plan.wanted import RoleRows, ServingShare, Shards, Wanted
from ledger.roles import ROLES, Role

GROUPINGS: tuple[tuple[tuple[Role, ...], ...], ...] = (
    (ROLES,),
    (("creative", "logical"), ("dialectical",)),
    (("creative", "dialectical"), ("logical",)),
    (("logical", "dialectical"), ("creative",)),
    (("creative",), ("logical",), ("dialectical",)),
)
"""All ways to group the roles; of equally fast ones the first."""


@dataclass(frozen=True)
class Plan:
    """Where everything goes, and what it takes."""

    seats: tuple[Seat, ...]
    serving: tuple[Served, ...]
    idle: tuple[Device, ...]
    """Cards that nothing was given: they would not make it faster."""
    parts: int
    """Parts of a step that memory needs on the narrowest device, at least the settings'."""
    step_seconds: float
    seconds: float
    """From nothing to the last step; of one step where the number of steps is not known."""
    shards: Shards | None = None
    """How the sharded engine lays the base out, where nothing else fits and the settings leave the engine open."""

    @property
    def placements(self) -> tuple[Placement, ...]:
        return tuple(own.placement for own in self.seats)


def fastest(wanted: Wanted, devices: Sequence[Device], serving: ServingShare | None) -> Plan | None:
    """The plan of fewest seconds; None if there is none."""
    cards = [device for device in devices if device.share > 0]
    if not cards:
        return _on_cpu(wanted, [device for device in devices if device.kind == CPU])
    memory = {device.node: device.free_bytes for device in devices if device.kind == CPU and not device.share}
    known = Known(wanted)
    plans = (
        _plan(seats, served, cards)
        for rooms, served in with_serving(wanted, cards, serving)
        for seats in _seatings(known, rooms, memory)
    )
    # The order of what is tried decides last, so that equal rigs get equal plans.
    best: tuple[float, int, int] | None = None
    found: Plan | None = None
    steps = max(own.steps for own in wanted.roles)
    for plan in plans:
        plan = _timed(plan, wanted, steps)
        # Of equal ones that with the fewest cards for trainers, then that with the most for replicas.
        key = plan.seconds, sum(own.placement.workers for own in plan.seats), -len(plan.serving)
        if best is None or key < best:
            best, found = key, plan
    return found


def _plan(seats: tuple[Seat, ...], served: tuple[Served, ...], cards: Sequence[Device]) -> Plan:
    taken = {device for own in seats for device in own.devices} | {own.device for own in served}
    idle = tuple(card for card in cards if card not in taken)
    return Plan(seats, served, idle, max(own.parts for own in seats), max(own.step_seconds for own in seats), 0.0)


def _timed(plan: Plan, wanted: Wanted, steps: int) -> Plan:
    if not steps:
        return replace(plan, seconds=plan.step_seconds)
    by_role = {own.role: own.steps for own in wanted.roles}
    training = max(own.step_seconds * max(by_role[role] for role in own.placement.roles) for own in plan.seats)
    starting = start_seconds(len(plan.seats), max(own.placement.workers for own in plan.seats))
    return replace(plan, seconds=starting + training)


def _on_cpu(wanted: Wanted, cpus: Sequence[Device]) -> Plan | None:
    """The trio in one process on the CPU with most memory."""
    if not cpus:
        return None
    device = max(cpus, key=lambda cpu: cpu.free_bytes)
    own = seat(wanted, wanted.roles, (Room(device, 0.0, device.free_bytes),))
    if own is None:
        return None
    return _timed(_plan((own,), (), ()), wanted, max(one.steps for one in wanted.roles))


# -- who sits where --------------------------------------------------------------------------------------------------
class Known:
    """Seats that were reckoned already: of rooms that are alike in all but their place only once."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self._seats: dict[tuple[tuple[RoleRows, ...], tuple[Room, ...]], Seat | None] = {}

    def seat(self, roles: tuple[RoleRows, ...], rooms: tuple[Room, ...]) -> Seat | None:
        """See :func:`cluster.plan.seating.seat`."""
        key = roles, tuple(map(anywhere, rooms))
        if key not in self._seats:
            self._seats[key] = seat(self.wanted, roles, rooms)
        own = self._seats[key]
        return own and replace(own, devices=tuple(room.device for room in rooms))


def anywhere(room: Room) -> Room:
    """The room without its place."""
    return replace(room, device=replace(room.device, node="", index=0))


def _seatings(known: Known, rooms: Sequence[Room], memory: dict[str, int]) -> Iterator[tuple[Seat, ...]]:
    """All that could be best."""
    wanted = known.wanted
    by_role = {own.role: own for own in wanted.roles}
    groupings = [[tuple(by_role[role] for role in group) for group in groups] for groups in GROUPINGS]

    if wanted.engine == "sharded":  # one process group trains all roles, one after another
        for pool in _pools(rooms):
            held = host_bytes(wanted, Way.on(pool[0].device, wanted).element)
            if held > memory.get(pool[0].device.node, held):
                continue
            for workers in range(1, len(pool) + 1):
                if own := known.seat(wanted.roles, tuple(pool[:workers])):
                    yield (own,)
        return
    for groups in groupings:
        if len(groups) <= len(rooms):
            yield from _one_each(groups, rooms, known)
        if wanted.engine == "fused":
            yield from _several_each(groups, rooms, known)


def _one_each(
    groups: Sequence[tuple[RoleRows, ...]], rooms: Sequence[Room], known: Known
) -> Iterator[tuple[Seat, ...]]:
    """Each group on a card of its own, in every order of choosing."""
    liked = {roles: _liked(roles, rooms, known)[: len(groups)] for roles in groups}
    for order in itertools.permutations(groups):
        taken: dict[tuple[RoleRows, ...], Seat] = {}
        for roles in order:
            used = {own.devices for own in taken.values()}
            first = next((own for own in liked[roles] if own.devices not in used), None)
            if first is None:
                break
            taken[roles] = first
        else:
            yield tuple(taken[roles] for roles in groups)


def _liked(roles: tuple[RoleRows, ...], rooms: Sequence[Room], known: Known) -> list[Seat]:
    """A group's seats, the fastest first, of equal ones that with the least memory."""
    fits = [(own, room) for room in rooms if (own := known.seat(roles, (room,)))]
    fits.sort(key=lambda one: (one[0].step_seconds, one[1].bytes, one[1].device.node, one[1].device.index))
    return [own for own, _ in fits]


def _several_each(
    groups: Sequence[tuple[RoleRows, ...]], rooms: Sequence[Room], known: Known
) -> Iterator[tuple[Seat, ...]]:
    """As many equal cards of a node for each group, those with most memory."""
    for pool in {tuple(map(anywhere, pool)): pool for pool in reversed(_pools(rooms))}.values():
        for workers in range(2, len(pool) // len(groups) + 1):
            own = [known.seat(roles, tuple(pool[at * workers : (at + 1) * workers])) for at, roles in enumerate(groups)]
            if all(own):
                yield tuple(one for one in own if one)


def _pools(rooms: Sequence[Room]) -> list[list[Room]]:
    """Whole rooms on equal cards of one node, those with most memory first."""

    def alike(room: Room) -> tuple[str, str, str, int]:
        return room.device.node, room.device.name, room.device.capability, room.device.total_bytes

    whole = sorted((room for room in rooms if room.gpus == 1.0), key=lambda room: (alike(room), -room.bytes))
    return [list(own) for _, own in itertools.groupby(whole, alike)]
