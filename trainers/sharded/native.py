"""PyTorch's own strategies: `ddp`, a whole copy a worker, through accelerate; and `fsdp2`, the weights in parts.

accelerate's own switch for FSDP does nothing on a CPU, so that is asked of torch, on a mesh over any device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from trainers.sharded.placement import MOMENTS, LeavingAdamW, Loader, Plan, adamw, blocks_of, trainable


@contextmanager
def placed_by_torch(load: Loader, plan: Plan) -> Iterator[NativePlacement]:
    """See :func:`trainers.sharded.strategies.placed`."""
    if plan.train.sharded.strategy == "fsdp2":
        yield _Fsdp2(load(), plan)
        return
    with _accelerator(plan) as accelerator:
        yield _Ddp(load(), plan, accelerator)


class NativePlacement:
    """See :class:`trainers.sharded.placement.Placement`; what both strategies do alike."""

    model: Any
    optimizer: LeavingAdamW
    parameters: dict[str, Any]

    def __init__(self, plan: Plan):
        self.plan = plan
        self.device = plan.device

    def __call__(self, **inputs: Any) -> Any:
        """See :meth:`trainers.sharded.placement.Placement.__call__`."""
        return self.model(**inputs)

    def add_gradients(self, losses: Sequence[Callable[[], Tensor]]) -> None:
        """See :meth:`trainers.sharded.placement.Placement.add_gradients`."""
        for number, loss in enumerate(losses, start=1):
            with self._summed_up(last=number == len(losses)):
                loss().backward()

    def _summed_up(self, last: bool) -> AbstractContextManager[Any]:
        """In the last part of a step the workers' gradients are averaged, in those before each keeps its own."""
        raise NotImplementedError

    def move(self, rate: float | None) -> float:
        """See :meth:`trainers.sharded.placement.Placement.move`."""
        found = torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), self.plan.train.max_grad_norm)
        norm = float(self._whole(found))
        if rate is not None and norm < float("inf"):
            self.optimizer.param_groups[0]["lr"] = rate
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def masters(self) -> dict[str, Tensor]:
        """See :meth:`trainers.sharded.placement.Placement.masters`."""
        return self._on_first(dict(self.parameters))

    def state_dict(self) -> dict[str, Tensor]:
        """See :meth:`trainers.sharded.placement.Placement.state_dict`."""
        found = {f"master.{name}": parameter for name, parameter in self.parameters.items()}
        for name, parameter in self.parameters.items():
            found |= {f"{moment}.{name}": self.optimizer.state[parameter][moment] for moment in MOMENTS}
        count = {"count": torch.tensor(self.optimizer.count)} if self.plan.world.leads else {}
        return self._on_first(found) | count

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """See :meth:`trainers.sharded.placement.Placement.load_state_dict`."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                state = self.optimizer.state[parameter]
                self._fill(parameter, tensors[f"master.{name}"])
                for moment in MOMENTS:
                    self._fill(state[moment], tensors[f"{moment}.{name}"])
                state["step"].copy_(tensors["count"])

    def _on_first(self, tensors: dict[str, Any]) -> dict[str, Tensor]:
        found = {}
        for name, tensor in tensors.items():
            whole = self._whole(tensor.detach())  # one at a time, since each is whole on every device for a moment
            if self.plan.world.leads:
                found[name] = whole.float().cpu().clone()
        return found

    def _whole(self, tensor: Any) -> Tensor:
        """A tensor that may lie in parts, in one."""
        whole: Tensor = tensor.to(self.device).full_tensor() if hasattr(tensor, "full_tensor") else tensor
        return whole

    def _fill(self, tensor: Any, value: Tensor) -> None:
        """Copy a whole tensor's values into one that may lie in parts."""
        if not hasattr(tensor, "full_tensor"):
            tensor.copy_(value)
            return
        from torch.distributed.tensor import distribute_tensor

        own = distribute_tensor(value.to(self.device), tensor.device_mesh, tensor.placements)
        tensor.to_local().copy_(own.to_local())


class _Ddp(NativePlacement):
    """A whole copy a worker; accelerate wraps it where there are several."""

    def __init__(self, module: Any, plan: Plan, accelerator: Any):
        super().__init__(plan)
        self.accelerator = accelerator
        self.model = accelerator.prepare(module)
        self.parameters = trainable(module)
        self.optimizer = adamw(self.parameters.values(), plan.train)
        self.optimizer.begin(self.parameters.values())

    def __call__(self, **inputs: Any) -> Any:
        """The forward with its products in the plan's number format."""
        narrow = self.plan.dtype != torch.float32
        with torch.autocast(self.device.type, self.plan.dtype) if narrow else nullcontext():
            return self.model(**inputs)

    def _summed_up(self, last: bool) -> AbstractContextManager[Any]:
        alone: AbstractContextManager[Any] = self.accelerator.no_sync(self.model)
        return nullcontext() if last else alone


class _Fsdp2(NativePlacement):
    """The weights in parts, each block brought together when it is used."""

    def __init__(self, module: Any, plan: Plan):
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

        super().__init__(plan)
        cuda = self.device.type == "cuda"
        narrow = plan.dtype if plan.dtype != torch.float32 else None
        how: dict[str, Any] = {
            "mesh": init_device_mesh(self.device.type, (plan.world.size,)),
            "mp_policy": MixedPrecisionPolicy(param_dtype=narrow, reduce_dtype=torch.float32),
            "offload_policy": CPUOffloadPolicy(pin_memory=cuda)
            if plan.train.sharded.offload_param
            else OffloadPolicy(),
        }
        for block in blocks_of(module):
            fully_shard(block, **how)
        self.model = fully_shard(module, **how)
        for buffer in module.buffers():  # the parameters are where they belong
            buffer.data = buffer.data.to(self.device)
        self.parameters = trainable(module)
        self.optimizer = adamw(self.parameters.values(), plan.train)
        self.optimizer.begin(self.parameters.values())

    def _summed_up(self, last: bool) -> AbstractContextManager[Any]:
        self.model.set_requires_gradient_sync(last)
        return nullcontext()


@contextmanager
def _accelerator(plan: Plan) -> Iterator[Any]:
    """accelerate, which keeps its state for the whole process, fresh and put back."""
    from accelerate import Accelerator

    forget_accelerator()
    try:
        yield Accelerator(cpu=plan.device.type == "cpu", mixed_precision="no")
    finally:
        forget_accelerator()


def forget_accelerator() -> None:
    """Drop what accelerate knows of this process, so that the next one may be another."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
