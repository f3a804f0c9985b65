"""A model in training, laid over the workers of a job: what every strategy can do, and the optimizer that all share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from trainers.config import TrainSettings
from trainers.parallel import World

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Plan:
    """Where and how a model is trained."""

    world: World
    device: torch.device
    dtype: torch.dtype
    """Of the products. What is trained and its moments are float32 wherever they lie."""
    train: TrainSettings


class Placement(Protocol):
    """A model laid over the workers. Every method is collective: all workers call it, in the same order."""

    optimizer: Any
    """What moves the parameters: torch's own AdamW, or DeepSpeed's around it."""

    def __call__(self, **inputs: Any) -> Any:
        """The model's forward, as transformers' causal LMs answer it."""
        ...

    def add_gradients(self, losses: Sequence[Callable[[], Tensor]]) -> None:
        """Call each in turn and add up its gradient, averaged over the workers; each worker brings as many."""
        ...

    def move(self, rate: float | None) -> float:
        """Clip, take the optimizer's step at this rate and drop the gradients; returns their norm before the clip.

        None moves nothing, and neither does a gradient that is not finite.
        """
        ...

    def masters(self) -> dict[str, Tensor]:
        """By name, whole, in float32 and in host memory, what is trained; empty but on the first worker."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """The same with the optimizer's moments and count: what a checkpoint holds, whatever the strategy."""
        ...

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state_dict` gave to the first worker of any number; every worker has it here."""
        ...


Loader = Callable[[], Any]
"""Makes the model in host memory, or, within the context of a strategy that lays its weights out as they are read, in
parts; some of its parameters ask for a gradient."""


class LeavingAdamW(torch.optim.AdamW):
    """AdamW that can leave out a step: parameters, moments and count stay as they are.

    DeepSpeed takes its optimizer's step at the end of one of its own, which also drops the gradients and cannot be left
    out.
    """

    leaves_out = False

    def step(self, closure: Any = None) -> Any:
        """Take a step, or none."""
        return None if self.leaves_out else super().step(closure)

    def begin(self, parameters: Iterable[Tensor]) -> None:
        """Give these parameters their moments, which torch does at the first step: a checkpoint may come before it."""
        for parameter in parameters:
            moments = {moment: torch.zeros_like(parameter, requires_grad=False) for moment in MOMENTS}
            self.state[parameter] = {"step": torch.tensor(0.0), **moments}

    @property
    def count(self) -> float:
        """Steps that were taken."""
        return next(float(state["step"]) for state in self.state.values())


def adamw(parameters: Iterable[Tensor], train: TrainSettings) -> LeavingAdamW:
    """One group of all that is trained; its rate is set at each step."""
    return LeavingAdamW(list(parameters), lr=0.0, betas=(0.9, train.adam_beta2), weight_decay=train.weight_decay)


def trainable(model: Any) -> dict[str, Any]:
    """By name what of a model asks for a gradient."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def blocks_of(module: Any) -> list[Any]:
    """The decoder blocks of a model, which transformers names as what must not be split."""
    kinds = set(module._no_split_modules or ())
    return [part for part in module.modules() if type(part).__name__ in kinds]
