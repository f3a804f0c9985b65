"""What is to be trained and served, as far as bytes and seconds depend on it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self

from cluster.plan.shape import BaseShape
from ledger.roles import Role

Strategy = Literal["ddp", "fsdp2", "zero2", "zero3"]


@dataclass(frozen=True)
class RoleRows:
    """One role's rows of a step. Lengths are tokens."""

    role: Role
    rows: int
    """Examples a step."""
    tokens: float
    """Prompt and answer of an average row."""
    longest: float
    """Prompt and answer of the longest row, for which there must be memory."""
    answer: float
    """Answer of an average row."""
    shared: int = 0
    """Beginning that all rows have in common and that is computed once."""
    pairs: int = 0
    """Preference pairs a step, each of two more rows."""
    steps: int = 0
    """Optimizer steps; 0 where it is not known yet."""


@dataclass(frozen=True)
class Shards:
    """How the sharded engine lays a base out."""

    strategy: Strategy
    offload_param: bool = False
    """Whether it keeps the base in the node's memory and brings a layer at a time."""


@dataclass(frozen=True)
class Wanted:
    """One generation's training."""

    shape: BaseShape
    rank: int
    roles: tuple[RoleRows, ...]
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the base and its products; `auto` is bfloat16 where a device multiplies it natively."""
    parts: int = 1
    """Parts that a step is cut into at most, unless memory needs more: [train] gradient_accumulation_steps."""
    engine: Literal["fused", "trl", "sharded"] = "fused"
    strategy: Strategy = "zero3"
    """Of the sharded engine."""
    offload_param: bool = False
    """See :class:`Shards`."""
    else_sharded: tuple[Shards, ...] = ()
    """What the sharded engine may do, the first that fits, where this engine fits no card; none: the engine is as set.
    """
    gradient_checkpointing: bool = False
    """Whether a layer's states are computed again in its backward instead of being kept."""
    base_bits: Literal[4, 16] = 16
    """4: the base's linear layers are held in 4 bits; 16: in `dtype`."""

    def on_shards(self, shards: Shards) -> Self:
        """The same by the sharded engine."""
        return replace(
            self, engine="sharded", strategy=shards.strategy, offload_param=shards.offload_param, else_sharded=()
        )


@dataclass(frozen=True)
class ServingShare:
    """What serving takes of the rig."""

    replicas: int = 1
    share: float = 0.4
    """Of a card's memory for each replica: [serving] gpu_memory_utilization."""
    gpus: float | None = None
    """What each replica holds of Ray's GPUs already; None where none runs."""
