"""Choosing the engine that trains a base: the only file that knows all of them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ledger.errors import LunaError
from trainers.config import LoraSettings, TrainSettings
from trainers.job import Engine
from trainers.models.frozen import Base
from trainers.parallel import World

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


def open_engine(base: Base, train: TrainSettings, lora: LoraSettings, device: torch.device) -> Engine:
    """Load the base on `device` with the engine that the settings and the model's family ask for.

    Where a process group is there, the engine's trainings are those of the whole group.
    """
    from transformers import AutoConfig

    from trainers.lean.model import why_unsupported

    reason = why_unsupported(AutoConfig.from_pretrained(base.path, local_files_only=True))
    if train.engine == "fused" and reason:
        raise LunaError(
            f'engine = "fused" cannot train this base: {reason}. Set [train] engine = "auto", or change the base.'
        )
    if train.engine == "sharded":
        from trainers.sharded.engine import ShardedEngine

        logger.info("engine: sharded, one role after another (%s)", train.sharded.strategy)
        return ShardedEngine(base, train, lora, device)
    world = World.current()
    if train.engine == "trl" or reason:
        _refuse_for_trl(train, reason or 'engine = "trl" is set', world)
        from trainers.reference.engine import TrlEngine

        logger.info("engine: trl, one role after another (%s)", reason or "as set")
        return TrlEngine(base, train, lora, device)
    from trainers.fused.engine import FusedEngine

    engine = FusedEngine(base, train, lora, device, world)
    logger.info("engine: fused, all roles in one pass (%s on %s)", engine.info.dtype, engine.info.device)
    return engine


def _refuse_for_trl(train: TrainSettings, reason: str, world: World) -> None:
    """What the trl engine would leave out in silence."""
    asked = []
    if train.quantize != "none":
        asked.append(f'quantize = "{train.quantize}"')
    if train.gradient_checkpointing:
        asked.append("gradient_checkpointing = true")
    if not world.is_alone:
        asked.append(f"a training on {world.size} workers")
    if asked:
        raise LunaError(
            f"{', '.join(asked)}: this needs the fused engine, and the base goes to the trl engine ({reason}). Use a "
            'Llama or Qwen2 base without [train] engine = "trl", or leave it out.'
        )
