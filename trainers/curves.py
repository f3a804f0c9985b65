"""Curves of a training run for TensorBoard, under `train/<role>/`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from ledger.files import explain_write_errors
from ledger.roles import Role
from trainers.job import Channel


def curve_name(role: Role, curve: str) -> str:
    """Tag of a role's curve, as a path."""
    return f"train/{role}/{curve}"


class LossCurves:
    """Writes `loss` of each role, with several channels the loss of each too (`sft_loss`, `dpo_loss`, `kl_loss`),
    and `health_partial` at the steps that the online gate measures. A resumed run hides what it repeats.

    Where tensorboard is not installed (the GPU check needs little) nothing is written.
    """

    def __init__(self, folder: Path, roles: Sequence[Role], first_step: int):
        self.writer = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self.folder = folder
        with explain_write_errors(folder):
            self.writer = SummaryWriter(str(folder), purge_step=first_step + 1 if first_step else None)

    def __enter__(self) -> LossCurves:
        return self

    def add(
        self,
        step: int,
        losses: Mapping[Role, float],
        channels: Mapping[Channel, Mapping[Role, float]] | None = None,
        partials: Mapping[Role, float] | None = None,
    ) -> None:
        """One point a role and curve. `partials` is DCS + GVS of the roles that were measured in this step.

        Raises:
            LunaError: the disk has refused this or an earlier point.
        """
        if self.writer is None:
            return
        curves = {"loss": losses, **{f"{channel}_loss": own for channel, own in (channels or {}).items()}}
        curves["health_partial"] = partials or {}
        with explain_write_errors(self.folder):
            for name, own in curves.items():
                for role, loss in own.items():
                    self.writer.add_scalar(curve_name(role, name), loss, step)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.writer is not None:
            with explain_write_errors(self.folder):
                self.writer.close()
