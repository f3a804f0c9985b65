"""Whether Ray and torch count the same cards on every node, and what to do where they do not. Pure.

Ray lends cards to actors, torch computes on them. Where Ray counts more, a trainer that holds a card computes on the
CPU; where torch counts more, a trainer computes on a card that nobody has lent to it, and the others lie idle. Neither
fails by itself, so both are refused before a run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from cluster.devices.records import NodeFacts, RayNode
from ledger.errors import LunaError

SIMULATED = "LUNA_SIMULATED_GPUS"
"""Environment variable: 1 lets Ray count GPUs where torch sees none. Trainers then hold them and compute on the CPU."""

_AMD_BY_RAY = "Ray counts AMD cards only through the package amdsmi, which is not installed"
_BOTH_HIDE = (
    "HIP_VISIBLE_DEVICES is set on {host}, and Ray without amdsmi lends cards by CUDA_VISIBLE_DEVICES, which HIP does "
    "not read then: every trainer would take the same card. Unset HIP_VISIBLE_DEVICES before Ray starts there, or "
    "install amdsmi"
)


def check_devices(nodes: Sequence[RayNode], facts: Sequence[NodeFacts], simulated: bool) -> None:
    """Refuse a rig whose nodes are not what Ray takes them for.

    Raises:
        LunaError: names each node, both numbers, and the remedy.
    """
    if found := disagreements(nodes, facts, simulated):
        raise LunaError(f"{'; '.join(found)}. `luna doctor` shows what each of them sees.")


def disagreements(nodes: Iterable[RayNode], facts: Iterable[NodeFacts], simulated: bool) -> list[str]:
    """A clause for each node on which Ray and torch differ, with both numbers and the remedy; nodes without facts are
    not judged."""
    by_node = {own.node: own for own in facts}
    found = [_disagreement(node, by_node[node.node], simulated) for node in nodes if node.node in by_node]
    return [clause for clause in found if clause]


def _disagreement(node: RayNode, facts: NodeFacts, simulated: bool) -> str:
    """A part of a card counts as one: of a card that Ray may lend by half torch sees the whole."""
    by_ray, by_torch = math.ceil(node.gpus), facts.torch_gpus
    if by_ray == by_torch:
        clash = (
            by_torch > 1 and facts.kind == "rocm" and not facts.has_amdsmi and "HIP_VISIBLE_DEVICES" in facts.visible
        )
        return _BOTH_HIDE.format(host=node.host) if clash else ""
    if simulated and by_torch == 0:
        return ""
    counts = f"Ray counts {node.gpus:g} GPU{'s' * (node.gpus != 1)} on {node.host}, torch sees {by_torch}"
    return f"{counts}: {_remedy(by_ray, facts)}"


def _remedy(by_ray: int, facts: NodeFacts) -> str:
    again = f"start Ray there with `--num-gpus={facts.torch_gpus}`"
    hidden = ", ".join(f"{name}={value}" for name, value in sorted(facts.visible.items()))
    if facts.torch_gpus == 0:
        if not facts.toolkit:
            return (
                f"torch {facts.torch} is a build for CPUs. Install the one for this card (`make setup` chooses it), or "
                f"start Ray with `--num-gpus=0`; to try many GPUs out without any, set {SIMULATED}=1"
            )
        if hidden:
            return f"{hidden} hides the cards from torch; unset it, or start Ray with `--num-gpus=0`"
        driver = f"driver {facts.driver}" if facts.driver else "no driver that answers"
        return (
            f"torch {facts.torch} is built for {facts.toolkit} and finds no card it can use ({driver}). Update the "
            f"driver, look at {'`rocminfo`' if facts.kind == 'rocm' else '`nvidia-smi`'}, or start Ray with "
            "`--num-gpus=0`"
        )
    if by_ray > facts.torch_gpus:
        return f"{again}{f' ({hidden} hides the others from torch)' if hidden else ''}"
    why = f"{_AMD_BY_RAY}; " if facts.kind == "rocm" and not facts.has_amdsmi else ""
    fewer = "CUDA_VISIBLE_DEVICES" if facts.kind == "cuda" else "HIP_VISIBLE_DEVICES"
    leave = f", or hide what it should leave alone by {fewer} before it starts" if by_ray else ""
    return f"{why}{again}{leave}"
