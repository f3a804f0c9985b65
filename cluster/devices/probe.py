"""Asking torch, the driver and Ray for their devices: the one place here that looks at the machine.

Memory and names of cards are asked in a process of its own (`python -m cluster.devices.probe`), since a process that
asked keeps a context of some hundred MiB on every card; the mere count needs none.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import socket
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

from cluster.devices.agreement import SIMULATED, check_devices
from cluster.devices.records import CPU, Device, NodeFacts, RayNode
from ledger.errors import LunaError
from trainers import driver as drivers

_ANSWER_S = 120
"""Importing torch for the first time takes half a minute on a slow disk."""

_known: dict[tuple[RayNode, bool], NodeFacts] = {}
"""Counts by node, of this process: a node's cards stay what they are as long as it lives."""


def simulated() -> bool:
    """Whether GPUs that Ray counts may be mere numbers (:data:`SIMULATED`)."""
    return os.environ.get(SIMULATED, "") not in ("", "0")


def check_rig() -> list[NodeFacts]:
    """Refuse the cluster that this process has joined if Ray and torch do not count the same cards on each node.

    Returns the counts of each node, which is asked once in the life of this process.

    Raises:
        LunaError: they differ, or a node does not answer.
    """
    nodes = ray_nodes()
    asked = simulated()
    for node in nodes:
        if (node, asked) not in _known:
            _known[node, asked] = next(iter(facts_of([node], whole=False)))
    found = [_known[node, asked] for node in nodes]
    check_devices(nodes, found, asked)
    return found


def ray_nodes() -> list[RayNode]:
    """The living nodes of the cluster that this process has joined."""
    import ray

    return [
        RayNode(node["NodeID"], str(node["NodeManagerHostname"]), float(node["Resources"].get("GPU", 0.0)))
        for node in ray.nodes()
        if node["Alive"]
    ]


def facts_of(nodes: Iterable[RayNode], whole: bool = True) -> list[NodeFacts]:
    """What torch and the driver say on each node, by a task of Ray there; on the node of this process by itself.

    Args:
        whole: name, memory and capability of each device as well.

    Raises:
        LunaError: a node does not answer.
    """
    import ray
    from ray.exceptions import GetTimeoutError, RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here, found = ray.get_runtime_context().get_node_id(), []
    asked = ray.remote(look_apart if whole else counts)
    pending = [
        (node, None if node.node == here else asked.options(
            num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node.node, soft=False)
        ).remote(node.node, node.host))
        for node in nodes
    ]  # fmt: skip
    for node, reference in pending:
        try:
            facts = _here(node, whole) if reference is None else ray.get(reference, timeout=_ANSWER_S)
        except (GetTimeoutError, RayError) as error:
            raise LunaError(
                f"the node {node.host} does not say which devices it has ({type(error).__name__}); look at it in the "
                "Ray dashboard, or take it out of the cluster."
            ) from error
        found.append(facts)
    return [_as_ray_lends(facts, node) for facts, (node, _) in zip(found, pending, strict=True)]


def _here(node: RayNode, whole: bool) -> NodeFacts:
    return (look_apart if whole else counts)(node.node, node.host)


def _as_ray_lends(facts: NodeFacts, node: RayNode) -> NodeFacts:
    """The facts with each card's share, as far as Ray's number reaches; simulated GPUs become devices of the CPU."""
    cpus, cards = [[d for d in facts.devices if (d.kind == CPU) == is_cpu] for is_cpu in (True, False)]
    if not cards and cpus and node.gpus and simulated():
        cards = [dataclasses.replace(cpus[0], index=at, name="simulated GPU") for at in range(math.ceil(node.gpus))]
    left, lent = node.gpus, []
    for card in cards:
        if left <= 0:
            break
        lent.append(dataclasses.replace(card, share=min(1.0, left)))
        left -= 1.0
    return dataclasses.replace(facts, devices=(*cpus, *lent))


def facts_here() -> NodeFacts:
    """What this machine has, where no Ray runs: its cards count as whole ones."""
    host = socket.gethostname()
    return look_apart(host, host)


def counts(node: str, host: str) -> NodeFacts:
    """The counts of this machine."""
    import torch

    is_amd = torch.version.hip is not None
    toolkit = f"HIP {torch.version.hip}" if is_amd else f"CUDA {torch.version.cuda}" if torch.version.cuda else ""
    listed, driver = drivers.amd() if is_amd else drivers.nvidia()
    if not toolkit and not listed:
        listed, driver = drivers.amd()
    return NodeFacts(
        node=node,
        host=host,
        torch=torch.__version__,
        torch_gpus=torch.cuda.device_count() if toolkit else 0,
        toolkit=toolkit,
        driver=driver,
        driver_gpus=listed,
        visible=drivers.hiding_variables(),
        has_amdsmi=drivers.has_amdsmi(),
    )


def look(node: str, host: str) -> NodeFacts:
    """All that there is to know of this machine's devices; leaves a context on each card until this process ends."""
    facts = counts(node, host)
    cards = tuple(_card(node, index, facts) for index in range(facts.torch_gpus))
    return dataclasses.replace(facts, devices=(cpu(node), *cards))


def _card(node: str, index: int, facts: NodeFacts) -> Device:
    import torch

    properties = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    is_amd = facts.kind == "rocm"
    capability = properties.gcnArchName.partition(":")[0] if is_amd else f"{properties.major}.{properties.minor}"
    return Device(node, index, facts.kind, properties.name, capability, total, free)


def cpu(node: str) -> Device:
    """The CPU of this machine."""
    import psutil

    from trainers.runtime import usable_cores

    memory = psutil.virtual_memory()
    return Device(node, 0, CPU, "CPU", str(usable_cores()), memory.total, memory.available, share=0.0)


def look_apart(node: str, host: str) -> NodeFacts:
    """What :func:`look` finds, in a process that is gone afterwards.

    Raises:
        LunaError: torch cannot be imported there, or the driver hangs.
    """
    path = os.pathsep.join(entry for entry in sys.path if entry)
    command = [sys.executable, "-m", "cluster.devices.probe", node, host]
    try:
        environment = {**os.environ, "PYTHONPATH": path}
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=_ANSWER_S, env=environment
        )  # fmt: skip
        return _facts_from(json.loads(done.stdout.splitlines()[-1]))
    except subprocess.CalledProcessError as error:
        said = (error.stderr.strip().splitlines() or ["nothing"])[-1]
        raise LunaError(f"torch cannot look at the devices of {host}: {said}") from error
    except (subprocess.TimeoutExpired, ValueError, IndexError) as error:
        raise LunaError(
            f"torch did not say which devices {host} has within {_ANSWER_S} s; perhaps its driver hangs "
            "(`nvidia-smi` and `rocminfo` would then too)."
        ) from error


def _facts_from(plain: dict[str, Any]) -> NodeFacts:
    devices = tuple(Device(**device) for device in plain.pop("devices"))
    return NodeFacts(**plain, devices=devices)


if __name__ == "__main__":
    print(json.dumps(dataclasses.asdict(look(*sys.argv[1:3]))))
