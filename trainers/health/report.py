"""Reward health of a whole candidate: the reward model loaded and kept, each role measured, records and curves made."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch

from ledger.errors import LunaError
from ledger.records import EvalRecord
from trainers.health.probe import HealthPlan, RoleHealth, measure_role
from trainers.health.settings import HealthSettings
from trainers.lean.base import LeanBase
from trainers.reward.model import RewardModel, load_reward_model

UNMEASURABLE = (
    "reward health is not measured with the trl and sharded engines: it needs the gradients and states of the fused "
    'one ([train] engine = "auto" takes it where the model\'s family is known)'
)


def measure_health(
    lean: LeanBase | None,
    plans: Sequence[HealthPlan],
    reward_model: Path,
    gen_id: int,
    curves_dir: Path,
    settings: HealthSettings,
) -> tuple[list[EvalRecord], str]:
    """Measure the planned roles with the reward model in folder `reward_model`.

    Args:
        lean: of the engine (`Engine.lean`).
        curves_dir: folder of TensorBoard events, `health/<role>/<component>` at step `gen_id`.

    Returns:
        Six records a role (`rhi` and its components); without a lean base none, and the reason.

    Raises:
        LunaError: the reward model or an adapter is missing or was changed.
    """
    if lean is None:
        return [], UNMEASURABLE
    judge = _kept(reward_model, lean.model.device)
    found = [measure_role(lean, plan, judge, settings) for plan in plans]
    _write_curves(curves_dir, gen_id, found)
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
            writer.add_scalar(f"health/{health.role}/{name}", value, gen_id)
    writer.close()
