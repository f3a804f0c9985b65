"""One optimizer step of several roles at once: gradients of packed parts, one clip and one AdamW a role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainers.fused.losses import completion_weight, kl_losses, parent_weight, sft_losses
from trainers.fused.pairs import PackedPairs, pair_weight, preference_losses
from trainers.lean.adapter_bank import AdapterBank
from trainers.lean.lanes import Lanes
from trainers.lean.model import LeanModel
from trainers.lean.packing import Group, Packed, pack
from trainers.lean.segments import Segments
from trainers.parallel import World


@dataclass(frozen=True)
class StepParts:
    """What one step passes through the model, in parts whose gradients add up."""

    sft: Sequence[Packed | Segments]
    """Examples. Packed ones bring what their parent expects with them, and are held to it in the same forward."""
    pairs: Sequence[PackedPairs] = ()
    """Preference pairs."""
    kl: Sequence[Packed] = ()
    """Examples that are held to their parent alone: of a step whose `sft` are segments."""
    shares: Tensor | None = None
    """(3, slots): what each slot's SFT, DPO and KL loss are multiplied by; none: 1."""
    beta: float = 0.1
    """DPO's."""
    lanes: int = 1
    """Parts that run at a time."""


@dataclass(frozen=True)
class StepLosses:
    """What a step found, each (slots,)."""

    total: Tensor
    """The loss whose gradient it is: all channels, each times its share."""
    sft: Tensor
    """Nats a token."""
    dpo: Tensor
    """Nats a pair."""
    kl: Tensor
    """Nats a token of the rows that are held to their parent."""
    norms: Tensor
    """Of the gradients."""

    def on_host(self) -> StepLosses:
        """The same on the host, by one copy that waits for what was asked of the device before."""
        if self.total.device.type == "cpu":
            return self
        return StepLosses(*torch.stack([self.total, self.sft, self.dpo, self.kl, self.norms]).cpu())


class TrioStep:
    """The adapters of a bank in training.

    Several processes take a step together: each passes parts of its own, and losses, gradients and norms are those of
    all parts of all processes, the same in each.
    """

    guarded = False
    """Whether :meth:`move` itself leaves everything alone when a loss or a norm is not finite."""

    def __init__(
        self,
        model: LeanModel,
        bank: AdapterBank,
        lanes: Lanes,
        weight_decay: float = 0.0,
        beta2: float = 0.999,
        world: World = World.alone(),
    ):
        self.model, self.bank, self.lanes, self.world = model, bank, lanes, world
        self._banks = [bank]  # the lanes' own; further ones come when they are first asked for
        self._parameters = [torch.nn.Parameter(bank.master[slot]) for slot in range(bank.slots)]
        for slot, parameter in enumerate(self._parameters):
            parameter.grad = bank.grad[slot]
        self._optimizers = [
            torch.optim.AdamW([parameter], betas=(0.9, beta2), weight_decay=weight_decay, fused=True)
            for parameter in self._parameters
        ]

    def parts(self, tokens: int, most: int) -> int:
        """In how many parts a step of so many tokens is taken: the `accumulation` of the settings."""
        return most

    def pack(self, parts: Sequence[Sequence[Group]]) -> Sequence[Packed | Segments]:
        """Each part's groups as one batch for :meth:`channel_gradients`."""
        return [pack(part, self.model.device) for part in parts]

    def kl_parts(self, parts: Sequence[Sequence[Group]]) -> Sequence[Packed]:
        """What of these groups is held to its parent apart from :meth:`pack`'s batches: nothing."""
        return ()

    def gradients(self, batches: Sequence[Packed | Segments], lanes: int = 1) -> tuple[Tensor, Tensor]:
        """Add up the gradients of all batches, as of one. Returns losses and gradient norms, both (slots,).

        `lanes` batches run at a time. A slot without a completion token in any batch gets loss 0 and gradient 0.
        """
        found = self.channel_gradients(StepParts(batches, lanes=lanes))
        return found.total, found.norms

    def channel_gradients(self, parts: StepParts) -> StepLosses:
        """Add up the gradients of all parts, as of one; nothing moves yet.

        A slot without data in a channel gets loss 0 there, and gradient 0 from it.
        """
        slots, device = self.bank.slots, self.model.device
        while len(self._banks) < parts.lanes:
            self._banks.append(self.bank.with_own_gradients())
        examples: list[Packed] = []
        for batch in parts.sft:
            # A batch of the other kind of step must not be left out in silence: its rows would count as trained.
            assert isinstance(batch, Packed), "segments are trained by GraphStep"
            examples.append(batch)
        tokens, held, pairs = self._normalisers(examples, parts.pairs)
        shares = torch.ones(3, slots, device=device) if parts.shares is None else parts.shares
        work: list[Packed | PackedPairs] = [*examples, *parts.pairs]

        def lane(number: int) -> Tensor:
            bank, losses = self._banks[number], torch.zeros(3, slots, device=device)
            bank.grad.zero_()
            with torch.enable_grad():
                for part in work[number :: parts.lanes]:
                    if isinstance(part, PackedPairs):
                        log_probs = self.model.log_probs(part.rows, bank)
                        own = {1: preference_losses(log_probs, part, slots, pairs, parts.beta)}
                    elif part.parent is None:
                        own = {0: sft_losses(self.model.log_probs(part, bank), part, slots, tokens)}
                    else:
                        log_probs, of_parent = self.model.log_probs_and_parent(part, bank)
                        sft, kl = sft_losses(log_probs, part, slots, tokens), kl_losses(of_parent, part, slots, held)
                        own = {0: sft, 2: kl}
                    torch.stack([(loss * shares[channel]).sum() for channel, loss in own.items()]).sum().backward()
                    for channel, loss in own.items():
                        losses[channel] += loss.detach()
            return losses

        losses = self.world.sum_(torch.stack(self.lanes.map(lane, range(parts.lanes))).sum(0))
        for other in self._banks[1 : parts.lanes]:
            self.bank.grad.add_(other.grad)
        self.world.sum_(self.bank.grad)
        return StepLosses((losses * shares).sum(0), losses[0], losses[1], losses[2], self.bank.grad.norm(dim=1))

    def _normalisers(self, examples: Sequence[Packed], pairs: Sequence[PackedPairs]) -> tuple[Tensor, Tensor, Tensor]:
        """What each slot's SFT, KL and DPO losses are divided by, each (slots,): the sums over all parts of the step of
        every process."""
        slots, none = self.bank.slots, torch.zeros(self.bank.slots, device=self.model.device)
        tokens = sum((completion_weight(batch, slots) for batch in examples), none)
        held = sum((parent_weight(batch, slots) for batch in examples), none)
        weights = torch.stack([tokens.double(), held.double(), pair_weight(pairs, slots, self.model.device)])
        self.world.sum_(weights)
        return weights[0].float(), weights[1].float(), weights[2]

    def move(self, rates: Sequence[float | None], clip: float, norms: Tensor, learned: Tensor | None = None) -> None:
        """Clip each slot's gradient to norm `clip` and take its optimizer's step at its rate; None leaves it alone.

        `norms` are those of the latest :meth:`channel_gradients`; `learned`, (slots,) bool, are further slots that are
        left alone.
        """
        self.bank.grad.mul_((clip / (norms + 1e-6)).clamp(max=1.0)[:, None])
        still = [False] * self.bank.slots if learned is None else learned.tolist()
        for optimizer, rate, stays in zip(self._optimizers, rates, still, strict=True):
            if rate is not None and not stays:
                optimizer.param_groups[0]["lr"] = rate
                optimizer.step()
        self.bank.round_to_compute()

    def state_dict(self) -> dict[str, Tensor]:
        """Masters and both moments of every optimizer, by name: what a checkpoint holds."""
        tensors = {"master": self.bank.master}
        for slot, (optimizer, parameter) in enumerate(zip(self._optimizers, self._parameters, strict=True)):
            for name, value in optimizer.state[parameter].items():
                tensors[f"{slot}.{name}"] = value
        return tensors

    def load_state_dict(self, tensors: Mapping[str, Tensor], slots: Sequence[int] | None = None) -> None:
        """Take over what :meth:`state_dict` gave, of these slots only; none: all."""
        for slot in range(self.bank.slots) if slots is None else slots:
            with torch.no_grad():
                self.bank.master[slot].copy_(tensors["master"][slot])
            prefix = f"{slot}."
            self._optimizers[slot].state[self._parameters[slot]] = {
                name.removeprefix(prefix): value.to(self.model.device)
                for name, value in tensors.items()
                if name.startswith(prefix)
            }
        self.bank.round_to_compute()
