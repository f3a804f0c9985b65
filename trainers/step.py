"""One optimizer step of several roles at once: gradients of packed batches, one clip and one AdamW a role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from trainers.bank import AdapterBank
from trainers.lanes import Lanes
from trainers.lean import LeanModel
from trainers.objective import completion_weight, sft_losses
from trainers.packing import Packed


class TrioStep:
    """The adapters of a bank in training."""

    def __init__(
        self, model: LeanModel, bank: AdapterBank, lanes: Lanes, weight_decay: float = 0.0, beta2: float = 0.999
    ):
        self.model, self.bank, self.lanes = model, bank, lanes
        self._banks = [bank]  # the lanes' own; further ones come when they are first asked for
        self._parameters = [torch.nn.Parameter(bank.master[slot]) for slot in range(bank.slots)]
        for slot, parameter in enumerate(self._parameters):
            parameter.grad = bank.grad[slot]
        self._optimizers = [
            torch.optim.AdamW([parameter], betas=(0.9, beta2), weight_decay=weight_decay, fused=True)
            for parameter in self._parameters
        ]

    def gradients(self, batches: Sequence[Packed], lanes: int = 1) -> tuple[Tensor, Tensor]:
        """Add up the gradients of all batches, as of one. Returns losses and gradient norms, both (slots,).

        `lanes` batches run at a time. A slot without a completion token in any batch gets loss 0 and gradient 0.
        """
        slots = self.bank.slots
        while len(self._banks) < lanes:
            self._banks.append(self.bank.beside())
        totals = torch.zeros(slots, device=self.model.device)
        for batch in batches:
            totals += completion_weight(batch, slots)

        def lane(number: int) -> Tensor:
            bank, losses = self._banks[number], torch.zeros(slots, device=self.model.device)
            bank.grad.zero_()
            with torch.enable_grad():
                for batch in batches[number::lanes]:
                    parts = sft_losses(self.model.log_probs(batch, bank), batch, slots, totals)
                    parts.sum().backward()
                    losses += parts.detach()
            return losses

        losses = torch.stack(self.lanes.map(lane, range(lanes))).sum(0)
        for beside in self._banks[1:lanes]:
            self.bank.grad.add_(beside.grad)
        return losses, self.bank.grad.norm(dim=1)

    def move(self, rates: Sequence[float | None], clip: float, norms: Tensor) -> None:
        """Clip each slot's gradient to norm `clip` and take its optimizer's step at its rate; None leaves it alone."""
        self.bank.grad.mul_((clip / (norms + 1e-6)).clamp(max=1.0)[:, None])
        for optimizer, rate in zip(self._optimizers, rates, strict=True):
            if rate is not None:
                optimizer.param_groups[0]["lr"] = rate
                optimizer.step()
        self.bank.round_to_compute()

    def state(self) -> dict[str, Tensor]:
        """Masters and both moments of every optimizer, by name: what a checkpoint holds."""
        tensors = {"master": self.bank.master}
        for slot, (optimizer, parameter) in enumerate(zip(self._optimizers, self._parameters, strict=True)):
            for name, value in optimizer.state[parameter].items():
                tensors[f"{slot}.{name}"] = value
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state` gave."""
        with torch.no_grad():
            self.bank.master.copy_(tensors["master"])
        self.bank.round_to_compute()
        for slot, (optimizer, parameter) in enumerate(zip(self._optimizers, self._parameters, strict=True)):
            prefix = f"{slot}."
            optimizer.state[parameter] = {
                name.removeprefix(prefix): value.to(self.model.device)
                for name, value in tensors.items()
                if name.startswith(prefix)
            }
