"""Choosing a strategy: the only file of the engine that knows all of them."""

from __future__ import annotations

from contextlib import AbstractContextManager

from trainers.sharded.native import placed_by_torch
from trainers.sharded.placement import Loader, Placement, Plan
from trainers.sharded.zero import placed_by_deepspeed


def placed(load: Loader, plan: Plan) -> AbstractContextManager[Placement]:
    """The model under the strategy of the settings, for as long as the context is open."""
    by_deepspeed = plan.train.sharded.strategy in ("zero2", "zero3")
    return placed_by_deepspeed(load, plan) if by_deepspeed else placed_by_torch(load, plan)
