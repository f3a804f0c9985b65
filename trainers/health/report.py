"""Reward health of a whole candidate: the reward model loaded and kept, each role measured, records and curves made."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from ledger.errors import LunaError
from ledger.records import EvalRecord
from trainers.fused.engine import FusedEngine
from trainers.health.index import HealthSettings
from trainers.health.probe import HealthPlan, RoleHealth, measure_role, why_unmeasurable
from trainers.reward.model import RewardModel, load_reward_model


def measure_health(
    engine: Any, plans: Sequence[HealthPlan], reward_model: Path, gen_id: int, curves: Path, settings: HealthSettings
) -> tuple[list[EvalRecord], str]:
    """Measure the planned roles with the reward model in folder `reward_model`.

    Args:
        engine: of the trainer; only the fused one can be measured.
        curves: folder of TensorBoard events, `health/<component>/<role>` at step `gen_id`.

    Returns:
        Six records a role (`rhi` and its components), or none and the reason why the engine cannot be measured.

    Raises:
        LunaError: the reward model or an adapter is missing or was changed.
    """
    if not isinstance(engine, FusedEngine):
        return [], why_unmeasurable(engine) or ""
    judge = _kept(reward_model, engine.device)
    found = [measure_role(engine, plan, judge, settings) for plan in plans]
    _write_curves(curves, gen_id, found)
    about = {"reward_sha": judge.metadata["sha"], "settings": settings.model_dump(mode="json")}
    return [record for health in found for record in health.records(gen_id, about)], ""


@lru_cache(maxsize=1)
def _kept(folder: Path, device: torch.device) -> RewardModel:
    """A model's folder is named by its content, so one that was loaded stays good."""
    return load_reward_model(folder, device)


def _write_curves(folder: Path, gen_id: int, found: Sequence[RoleHealth]) -> None:
    """One point a component and role; nothing where tensorboard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return
    try:
        writer = SummaryWriter(str(folder))
    except OSError as error:
        raise LunaError(f"could not write the curves of reward health to {folder}: {error}.") from error
    for health in found:
        for name, value in {"rhi": health.components.rhi, **health.components.as_dict()}.items():
            writer.add_scalar(f"health/{name}/{health.role}", value, gen_id)
    writer.close()
