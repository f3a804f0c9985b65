"""The workers of a job and what they tell each other: the process group that is there, or one of this process alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Item = TypeVar("Item")


@dataclass(frozen=True)
class Ranks:
    """Which worker this is, and of how many. Every call is collective."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the worker that writes."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all workers."""
        found = values.to(self.device).clone()
        dist.all_reduce(found)
        return found

    def from_first(self, value: Item | None) -> Item:
        """What the first worker has; the others' is not looked at."""
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        found: Item = box[0]
        return found

    def tensors_from_first(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same of tensors in host memory, sent one at a time."""
        shapes = self.from_first([(name, value.shape, value.dtype) for name, value in tensors.items()])
        found = {}
        for name, shape, dtype in shapes:
            value = tensors[name].to(self.device) if self.first else torch.empty(shape, dtype=dtype, device=self.device)
            dist.broadcast(value, src=0)
            found[name] = value.cpu()
        return found

    def gathered(self, own: Sequence[Item]) -> list[Sequence[Item]]:
        """What every worker has, by rank."""
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, own)
        return found


def ranks_of(device: torch.device) -> Ranks:
    """The workers of the process group that is initialised; without one, this process alone in one of its own."""
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    return Ranks(dist.get_rank(), dist.get_world_size(), device)


@contextmanager
def launcher_environment(ranks: Ranks, threads: int) -> Iterator[None]:
    """The variables by which accelerate and DeepSpeed know a process of a group, for as long as the context is open.

    A launcher sets them and what it has set stays; what the libraries set themselves is gone afterwards, so that they
    do not take the next engine of this process for one of theirs.
    """
    before = dict(os.environ)
    ours = {
        "RANK": ranks.rank,
        "WORLD_SIZE": ranks.size,
        "LOCAL_RANK": ranks.device.index or 0,
        "LOCAL_WORLD_SIZE": 1,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500",  # asked for, never opened: the group is there
        "OMP_NUM_THREADS": threads,
        "DS_ACCELERATOR": ranks.device.type,
    }
    for name, value in ours.items():
        os.environ.setdefault(name, str(value))
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
