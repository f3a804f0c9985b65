"""Loss curves for TensorBoard, one line a role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from ledger.roles import Role


class LossCurves:
    """Writes `loss/<role>` events under `folder`; a resumed run hides what it repeats.

    Where tensorboard is not installed (the GPU check needs little) nothing is written.
    """

    def __init__(self, folder: Path, roles: Sequence[Role], first_step: int):
        self.writer = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self.writer = SummaryWriter(str(folder), purge_step=first_step + 1 if first_step else None)

    def __enter__(self) -> LossCurves:
        return self

    def add(self, step: int, losses: Mapping[Role, float]) -> None:
        """One point a role."""
        if self.writer is not None:
            for role, loss in losses.items():
                self.writer.add_scalar(f"loss/{role}", loss, step)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.writer is not None:
            self.writer.close()
