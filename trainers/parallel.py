"""The processes that share the rows of each training step, and what they tell one another.

torch alone: whoever starts them makes the process group. It has to reach both the CPU and the device (`gloo`, or
`cpu:gloo,cuda:nccl`), since what is decided on the host is exchanged there, where no device has to be waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ledger.errors import LunaError

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class World:
    """This process among those that train together. All have to make the same calls in the same order."""

    rank: int = 0
    size: int = 1

    @classmethod
    def alone(cls) -> World:
        """One process that trains by itself."""
        return cls()

    @classmethod
    def current(cls) -> World:
        """That of the process group that is there, or alone."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls.alone()

    @property
    def is_alone(self) -> bool:
        return self.size == 1

    @property
    def leads(self) -> bool:
        """Whether this is the one process that writes files and tells how far the training is."""
        return self.rank == 0

    def share(self, items: Sequence[Item], first: int = 0) -> Sequence[Item]:
        """Every `size`-th of the items, the first one to the process of rank `first` mod `size`."""
        return items[(self.rank - first) % self.size :: self.size]

    def sum_(self, tensor: Tensor) -> Tensor:
        """The tensor, overwritten by its sum over all processes: the same bytes in each."""
        if not self.is_alone:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether it is true in any process."""
        return bool(self.sum_(torch.tensor(int(flag))).item())

    def are_equal(self, tensor: Tensor) -> bool:
        """Whether a tensor of four-byte numbers has the same bytes in all processes, by their sum as integers."""
        if self.is_alone:
            return True
        digest = tensor.view(torch.int32).sum(dtype=torch.int64).cpu()
        bounds = torch.stack([digest, -digest])
        dist.all_reduce(bounds, dist.ReduceOp.MAX)
        return bool(bounds[0] == -bounds[1])

    def of_lead(self, work: Callable[[], Result]) -> Result:
        """What `work` gives in the leading process, to all; a LunaError of it is raised by all."""
        if self.is_alone:
            return work()
        said: list[Any] = [_attempted(work) if self.leads else None]
        dist.broadcast_object_list(said)
        return _result(said[0])

    def together(self, work: Callable[[], Result]) -> Result:
        """What `work` gives in this process, once it is done in all; a LunaError of any is raised by all."""
        if self.is_alone:
            return work()
        own = _attempted(work)
        errors: list[LunaError | None] = [None] * self.size
        dist.all_gather_object(errors, own if isinstance(own, LunaError) else None)
        for error in errors:
            _result(error)
        return _result(own)


def _attempted(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except LunaError as error:
        return error


def _result(said: Any) -> Any:
    if isinstance(said, LunaError):
        raise said
    return said
