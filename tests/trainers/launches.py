"""What a GPU's step would launch, copy and wait for, counted without a GPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainers.gpu.ops import Adapter, Places
from trainers.lean.adapter_bank import AdapterBank

_WAITS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero", "aten::masked_select")
_WITHOUT_SHAPES = ("aten::baddbmm.dtype_out", "aten::_fused_adamw_.tensor_lr")
"""Operations in place that torch has for GPUs and cannot take on tensors without numbers."""
_NO_LAUNCH = ("aten::empty", "aten::new_empty", "aten::_unsafe_view", "aten::detach", "aten::lift_fresh", "prim::")


class Launches(TorchDispatchMode):
    """Counts operations that are no views: on the device, from and to the host, and those that wait for a value.

    Args:
        device: the card's type. `cpu` counts all as launches, the host being the device.
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device
        self.by_name: Counter[str] = Counter()
        """Launches."""
        self.to_device, self.to_host, self.waits = 0, 0, 0

    @property
    def launches(self) -> int:
        return self.by_name.total()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        silent = self.device != "cpu" and func.name() in _WITHOUT_SHAPES
        found = given.get("out") if silent else func(*args, **given)
        self._count(func, tree_leaves((args, given)), found)
        return found

    def _count(self, func: Any, given: Sequence[Any], found: Any) -> None:
        name = func.name()
        if name.startswith(_WAITS):
            self.waits += 1
        if func.is_view or name.startswith(_NO_LAUNCH):
            return
        devices = {one.device.type for one in given if isinstance(one, Tensor)}
        into = found.device.type if isinstance(found, Tensor) else next(iter(devices), "cpu")
        crosses = self.device != "cpu" and devices | {into} == {"cpu", self.device}
        if crosses and name.startswith(("aten::copy_", "aten::_to_copy")):
            self.to_host += into == "cpu"
            self.to_device += into != "cpu"
        elif self.device in devices | {into}:
            self.by_name[name] += 1


class Silent:
    """Stands for the kernels of :class:`trainers.gpu.triton_ops.TritonOps`: shapes alone, one launch for each that they
    take."""

    def __init__(self) -> None:
        self.kernels = 0

    def norm(self, x: Tensor, onto: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        self.kernels += 1
        return torch.empty_like(x), torch.empty_like(x), torch.empty(len(x), device=x.device)

    def norm_backward(self, grad: Tensor, x: Tensor, scale: Tensor, weight: Tensor, residual: Tensor | None) -> Tensor:
        self.kernels += 1
        return torch.empty_like(grad)

    def rotate_(self, qkv: Tensor, places: Places) -> None:
        self.kernels += 1

    def attend(self, qkv: Tensor, places: Places) -> tuple[Tensor, Tensor]:
        self.kernels += 1
        shape = places.shape
        out = torch.empty(len(qkv), shape.heads * shape.width, dtype=qkv.dtype, device=qkv.device)
        return out, torch.empty(shape.heads, len(qkv), device=qkv.device)

    def attend_backward(self, grad: Tensor, qkv: Tensor, out: Tensor, lse: Tensor, places: Places) -> Tensor:
        self.kernels += 3
        return torch.empty_like(qkv)

    def swiglu(self, gate_up: Tensor, adapter: Adapter) -> Tensor:
        self.kernels += 1
        return torch.empty(len(gate_up), gate_up.shape[1] // 2, dtype=gate_up.dtype, device=gate_up.device)

    def swiglu_backward(self, grad: Tensor, adapter: Adapter, gate_up: Tensor) -> Tensor:
        self.kernels += 1
        return torch.empty_like(gate_up)

    def token_losses_(self, logits: Tensor, targets: Tensor, coefficients: Tensor) -> Tensor:
        self.kernels += 2
        return torch.empty(len(logits), device=logits.device)

    def rounding(self, bank: AdapterBank) -> Any:
        """In place of :class:`trainers.gpu.triton_ops.Rounding`."""

        def rounded() -> None:
            if bank.compute is not bank.master:
                bank.compute.copy_(bank.master)
            self.kernels += 1

        return rounded
