"""Choosing the engine that trains a base: the only file that knows all of them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ledger.errors import LunaError
from trainers.config import LoraSettings, TrainSettings
from trainers.job import Engine
from trainers.models.frozen import Base

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


def open_engine(base: Base, train: TrainSettings, lora: LoraSettings, device: torch.device) -> Engine:
    """Load the base on `device` with the engine that the settings and the model's family ask for."""
    from transformers import AutoConfig

    from trainers.lean.model import why_unsupported

    reason = why_unsupported(AutoConfig.from_pretrained(base.path, local_files_only=True))
    if train.engine == "fused" and reason:
        raise LunaError(
            f'engine = "fused" cannot train this base: {reason}. Set [train] engine = "auto", or change the base.'
        )
    if train.engine == "trl" or reason:
        from trainers.reference.engine import TrlEngine

        logger.info("engine: trl, one role after another (%s)", reason or "as set")
        return TrlEngine(base, train, lora, device)
    from trainers.fused.engine import FusedEngine

    engine = FusedEngine(base, train, lora, device)
    logger.info("engine: fused, all roles in one pass (%s on %s)", engine.info.dtype, engine.info.device)
    return engine
