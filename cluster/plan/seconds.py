"""Seconds of a step on a device, term by term: launches, products, bytes moved, and what workers send each other.

Constants are from one H200 (`bench/results/gpu.md`, of 2026-11-27) and scaled to other cards by their data sheets; the
CPU's are from two cores (`trainers/runtime.py`). A plan compares ways to train with them; on another card they are
estimates.
"""

from __future__ import annotations

from cluster.devices import CPU, Device
from cluster.plan.cards import SLOWEST, card_of
from cluster.plan.memory import Way, base_bytes
from cluster.plan.shape import BaseShape
from cluster.plan.wanted import RoleRows, Wanted

GRAPH_KERNELS_A_LAYER, KERNEL_S = 46, 3.4e-6
"""1,126 kernels a step of 24 layers, and what is left for each of a step of 8.02 ms once its products and bytes are
taken off."""

PLAIN_LAUNCHES_A_LAYER, LAUNCHES_A_ROLE, LAUNCH_S = 150, 36, 28e-6
"""6,201 launches a step of 24 layers and 3 roles, which took 174 ms: the host's speed, not the card's."""

GRAPH_PRODUCTS, PLAIN_PRODUCTS = 0.37, 0.15
"""Share of the data sheet's products that further tokens are computed at: between 8 and 64 rows a role a step grew by
19.8 ms for 7.2 TFLOP, and part by part by 55 ms."""

COPIES = 0.86
"""Share of the data sheet's bandwidth: 4.15 of 4.8 TB/s."""

CPU_PRODUCTS = 80e9
"""Products a second of a core in float32 (`trainers/runtime.py`, an AVX2 machine); what else a step does is in the
share that is left."""
CPU_SHARE = 0.6

LINK_BYTES_PER_S = 11e9
"""Between cards of a node without NVLink. From the bandwidth of PCIe 4 x8 without peer access; not measured."""

START_S = 12.0
"""A trainer's process, its imports and the base; trainers are started one after another."""

GROUP_START_S = 15.0
"""What Ray Train adds where several workers make a trainer: placement, processes, a process group. Not measured."""


def step_seconds(
    wanted: Wanted, roles: tuple[RoleRows, ...], device: Device, parts: int, split: tuple[int, float] = (1, 1.0)
) -> float:
    """Of a step of these roles in so many parts.

    Args:
        split: devices like this one that share the step's rows, and what share in (0, 1] of each computes for it.
    """
    way, (workers, share) = Way.on(device, wanted), split
    work = flops(wanted.shape, wanted.rank, roles, wanted.gradient_checkpointing) / workers
    if device.kind == CPU:
        cores = int(device.capability) if device.capability.isdigit() else 1
        return work / (CPU_PRODUCTS * CPU_SHARE * cores) / share
    card = card_of(device.name) or SLOWEST
    moved = bytes_moved(wanted, len(roles), way, parts) / (card.tb_per_s * 1e12 * COPIES)
    products = card.tflops * 1e12 * (2 / way.element) * (GRAPH_PRODUCTS if way.graphs else PLAIN_PRODUCTS)
    return (launching(wanted.shape, len(roles), way, parts) + work / products + moved) / share + sending(
        wanted, len(roles), workers
    )


def flops(shape: BaseShape, rank: int, roles: tuple[RoleRows, ...], again: bool = False) -> float:
    """Floating-point operations of a step, forward and backward over a frozen base with LoRA (as `bench.gpu.flops`).

    4 P + 6 R a token, 4 D V a scored position, 12 L H d a (query, key) pair; a pair of preferences is two more rows.

    Args:
        again: each layer's forward is computed once more in its backward.
    """
    a_token = 4 * shape.linear_parameters + 6 * shape.adapter_parameters(rank)
    a_pair = 12 * shape.layers * shape.heads * shape.head_width
    a_token += 2 * shape.linear_parameters * again
    total = 0.0
    for own in roles:
        rest, rows = own.tokens - own.shared, own.rows + 2 * own.pairs
        tokens = own.shared + rows * rest
        seen = own.shared * (own.shared + 1) / 2 + rows * (rest * own.shared + rest * (rest + 1) / 2)
        total += tokens * a_token + rows * own.answer * 4 * shape.width * shape.vocabulary + seen * a_pair
    return total


def bytes_moved(wanted: Wanted, roles: int, way: Way, parts: int) -> float:
    """The base twice a part; adapters twice and their gradient once a part, then clip, AdamW and rounding once."""
    shape = wanted.shape
    adapter = shape.adapter_parameters(wanted.rank)
    copies = (adapter + shape.diagonal_parameters(wanted.rank)) * way.element
    a_part = 2 * base_bytes(wanted, way.element) + roles * (2 * copies + 4 * adapter)
    return parts * a_part + roles * (32 * adapter + copies)


def launching(shape: BaseShape, roles: int, way: Way, parts: int) -> float:
    """Seconds that go by with launches, whatever they compute."""
    if way.graphs:
        return parts * shape.layers * GRAPH_KERNELS_A_LAYER * KERNEL_S
    return parts * shape.layers * (PLAIN_LAUNCHES_A_LAYER + LAUNCHES_A_ROLE * roles) * LAUNCH_S


def sending(wanted: Wanted, roles: int, workers: int) -> float:
    """Seconds of a ring's all-reduce of the float32 gradients; a base in shards is gathered twice on top."""
    if workers == 1:
        return 0.0
    gradient = 4 * wanted.shape.adapter_parameters(wanted.rank) * roles
    sharded = wanted.engine == "sharded" and wanted.strategy in ("zero3", "fsdp2")
    gathered = 2 * wanted.shape.parameters * 2 if sharded else 0
    return (2 * gradient + gathered) * (workers - 1) / workers / LINK_BYTES_PER_S


def start_seconds(placements: int, workers: int) -> float:
    """From nothing to the first step."""
    return placements * START_S + (GROUP_START_S if workers > 1 else 0.0)
