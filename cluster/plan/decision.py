"""`plan_run`: a plan, or why there is none, by how much, and what would fit. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from cluster.devices import Device
from cluster.plan.memory import Way, base_bytes, footprint
from cluster.plan.search import GROUPINGS, Plan, fastest
from cluster.plan.seating import Room, least_bytes, part_counts
from cluster.plan.serving import SERVED_ROOM, room_on, with_serving
from cluster.plan.wanted import RoleRows, ServingShare, Wanted
from ledger.roles import Role

GIB = 1 << 30

DOUBT = 0.15
"""What the model of memory may reckon too much where it was measured: all peaks of `tests/cluster/test_plan_model.py`
lie within this of it. What is missing by less may fit, and a step that does not is cut smaller."""


@dataclass(frozen=True)
class CannotRun:
    """Why it cannot be trained, by how much, and what would fit."""

    reason: str
    missing_bytes: int
    would_fit: tuple[str, ...]
    is_sure: bool = False
    """Whether it does not fit by its own engine even if the model of memory reckons too much (:data:`DOUBT`): such a
    run is refused."""

    def __str__(self) -> str:
        fit = (
            f" What would fit: {'; '.join(self.would_fit)}." if self.would_fit else " Nothing that Luna has would fit."
        )
        return f"{self.reason}.{fit}"


def plan_run(wanted: Wanted, devices: Sequence[Device], serving: ServingShare | None = None) -> Plan | CannotRun:
    """The fastest plan for these devices, or why there is none.

    Args:
        devices: all that Ray may lend, the nodes' CPUs among them.
        serving: what the engine takes; None where nothing is served.
    """
    return (
        fastest(wanted, devices, serving) or _in_shards(wanted, devices, serving) or why_not(wanted, devices, serving)
    )


def _in_shards(wanted: Wanted, devices: Sequence[Device], serving: ServingShare | None) -> Plan | None:
    """By the sharded engine, as far as the settings leave that open. A CPU has no other memory to lay a base out on."""
    cards = [device for device in devices if device.share > 0]
    for shards in wanted.else_sharded if cards else ():
        if plan := fastest(wanted.on_shards(shards), devices, serving):
            return replace(plan, shards=shards)
    return None


def why_not(wanted: Wanted, devices: Sequence[Device], serving: ServingShare | None) -> CannotRun:
    """What is in the way of every plan."""
    cards = [device for device in devices if device.share > 0]
    if not devices:
        return CannotRun("there is no device to train on", 0, ("a node with a CPU or a GPU",))
    options = _options(wanted, devices, serving)
    if cards and serving is not None and not any(True for _ in with_serving(wanted, cards, serving)):
        return _no_room_for_serving(wanted, cards, serving, options)
    rooms = [room_on(device) for device in cards or devices]
    missing, need, room, roles = _closest(wanted, rooms)
    held = room.device.total_bytes - room.device.free_bytes
    others = f", others holding {held / GIB:.1f} of {room.device.total_bytes / GIB:.1f}" if held > GIB else ""
    return CannotRun(
        f"{'+'.join(own.role for own in roles)} needs {need / GIB:.1f} GiB on one device and {room.device.name} has "
        f"{room.bytes / GIB:.1f}{others}: {missing / GIB:.1f} GiB are missing",
        missing,
        options,
        bool(cards) and surely_not(wanted, rooms),
    )


def surely_not(wanted: Wanted, rooms: Sequence[Room]) -> bool:
    """Whether in each grouping there is a group that fits no card, even if the model of memory reckons too much."""
    by_role = {own.role: own for own in wanted.roles}
    workers = len(rooms) if wanted.engine == "sharded" else 1

    def fits(group: tuple[Role, ...]) -> bool:
        roles = tuple(by_role[role] for role in group)
        return any(surely_needed(wanted, roles, room, workers) <= room.bytes for room in rooms)

    return not any(all(map(fits, groups)) for groups in _groupings(wanted, rooms))


def _groupings(wanted: Wanted, rooms: Sequence[Room]) -> Iterator[tuple[tuple[Role, ...], ...]]:
    """Those that there are cards for; the sharded engine trains all roles together."""
    groupings = GROUPINGS[:1] if wanted.engine == "sharded" else GROUPINGS
    return (groups for groups in groupings if len(groups) <= len(rooms))


def surely_needed(wanted: Wanted, roles: tuple[RoleRows, ...], room: Room, workers: int = 1) -> int:
    """Bytes that a trainer takes at least, in as many parts as there can be: where the model of memory was measured,
    what it says less :data:`DOUBT`; elsewhere the weights of the base alone, which no card can do without."""
    *_, most = part_counts(wanted, roles, workers)
    own = footprint(wanted, roles, room.device, (most, workers))
    measured = wanted.engine == "fused" and wanted.base_bits == 16 and room.device.kind == "cuda"
    return int((1 - DOUBT) * own.total) if measured else own.base


def _no_room_for_serving(
    wanted: Wanted, cards: Sequence[Device], serving: ServingShare, options: tuple[str, ...]
) -> CannotRun:
    need = base_bytes(wanted, Way.on(cards[0], wanted).element) + SERVED_ROOM
    free = max(min(card.free_bytes, int(serving.share * card.total_bytes)) for card in cards)
    return CannotRun(
        f"no card has room for serving: {serving.replicas} x {serving.share:g} of a card must be free and hold "
        f"{need / GIB:.1f} GiB each, and the most is {free / GIB:.1f}",
        max(0, need - free),
        options,
    )


def _closest(wanted: Wanted, rooms: Sequence[Room]) -> tuple[int, int, Room, tuple[RoleRows, ...]]:
    """(missing bytes, needed bytes, room, roles) of the group that lacks most, in the grouping that lacks least."""
    by_role = {own.role: own for own in wanted.roles}
    widest = sorted(rooms, key=lambda room: -room.bytes)
    tries = []
    for groups in _groupings(wanted, rooms):
        lacks = []
        own = [tuple(by_role[role] for role in group) for group in groups]
        own.sort(key=lambda roles: -least_bytes(wanted, roles, widest[0]))
        for roles, room in zip(own, widest, strict=False):
            need = least_bytes(wanted, roles, room)
            lacks.append((need - room.bytes, need, room, roles))
        tries.append(max(lacks, key=lambda lack: lack[0]))
    return min(tries, key=lambda lack: lack[0])


def _options(wanted: Wanted, devices: Sequence[Device], serving: ServingShare | None) -> tuple[str, ...]:
    """What would fit on the same devices, one clause each."""

    def fits(other: Wanted, beside: ServingShare | None = serving, on: Sequence[Device] = devices) -> Plan | None:
        return fastest(other, on, beside)

    found = []
    if wanted.base_bits == 16 and wanted.engine != "sharded" and (plan := fits(replace(wanted, base_bits=4))):
        found.append(f'a base in 4 bits, [train] quantize = "nf4" ({_gib(plan)})')
    if not wanted.gradient_checkpointing and (plan := fits(replace(wanted, gradient_checkpointing=True))):
        found.append(f"[train] gradient_checkpointing = true ({_gib(plan)})")
    sharded = replace(wanted, engine="sharded", strategy="zero3", offload_param=False)
    if wanted.engine != "sharded" and (plan := fits(sharded)):
        found.append(f'ZeRO-3, [train] engine = "sharded" and [train.sharded] strategy = "zero3" ({_gib(plan)})')
    offloads = wanted.engine == "sharded" and wanted.offload_param
    if not offloads and (plan := fits(replace(sharded, offload_param=True))):
        found.append(f"ZeRO-3 with [train.sharded] offload_param = true as well ({_gib(plan)})")
    if batch := _first(_smaller_batches(wanted), fits):
        found.append(f"[train] batch_size = {max(own.rows for own in batch.roles)}")
    if shorter := _first(_shorter_rows(wanted), fits):
        found.append(f"[text] max_tokens = {max(own.longest for own in shorter.roles):g}")
    if serving is not None and fits(wanted, None):
        found.append("no server beside it")
    alone = [replace(device, free_bytes=device.total_bytes) for device in devices]
    if fits(wanted, serving, alone):
        found.append("the same, once other processes have let go of the memory that they hold")
    return tuple(found)


def _gib(plan: Plan) -> str:
    widest = max(own.footprint.total for own in plan.seats)
    cards = sum(own.placement.workers for own in plan.seats)
    return f"{widest / GIB:.1f} GiB on {'each of ' * (cards > 1)}{cards} device{'s' * (cards > 1)}"


def _first(others: Iterator[Wanted], fits: Callable[..., Plan | None]) -> Wanted | None:
    return next((other for other in others if fits(other)), None)


def _smaller_batches(wanted: Wanted) -> Iterator[Wanted]:
    """With the batch of every role halved, again and again."""
    rows = max(own.rows for own in wanted.roles)
    while rows > 1:
        rows //= 2
        yield replace(wanted, roles=tuple(replace(own, rows=min(own.rows, rows)) for own in wanted.roles))


def _shorter_rows(wanted: Wanted) -> Iterator[Wanted]:
    """With the longest row halved, down to what an average row has."""
    longest = max(own.longest for own in wanted.roles)
    average = max(own.tokens for own in wanted.roles)
    while longest // 2 >= max(16, average):
        longest //= 2
        yield replace(wanted, roles=tuple(replace(own, longest=min(own.longest, longest)) for own in wanted.roles))
