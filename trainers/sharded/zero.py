"""DeepSpeed's strategies, through accelerate: `zero2`, gradients and optimizer state in parts; `zero3`, weights too.

With LoRA there is little state to part: what `zero3` wins is room for a frozen base that does not fit one card, in the
machine's memory with `offload_param`. Of a whole model in training, both win.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ledger.errors import LunaError
from trainers.sharded.native import forget_accelerator
from trainers.sharded.placement import MOMENTS, LeavingAdamW, Loader, Plan, adamw, trainable


@contextmanager
def placed_by_deepspeed(load: Loader, plan: Plan) -> Iterator[ZeroPlacement]:
    """See :func:`trainers.sharded.strategies.placed`."""
    with warnings.catch_warnings():
        # DeepSpeed asks torch for some collectives by the names that they had before torch 2.13.
        warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)
        with _placed(load, plan, _deepspeed()) as placement:
            yield placement


@contextmanager
def _placed(load: Loader, plan: Plan, deepspeed: Any) -> Iterator[ZeroPlacement]:
    from accelerate import Accelerator, DeepSpeedPlugin
    from accelerate.utils import InitProcessGroupKwargs
    from transformers.integrations import unset_hf_deepspeed_config

    cuda = plan.device.type == "cuda"
    forget_accelerator()
    try:
        # `cpu` stays False on a CPU too: accelerate would leave DeepSpeed out. The backend is what tells it then that
        # there is a group.
        accelerator = Accelerator(
            deepspeed_plugin=DeepSpeedPlugin(hf_ds_config=zero_config(plan)),
            mixed_precision="no" if plan.dtype == torch.float32 else "bf16",
            kwargs_handlers=[InitProcessGroupKwargs(backend="nccl" if cuda else "gloo")],
        )
        module = load()  # transformers reads the weights of a zero3 model into parts
        unset_hf_deepspeed_config()
        parameters = trainable(module)
        # DeepSpeed rounds what it trains to the products' format and widens that again: an adapter begins as it was.
        exact = {name: own.detach().clone() for name, own in parameters.items() if own.dtype != plan.dtype}
        engine, _ = accelerator.prepare(module, adamw(parameters.values(), plan.train))
        placement = ZeroPlacement(deepspeed, engine, parameters, plan)
        for name, value in exact.items():
            placement.set_master(name, value)
        yield placement
        engine.destroy()
    finally:
        unset_hf_deepspeed_config()
        forget_accelerator()


def zero_config(plan: Plan) -> dict[str, Any]:
    """DeepSpeed's settings. What decides a step is ours: the rate, the parts, and the mean over the workers."""
    sharded, bf16 = plan.train.sharded, plan.dtype == torch.bfloat16
    stage: dict[str, Any] = {"stage": 3 if sharded.strategy == "zero3" else 2}
    if sharded.offload_param:
        stage["offload_param"] = {"device": "cpu", "pin_memory": plan.device.type == "cuda"}
    config = {
        "zero_optimization": stage,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "train_batch_size": plan.world.size,
        "gradient_clipping": plan.train.max_grad_norm,
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": bf16},
    }
    return config | ({"data_types": {"grad_accum_dtype": "fp32"}} if bf16 else {})


class ZeroPlacement:
    """See :class:`trainers.sharded.placement.Placement`."""

    def __init__(self, deepspeed: Any, engine: Any, parameters: dict[str, Any], plan: Plan):
        self.deepspeed, self.engine, self.parameters, self.plan = deepspeed, engine, parameters, plan
        self.optimizer = engine.optimizer
        self.in_parts = plan.train.sharded.strategy == "zero3"
        self._adamw: LeavingAdamW = engine.optimizer.optimizer
        self._adamw.begin(self._parts())
        if not self.in_parts:
            self.optimizer._lazy_init_hp_params_optimizer_state()

    def _parts(self) -> Sequence[Tensor]:
        """This worker's parts of what is trained, in float32, as the optimizer moves them."""
        found: Sequence[Tensor] = (
            self.optimizer.fp32_partitioned_groups_flat
            if self.in_parts
            else self.optimizer.single_partition_of_fp32_groups
        )
        return found

    def __call__(self, **inputs: Any) -> Any:
        """See :meth:`trainers.sharded.placement.Placement.__call__`."""
        return self.engine(**inputs)

    def add_gradients(self, losses: Sequence[Callable[[], Tensor]]) -> None:
        """See :meth:`trainers.sharded.placement.Placement.add_gradients`."""
        for number, loss in enumerate(losses, start=1):
            self.engine.set_gradient_accumulation_boundary(number == len(losses))
            self.engine.backward(loss())

    def move(self, rate: float | None) -> float:
        """See :meth:`trainers.sharded.placement.Placement.move`; DeepSpeed itself clips, and drops what is infinite."""
        self._adamw.leaves_out = rate is None
        if rate is not None:
            for group in self._adamw.param_groups:
                group["lr"] = rate
        self.engine.step()
        return float(self.engine.get_global_grad_norm())

    def masters(self) -> dict[str, Tensor]:
        """See :meth:`trainers.sharded.placement.Placement.masters`."""
        return self._on_first("", None)

    def state_dict(self) -> dict[str, Tensor]:
        """See :meth:`trainers.sharded.placement.Placement.state_dict`."""
        found = self._on_first("master.", None)
        for moment in MOMENTS:
            found |= self._on_first(f"{moment}.", moment)
        return found | ({"count": torch.tensor(self._adamw.count)} if self.plan.world.leads else {})

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """See :meth:`trainers.sharded.placement.Placement.load_state_dict`."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                self.set_master(name, tensors[f"master.{name}"])
                for moment in MOMENTS:
                    self._set(parameter, tensors[f"{moment}.{name}"], moment)
                self._set_products(parameter, tensors[f"master.{name}"])
        for part in self._parts():
            self._adamw.state[part]["step"].copy_(tensors["count"])

    def set_master(self, name: str, value: Tensor) -> None:
        """Take over a master's values, not those of the products."""
        self._set(self.parameters[name], value, None)

    def _on_first(self, prefix: str, moment: str | None) -> dict[str, Tensor]:
        utils, found = self.deepspeed.utils, {}
        for name, parameter in self.parameters.items():
            if moment is None:
                whole = utils.safe_get_full_fp32_param(parameter)
            else:
                whole = utils.safe_get_full_optimizer_state(parameter, moment)
            if self.plan.world.leads:
                found[f"{prefix}{name}"] = whole.detach().float().cpu().clone()
        return found

    def _set(self, parameter: Any, value: Tensor, moment: str | None) -> None:
        """This worker's part of a master, or of a moment."""
        utils, value = self.deepspeed.utils, value.to(self.plan.device)
        if not self.in_parts:
            if moment is None:
                utils.safe_set_full_fp32_param(parameter, value)
            else:
                utils.safe_set_full_optimizer_state(parameter, value, moment)
            return
        size, rank = utils.safe_get_local_fp32_param(parameter).numel(), self.plan.world.rank
        padded = F.pad(value.flatten(), (0, size * self.plan.world.size - value.numel()))
        part = padded[size * rank : size * (rank + 1)]
        if moment is None:
            utils.safe_set_local_fp32_param(parameter, part)
        else:
            utils.safe_set_local_optimizer_state(parameter, part, moment)

    def _set_products(self, parameter: Any, value: Tensor) -> None:
        """What the products take, which is the master in their number format."""
        if not self.in_parts:
            parameter.data.copy_(value)
            return
        with self.deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            if self.plan.world.leads:
                parameter.data.copy_(value)


def _deepspeed() -> Any:
    """The library, quiet, and without the one operation that it would compile for a CPU."""
    try:
        import deepspeed
        from deepspeed.utils import logger
    except ImportError as error:
        raise LunaError(
            f'[train.sharded] strategy = "zero2" and "zero3" need DeepSpeed, which cannot be imported here ({error}). '
            'Run `make setup` (DeepSpeed is for Linux alone), or set strategy = "fsdp2".'
        ) from error

    logger.setLevel(logging.ERROR)  # it warns of an optimizer of ours
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
