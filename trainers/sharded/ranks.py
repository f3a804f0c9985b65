"""The process group of a job as this engine uses it, beyond what :class:`trainers.parallel.World` does."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from trainers.parallel import World

Item = TypeVar("Item")


def group_of(device: torch.device) -> World:
    """The process group that is initialised; without one, this process in one of its own, which the strategies need."""
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    return World.current()


def tensors_of_lead(world: World, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The leading process's tensors, in host memory, sent one at a time; the others' are not looked at."""
    shapes = world.of_lead(lambda: [(name, value.shape, value.dtype) for name, value in tensors.items()])
    found = {}
    for name, shape, dtype in shapes:
        found[name] = tensors[name] if world.leads else torch.empty(shape, dtype=dtype)
        dist.broadcast(found[name], src=0)
    return found


def gathered(world: World, own: Sequence[Item]) -> list[Sequence[Item]]:
    """What every process has, by rank."""
    found: list[Any] = [None] * world.size
    dist.all_gather_object(found, own)
    return found


@contextmanager
def launcher_environment(world: World, device: torch.device, threads: int) -> Iterator[None]:
    """The variables by which accelerate and DeepSpeed know a process of a group, for as long as the context is open.

    A launcher sets them, and what it has set stays. What the libraries set themselves is gone afterwards: a later
    engine of this process must not take itself for one of theirs.
    """
    before = dict(os.environ)
    ours = {
        "RANK": world.rank,
        "WORLD_SIZE": world.size,
        "LOCAL_RANK": device.index or 0,
        "LOCAL_WORLD_SIZE": 1,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": 29500,  # asked for, never opened: the group is there
        "OMP_NUM_THREADS": threads,
        "DS_ACCELERATOR": device.type,
    }
    for name, value in ours.items():
        os.environ.setdefault(name, str(value))
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
