"""The groups of a run that begins now, by the plan for the cluster that this process has joined."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from cluster.devices import Device
from cluster.devices.probe import facts_of, ray_nodes
from cluster.placement import Placement, place_roles
from cluster.plan.decision import CannotRun, plan_run
from cluster.plan.of_home import serving_of, wanted_of
from cluster.plan.wanted import ServingShare
from cluster.settings import Settings
from ledger.home import Home
from serving import app
from trainers.models.frozen import Base

logger = logging.getLogger(__name__)


def planned_groups(home: Home, base: Base, settings: Settings) -> tuple[Placement, ...]:
    """Where the trio trains. A plan that says it does not fit is told and not obeyed: its model of memory was measured
    on few cards, and a step that does not fit is cut smaller.

    Raises:
        LunaError: a node does not answer.
    """
    nodes = ray_nodes()
    devices = [device for facts in facts_of(nodes) for device in facts.devices]
    serving = serving_of(settings) if home.serving_file.exists() else None
    if serving is not None and app.running() is not None:
        devices = counted_once(devices, serving)
    plan = plan_run(wanted_of(home, settings, base), devices, serving)
    if isinstance(plan, CannotRun):
        logger.warning("the plan: %s It is tried all the same.", plan)
        return place_roles(sum(node.gpus for node in nodes))
    for group in plan.placements:
        logger.info("%s: %d x %g GPU", group.name, group.workers, group.gpus)
    return plan.placements


def counted_once(devices: Sequence[Device], serving: ServingShare) -> list[Device]:
    """The devices without what a server that runs holds of them: the plan takes its share off once more.

    It is taken to be on the cards with least free memory.
    """
    cards = sorted((device for device in devices if device.share), key=lambda card: card.free_bytes)
    served = cards[: serving.replicas]
    return [
        replace(device, free_bytes=min(device.total_bytes, device.free_bytes + int(serving.share * device.total_bytes)))
        if device in served
        else device
        for device in devices
    ]
