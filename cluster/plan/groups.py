"""How the roles of a run train that begins now, and what a server that begins now takes of the cards.

Both by the plan for the cluster that this process has joined; where no card is real, or the plan finds no way, by the
number of cards alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from cluster.devices import Device, RayNode
from cluster.devices.probe import check_rig, facts_of, ray_nodes
from cluster.placement import Groups, place_roles
from cluster.plan.decision import CannotRun, plan_run
from cluster.plan.of_home import serving_of, wanted_of
from cluster.plan.search import Plan
from cluster.plan.serving import Lent, lend
from cluster.plan.wanted import ServingShare
from cluster.server import client
from cluster.settings import Settings
from ledger.errors import LunaError
from ledger.home import Home
from serving import app
from trainers.config import ShardedSettings, TrainSettings
from trainers.models.frozen import Base

logger = logging.getLogger(__name__)

_LET_GO_S = 20.0
"""How long a process that was ended may still hold its card's memory."""


def plan_here(
    home: Home, base: Base, settings: Settings, serving: ServingShare | None, were_trainers: bool
) -> Plan | CannotRun:
    """The plan for the cards that are free now.

    Args:
        serving: from :func:`share_of_server`.
        were_trainers: whether trainers have just been ended: what does not fit is looked at again until their memory
            has come back.

    Raises:
        LunaError: a node does not answer, or the base or the data cannot be read.
    """
    deadline = time.monotonic() + (_LET_GO_S if were_trainers else 0.0)
    while isinstance(found := _plan(home, base, settings, serving), CannotRun) and time.monotonic() < deadline:
        time.sleep(1.0)
    return found


def refuse_what_cannot_run(plan: Plan | CannotRun) -> None:
    """Refuse a run whose training surely does not fit.

    Raises:
        LunaError: names the missing bytes, and what would fit.
    """
    if isinstance(plan, CannotRun) and plan.is_sure:
        raise LunaError(f"the training does not fit this rig: {plan} Nothing was begun; `luna plan` shows the whole.")


def groups_of(plan: Plan | CannotRun, train: TrainSettings, gpus: float) -> Groups:
    """How a run trains by its plan. One that says it does not fit is told and not obeyed: a step may be cut smaller.

    Args:
        gpus: those that are left to trainers (:func:`gpus_for_trainers`), for a run without a plan.
    """
    if isinstance(plan, CannotRun):
        logger.warning("the plan: %s It is tried all the same.", plan)
        return Groups(place_roles(gpus))
    for group in plan.placements:
        logger.info("%s: %d x %g GPU", group.name, group.workers, group.gpus)
    sharded = None
    if (shards := plan.shards) is not None:
        logger.info("the base fits no card whole: it is laid out by the sharded engine, %s", shards.strategy)
        sharded = ShardedSettings(strategy=shards.strategy, offload_param=shards.offload_param)
    least = train.gradient_accumulation_steps
    cut = {seat.placement.name: seat.cut for seat in plan.seats if seat.cut > least}
    for name, parts in cut.items():
        logger.info("%s: memory needs a step cut in %d micro-batches", name, parts)
    return Groups(plan.placements, {name: ((0, parts),) for name, parts in cut.items()}, sharded)


def share_of_server(home: Home, settings: Settings) -> ServingShare | None:
    """What the server has of the cards, as one of its replicas says; while none says it, what it is to have where the
    home is one that is served; else None."""
    expected = serving_of(settings) if home.serving_file.exists() else None
    if app.running() is None:
        return expected
    try:
        told = client.state(home)
    except LunaError as error:
        logger.warning("the server does not say what it has of the cards: %s", error)
        return expected
    if "gpus" not in told:  # an earlier version's server, which asks for none
        return expected
    return ServingShare(told["replicas"], told["gpu_memory_utilization"], told["gpus"])


def gpus_for_trainers(nodes: Sequence[RayNode], serving: ServingShare | None) -> float:
    """Cards that are left to trainers beside a server. All of them where it leaves none: a trainer waits for one then,
    since what began on a card cannot go on without."""
    total = sum(node.gpus for node in nodes)
    if serving is None:
        return total
    try:
        left = lend(nodes, place_roles(total), serving).left
    except LunaError as error:  # `luna serve` refuses to begin so
        logger.warning("%s", error)
        return total
    return left if left > 0 else total


def lent_to_server(home: Home, base: Base, settings: Settings, nobody_trains: bool) -> Lent:
    """What each replica of a server that begins now asks for, and what trainers may have.

    Args:
        nobody_trains: whether all memory that is taken is a former server's or others'; else the plan knows nothing.

    Raises:
        LunaError: Ray and torch do not count the same cards on a node, a node does not answer, or the replicas would
            leave trainers nothing.
    """
    has_cards = any(node.torch_gpus for node in check_rig())
    nodes, serving = ray_nodes(), serving_of(settings)
    groups = place_roles(sum(node.gpus for node in nodes))
    if has_cards and nobody_trains:
        plan = _plan(home, base, settings, serving)
        if isinstance(plan, CannotRun):
            logger.warning("the plan: %s It is tried all the same.", plan)
        else:
            groups = plan.placements
    return lend(nodes, groups, serving)


def _plan(home: Home, base: Base, settings: Settings, serving: ServingShare | None) -> Plan | CannotRun:
    devices = [device for facts in facts_of(ray_nodes()) for device in facts.devices]
    if serving is not None and app.running() is not None:
        devices = counted_once(devices, serving)
    return plan_run(wanted_of(home, settings, base), devices, serving)


def counted_once(devices: Sequence[Device], serving: ServingShare) -> list[Device]:
    """The devices without what a server that runs holds of them: the plan takes its share off once more.

    It is taken to be on the cards with least free memory, replicas that have parts of a card on one.
    """
    cards = sorted((device for device in devices if device.share), key=lambda card: card.free_bytes)
    together = serving.replicas if serving.gpus is not None and serving.gpus < 1 else 1
    served, share = cards[: serving.replicas // together], serving.share * together
    return [
        replace(device, free_bytes=min(device.total_bytes, device.free_bytes + int(share * device.total_bytes)))
        if device in served
        else device
        for device in devices
    ]
