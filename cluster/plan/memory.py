"""Bytes that a trainer takes of a device, term by term.

D, I, q, k: widths of the model, of the gated layer, of all queries, of all keys; r: rank; R: roles; N: tokens of a part
with its padding; T: scored positions; e: bytes of an element.

Checked against what tensors held at most on an H200 (`bench/results/gpu.md`, "peak MiB"): within 15 %, in
`tests/cluster/test_plan_model.py`. Not measured: 4 bits, the sharded engine, the trl engine, AMD cards.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

from cluster.devices import CPU, Device
from cluster.plan.shape import BaseShape
from cluster.plan.wanted import RoleRows, Wanted

MIB = 1 << 20

CONTEXT = 1024 * MIB
"""A process's context on a card with torch's and Triton's kernels, and its allocator's unused blocks. An allowance, not
measured: some 500 MiB are usual for CUDA alone."""

PROCESS = 900 * MIB
"""A trainer's process on a CPU without weights: interpreter, torch, transformers, Ray."""

STREAMS = 33
"""torch keeps a workspace of cuBLAS for each stream that ever multiplied, and its pool has 32 of them beside the
default one. Each job of the graph step takes two further ones, so that a warm trainer comes to use all. Without it the
measured peaks of one process that had run many jobs are 1.0 to 1.1 GiB above the sum of all other terms."""

WORKSPACE_HOPPER, WORKSPACE = 32 * MIB, 8 * MIB + 128 * 1024
"""Of one stream: NVIDIA advises 32 MiB from Hopper on and 4 MiB before (cuBLAS, `cublasSetWorkspace`); torch takes
8.1 MiB before."""

ROOM = 1 / 8
"""Share of a card that the graph step gives one part's states, cutting the step further if it may."""

PLAIN = 1.55
"""What autograd keeps of a token, over what the graph step's own backward keeps: fits the four measured sizes."""

REFERENCE = 1.85
"""The same of PEFT under transformers' forward, by the PEFT loops of `bench/results/gpu.md`."""

FOUR_BITS = 0.5 + 4 / 64
"""Bytes of a weight in NF4 with a float32 scale for every 64 (QLoRA, arXiv 2305.14314, section 3)."""

_SLICE, _SLICE_CPU = 16_384, 2048
"""Tokens of the vocabulary at a time, as `trainers.lean.logprobs` goes through it."""


@dataclass(frozen=True)
class Footprint:
    """Bytes of one trainer."""

    base: int
    adapters: int
    """Masters, gradients, both Adam moments, and the copies that products use."""
    states: int
    """What a part's forward keeps for its backward, and what a layer's backward needs beside it."""
    logits: int
    process: int
    """Context and workspaces."""

    @property
    def total(self) -> int:
        return sum(getattr(self, own.name) for own in fields(self))


@dataclass(frozen=True)
class Way:
    """How a device computes a step."""

    graphs: bool
    """By segments and CUDA graphs; else operation by operation."""
    element: int
    """Bytes of a number in products."""

    @classmethod
    def on(cls, device: Device, wanted: Wanted) -> Way:
        """What a trainer chooses on this device, by the rules of `trainers.runtime` and `trainers.fused.graph`."""
        from trainers.fused.graph import graphs_fit

        version = _capability(device)
        native = device.kind == "rocm" or (device.kind == "cuda" and version >= (8, 0))
        narrow = wanted.dtype == "bfloat16" or (wanted.dtype == "auto" and native)
        graphs = wanted.engine == "fused" and wanted.base_bits == 16 and device.kind == "cuda"
        fits = graphs and graphs_fit(version, max(wanted.shape.head_width, wanted.rank))
        return cls(fits, 2 if narrow else 4)


def _capability(device: Device) -> tuple[int, int]:
    major, _, minor = device.capability.partition(".")
    return (int(major), int(minor or 0)) if major.isdigit() and device.kind == "cuda" else (0, 0)


def footprint(
    wanted: Wanted, roles: tuple[RoleRows, ...], device: Device, split: tuple[int, int] = (1, 1)
) -> Footprint:
    """Bytes of one trainer of these roles.

    Args:
        split: parts that a step may be cut into, and trainers that share its rows.
    """
    way, (parts, workers) = Way.on(device, wanted), split
    if wanted.engine == "fused":
        return _fused(wanted, roles, device, way, parts, workers)
    whole = _reference(wanted, roles, device, way, parts * workers)
    return _sharded(wanted, whole, way, workers) if wanted.engine == "sharded" else whole


def parts_taken(wanted: Wanted, roles: tuple[RoleRows, ...], device: Device, split: tuple[int, int]) -> int:
    """Into how many parts a step of the longest rows is cut: the graph step takes as few as memory needs."""
    way, (parts, workers) = Way.on(device, wanted), split
    if not way.graphs:
        return parts
    tokens = sum(segment_tokens(own, own.rows / workers, own.longest) for own in roles)
    a_token = kept_a_token(wanted) * way.element * 6 / 5
    return min(parts, max(1, math.ceil(tokens * a_token / (ROOM * device.total_bytes))))


def segment_tokens(own: RoleRows, rows: float, length: float) -> int:
    """Tokens of a role's rows, what they share counted once."""
    return math.ceil(own.shared + rows * (length - own.shared)) if rows else 0


def states_a_token(shape: BaseShape, rank: int) -> int:
    """Numbers that the graph step keeps of a token for its backward (`trainers.gpu.segment_pass`), all layers."""
    q, k = shape.heads * shape.head_width, shape.key_heads * shape.head_width
    return shape.layers * (4 * shape.width + 2 * q + 2 * k + 3 * shape.inner + 7 * rank)


def kept_a_token(wanted: Wanted, factor: float = 1.0) -> float:
    """What is kept of a token, `factor` times what the graph step keeps; of checkpointed layers their inputs, beside
    the states of one."""
    shape, states = wanted.shape, factor * states_a_token(wanted.shape, wanted.rank)
    if not wanted.gradient_checkpointing:
        return states
    return states / shape.layers + shape.layers * 2 * shape.width


def base_bytes(wanted: Wanted, element: int) -> int:
    """Of the base's weights; in 4 bits the widest group is spread out in a buffer while it multiplies."""
    shape = wanted.shape
    if wanted.base_bits == 16:
        return shape.parameters * element
    packed = int(shape.linear_parameters * FOUR_BITS)
    return packed + (shape.vocabulary_parameters + shape.widest_group) * element


def adapter_bytes(shape: BaseShape, rank: int, roles: int, element: int) -> int:
    """Of so many roles' adapters in training: four float32 numbers a parameter, and the products' copies."""
    copies = (
        shape.adapter_parameters(rank) * (element if element < 4 else 0) + shape.diagonal_parameters(rank) * element
    )
    return roles * (16 * shape.adapter_parameters(rank) + copies)


def _fused(
    wanted: Wanted, roles: tuple[RoleRows, ...], device: Device, way: Way, parts: int, workers: int
) -> Footprint:
    shape, taken = wanted.shape, parts_taken(wanted, roles, device, (parts, workers))
    rows = [math.ceil(own.rows / (workers * taken)) for own in roles]
    segments = [segment_tokens(own, count, own.longest) for own, count in zip(roles, rows, strict=True)]
    scored = math.ceil(sum(own.answer * count for own, count in zip(roles, rows, strict=True)))
    paired = sum(2 * math.ceil(own.pairs / (workers * parts)) * own.longest for own in roles)
    longest = max(own.longest for own in roles)
    if way.graphs:
        states, logits = _graph_states(wanted, segments, scored, way.element)
        states = max(states, _plain_states(wanted, paired, longest, way.element))  # pairs go operation by operation
    else:
        states = _plain_states(wanted, max(paired, sum(segments)), longest, way.element)
        width = _SLICE_CPU if device.kind == CPU else _SLICE
        logits = scored * (2 * 4 * min(width, shape.vocabulary) + 3 * 4 * shape.width)
    adapters = adapter_bytes(shape, wanted.rank, len(roles), way.element)
    return Footprint(base_bytes(wanted, way.element), adapters, states, logits, process_bytes(device, way))


def _graph_states(wanted: Wanted, segments: Iterable[int], scored: int, element: int) -> tuple[int, int]:
    """(states, logits): what is kept of all layers, then either the logits or two layers' gradients."""
    from trainers.lean.segments import rounded_up

    shape, own = wanted.shape, list(segments)
    tokens = len(own) * rounded_up(max(own))
    q, k = shape.heads * shape.head_width, shape.key_heads * shape.head_width
    beside = 2 * tokens * (3 * shape.inner + 4 * shape.width + 2 * q + 2 * k) * element
    logits = rounded_up(scored + 1) * (shape.vocabulary * element + 4 * shape.width)
    return int(tokens * kept_a_token(wanted) * element) + max(0, beside - logits), logits


def _plain_states(wanted: Wanted, tokens: float, longest: float, element: int) -> int:
    """As autograd keeps them, with the attention weights of each row over itself and its prefix."""
    layers = 1 if wanted.gradient_checkpointing else wanted.shape.layers
    weights = layers * wanted.shape.heads * longest
    return int(tokens * (kept_a_token(wanted, PLAIN) + weights) * element)


def _reference(wanted: Wanted, roles: tuple[RoleRows, ...], device: Device, way: Way, parts: int) -> Footprint:
    """One role after another, rows padded to the longest, logits at every token with their float32 gradient."""
    tokens = max(math.ceil(own.rows / parts) * own.longest for own in roles)
    states = int(tokens * kept_a_token(wanted, REFERENCE) * way.element)
    logits = int(tokens * wanted.shape.vocabulary) * (way.element + 8)
    own = adapter_bytes(wanted.shape, wanted.rank, 1, way.element)
    return Footprint(base_bytes(wanted, way.element), own, states, logits, process_bytes(device, way))


def _sharded(wanted: Wanted, whole: Footprint, way: Way, workers: int) -> Footprint:
    """A base in shards is gathered a layer at a time, the next one fetched ahead, beside the vocabulary's layer."""
    shape, base = wanted.shape, whole.base
    if wanted.strategy in ("zero3", "fsdp2"):
        gathered = (2 * shape.linear_parameters // shape.layers + shape.vocabulary * shape.width) * way.element
        base = gathered + (0 if wanted.offload_param else whole.base // workers)
    shards = 1 if wanted.strategy == "ddp" else workers
    return dataclasses.replace(whole, base=base, adapters=whole.adapters // shards)


def host_bytes(wanted: Wanted, element: int) -> int:
    """Of the node's memory that an offloaded base takes, all workers together."""
    return wanted.shape.parameters * element if wanted.engine == "sharded" and wanted.offload_param else 0


def process_bytes(device: Device, way: Way) -> int:
    """What a process takes before it holds a weight."""
    if device.kind == CPU:
        return PROCESS
    one = WORKSPACE_HOPPER if _capability(device) >= (9, 0) else WORKSPACE
    return CONTEXT + (STREAMS if way.graphs else 1) * one
