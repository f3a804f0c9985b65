"""The frozen base as the lean forward holds it: what measuring needs of an engine, and no more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainers.config import LoraSettings
from trainers.lean.adapter_bank import AdapterBank
from trainers.lean.lanes import Lanes
from trainers.lean.model import LeanModel


@dataclass(frozen=True)
class LeanBase:
    """A loaded base, its tokenizer, and the shape of the adapters over it."""

    model: LeanModel
    tokenizer: Any
    lanes: Lanes
    lora: LoraSettings

    def empty_bank(self, slots: int, trainable: bool = False) -> AdapterBank:
        """A bank of `slots` adapters over the base, nothing loaded yet."""
        model = self.model
        return AdapterBank(model.module_shapes, slots, self.lora, model.dtype, model.device, trainable)
