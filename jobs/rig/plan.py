"""The plan of a home's next generation on the devices there are."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table

from cluster.devices import Device, NodeFacts
from cluster.plan import CannotRun, Plan, Wanted, plan_run
from cluster.plan.cards import card_of
from cluster.plan.of_home import serving_of, wanted_of
from cluster.plan.seating import Seat, needed_bytes
from cluster.settings import settings_of
from ledger.home import Home
from trainers.models.frozen import prepare_base

_GIB = 1 << 30

_COLUMNS = ("where", "GPUs", "base", "adapters", "states", "other", "GiB of", "parts", "ms/step")


@dataclass(frozen=True)
class PlanOfHome:
    """What was asked for, what there is, and what comes of it."""

    wanted: Wanted
    hosts: dict[str, str]
    """Name of the machine of each node."""
    devices: tuple[Device, ...]
    plan: Plan | CannotRun

    @property
    def fits(self) -> bool:
        return isinstance(self.plan, Plan)


def plan_of_home(home: Home, serve: bool) -> PlanOfHome:
    """The plan for the cluster that runs, or for this machine where none does. Nothing is started.

    Raises:
        LunaError: there is no home, its base cannot be had, or a node does not answer.
    """
    settings = settings_of(home)
    wanted = wanted_of(home, settings, prepare_base(settings.base, home))
    nodes = facts_now()
    devices = tuple(device for node in nodes for device in node.devices)
    plan = plan_run(wanted, devices, serving_of(settings) if serve else None)
    return PlanOfHome(wanted, {node.node: node.host for node in nodes}, devices, plan)


def facts_now() -> list[NodeFacts]:
    """What each node of the running cluster has, or this machine where none runs."""
    from cluster.devices.probe import facts_here, facts_of, ray_nodes
    from cluster.ray_head import join_running

    return facts_of(ray_nodes()) if join_running() else [facts_here()]


def plain(planned: PlanOfHome) -> dict[str, Any]:
    """The plan as JSON has it."""
    return {"fits": planned.fits, "devices": [asdict(device) for device in planned.devices], **asdict(planned.plan)}


def print_plan(planned: PlanOfHome, out: Console) -> None:
    """Tables of the trainers and of what is left, or why it does not fit."""
    wanted, plan = planned.wanted, planned.plan
    for line in _asked(wanted):
        out.print(line, markup=False, soft_wrap=True)
    if isinstance(plan, CannotRun):
        out.print(f"[red]it does not fit:[/] {plan.reason}", soft_wrap=True)
        for option in plan.would_fit:
            out.print(f"  would fit: {option}", markup=False, soft_wrap=True)
        return
    table = Table(Column("roles", no_wrap=True), *_COLUMNS, box=SIMPLE, pad_edge=False)
    for seat in plan.seats:
        table.add_row(*_row(seat, planned))
    out.print(table)
    for served in plan.serving:
        out.print(
            f"serving: {served.replicas} x {served.gpus:g} GPU, {served.bytes / _GIB:.1f} GiB, on "
            f"{_where(served.device, planned)}",
            soft_wrap=True,
        )
    if plan.idle:
        idle = ", ".join(_where(device, planned) for device in plan.idle)
        out.print(f"not used, since nothing would be faster with it: {idle}", soft_wrap=True)
    for line in _told(plan, wanted):
        out.print(line, markup=False, soft_wrap=True)


def _asked(wanted: Wanted) -> list[str]:
    shape = wanted.shape
    size = f"{shape.parameters / 1e6:.0f} M parameters, {shape.layers} layers"
    lines = [f"base of {size}, LoRA of rank {wanted.rank}, engine {wanted.engine}"]
    for own in wanted.roles:
        steps = f"{own.steps} steps of" if own.steps else "steps of"
        lines.append(
            f"{own.role}: {steps} {own.rows} rows, {own.tokens:.0f} tokens on average and {own.longest:g} at most, "
            f"{own.shared} shared"
        )
    return lines


def _row(seat: Seat, planned: PlanOfHome) -> list[str]:
    own, smallest = seat.footprint, min(seat.devices, key=lambda device: device.free_bytes)
    terms = (own.base, own.adapters, own.states + own.logits, own.process)
    gpus = (
        f"{seat.placement.workers} x {seat.placement.gpus:g}"
        if seat.placement.workers > 1
        else f"{seat.placement.gpus:g}"
    )
    return [
        seat.placement.name,
        ", ".join(_where(device, planned) for device in seat.devices),
        gpus,
        *(f"{term / _GIB:.2f}" for term in terms),
        f"{needed_bytes(own) / _GIB:.1f} of {smallest.free_bytes / _GIB:.1f}",
        str(seat.parts),
        f"{seat.step_seconds * 1e3:.1f}",
    ]


def _where(device: Device, planned: PlanOfHome) -> str:
    host = planned.hosts.get(device.node, device.node)
    many = len(set(planned.hosts.values())) > 1
    number = f" {device.index}" if device.share else ""
    return f"{f'{host}: ' if many else ''}{device.name}{number}"


def _told(plan: Plan, wanted: Wanted) -> list[str]:
    lines = []
    if plan.shards is not None:
        offloaded = ", in the machine's memory (offload_param)" * plan.shards.offload_param
        lines.append(
            f'the base fits no card whole, and [train] engine = "auto": a run takes the sharded engine, strategy '
            f'"{plan.shards.strategy}"{offloaded}'
        )
    if (cut := max(seat.cut for seat in plan.seats)) > wanted.parts:
        lines.append(
            f"memory needs steps cut in {cut} micro-batches instead of {wanted.parts}; a run does so by itself, "
            "and the gradient is the same"
        )
    unknown = sorted(
        {device.name for seat in plan.seats for device in seat.devices if device.share and not card_of(device.name)}
    )
    if unknown:
        lines.append(f"the speed of {', '.join(unknown)} is not known; the slowest card's that is was taken")
    if any(own.steps for own in wanted.roles):
        lines.append(f"about {plan.seconds:.0f} s from nothing to the last step, measuring not counted")
    else:
        lines.append(
            "no data waits in the inbox: rows count as long as they may be, and the number of steps is not known"
        )
    return lines
