"""The groups of a run that begins now, and what a server that begins now takes of the cards.

Both by the plan for the cluster that this process has joined; where no card is real, or the plan finds no way, by the
number of cards alone.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from cluster.devices import Device, RayNode
from cluster.devices.probe import check_rig, facts_of, ray_nodes
from cluster.placement import Placement, place_roles
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
from trainers.models.frozen import Base

logger = logging.getLogger(__name__)


def planned_groups(home: Home, base: Base, settings: Settings, serving: ServingShare | None) -> tuple[Placement, ...]:
    """Where the trio trains. A plan that says it does not fit is told and not obeyed: its model of memory was measured
    on few cards, and a step that does not fit is cut smaller.

    Args:
        serving: from :func:`share_of_server`.

    Raises:
        LunaError: a node does not answer.
    """
    plan = _plan(home, base, settings, serving)
    if isinstance(plan, CannotRun):
        logger.warning("the plan: %s It is tried all the same.", plan)
        return place_roles(gpus_for_trainers(ray_nodes(), serving))
    for group in plan.placements:
        logger.info("%s: %d x %g GPU", group.name, group.workers, group.gpus)
    return plan.placements


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
