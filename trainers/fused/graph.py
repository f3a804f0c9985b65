"""The optimizer step on a GPU: passes and update as CUDA graphs over buffers that stay where they are.

A step of two dozen short rows is over in a few milliseconds on a GPU, less than the host needs to issue its launches
one by one. Here the host copies one buffer of numbers, replays a graph for the pass and one for the update, and while
they run packs the next step's rows. Nothing in a step waits for the host. Whether all losses and gradient norms are
finite is decided on the device, where the update skips itself if not, so that the host may read them afterwards.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from trainers.fused.losses import kl_losses, parent_weight
from trainers.fused.pairs import PackedPairs, pair_weight, preference_losses
from trainers.fused.step import StepLosses, StepParts, TrioStep
from trainers.gpu.ops import Ops, PlainOps
from trainers.gpu.segment_pass import SegmentPass
from trainers.lean.adapter_bank import AdapterBank
from trainers.lean.lanes import Lanes
from trainers.lean.model import LeanModel
from trainers.lean.packing import Group, Packed, pack
from trainers.lean.segments import Bucket, Segments, SegmentViews, lay_out, slot_weights
from trainers.parallel import World

_POSITIONS = 8192
"""Longest row, for which the rotary table is made."""

_ROOM = 1 / 8
"""Share of the device's memory that one pass may keep its states in: 2 GiB, some 1,700 tokens of Qwen2.5-0.5B, of a
card of 16 GiB, where a server may hold nearly half. Of all memory, not of what is free, so that equal runs take equal
parts."""

_BETA1, _EPS = 0.9, 1e-8


class Graphed:
    """A function of buffers that stay where they are: run as it is the first time, then captured, then replayed.

    It is given at each call and never kept, so that whoever keeps the graph can be its owner and is freed with it.
    """

    def __init__(self, pool: Any):
        """`pool`, of `torch.cuda.graph_pool_handle`, is the memory that graphs share; none: nothing is captured."""
        self._pool = pool
        self._graph: torch.cuda.CUDAGraph | None = None
        self._result: Tensor | None = None

    def __call__(self, function: Callable[[], Tensor]) -> Tensor:
        """The function's result; of a replay it is valid until the next one."""
        if self._graph is not None and self._result is not None:
            self._graph.replay()
            return self._result
        found = function()
        if self._pool is not None:
            graph = torch.cuda.CUDAGraph()
            with no_collection(), torch.cuda.graph(graph, pool=self._pool):
                self._result = function()
            self._graph = graph
        return found


@contextmanager
def no_collection() -> Iterator[None]:
    """No garbage collection until the block ends: another graph that it freed in there would break the capture."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@dataclass(frozen=True)
class _BucketPass:
    """What the batches of a bucket are copied to, and the graph that reads it."""

    buffer: Tensor  # (numbers,) int32
    views: SegmentViews
    graphed: Graphed

    @classmethod
    def of(cls, bucket: Bucket, device: torch.device, pool: Any) -> _BucketPass:
        buffer = torch.zeros(bucket.numbers, dtype=torch.int32, device=device)
        return cls(buffer, SegmentViews.of(buffer, bucket), Graphed(pool))


@dataclass(frozen=True)
class Driver:
    """What a step asks of a GPU's driver beside operations."""

    is_there: bool
    """Whether there are streams, and memory of the host that is copied without waiting."""
    memory: int
    """Bytes of the device."""
    pool: Any = None
    """See :class:`Graphed`. All graphs of a step share it: no two run at once, their results are read in between."""


def driver_of(device: torch.device) -> Driver:
    """The driver of an NVIDIA GPU; a CPU has none, and counts as a device of 16 GiB."""
    if device.type != "cuda":
        return Driver(is_there=False, memory=1 << 34)
    memory = torch.cuda.get_device_properties(device).total_memory
    return Driver(is_there=True, memory=memory, pool=torch.cuda.graph_pool_handle())


class GraphStep(TrioStep):
    """See :class:`trainers.fused.step.TrioStep`; examples go by segments, preference pairs and what is
    held to its parent by the lean forward."""

    guarded = True

    def __init__(
        self,
        model: LeanModel,
        bank: AdapterBank,
        lanes: Lanes,
        weight_decay: float = 0.0,
        beta2: float = 0.999,
        world: World = World.alone(),
    ):
        super().__init__(model, bank, lanes, weight_decay, beta2, world)
        slots, device = bank.slots, model.device
        driver = driver_of(device)
        self._pool, self._memory, self._pinned = driver.pool, driver.memory, driver.is_there
        self._weight_decay, self._beta2 = weight_decay, beta2
        self._moments = torch.zeros(2, *bank.master.shape, device=device)
        self._steps = [torch.zeros((), device=device) for _ in range(slots)]
        for slot, (optimizer, parameter) in enumerate(zip(self._optimizers, self._parameters, strict=True)):
            mean, square = self._moments[:, slot]
            optimizer.state[parameter] = {"step": self._steps[slot], "exp_avg": mean, "exp_avg_sq": square}
        self._pass = SegmentPass.over(model, bank, best_ops(device), _POSITIONS, beside=driver.is_there)
        self._passes: dict[tuple[Bucket, bool], _BucketPass] = {}
        self._update = Graphed(self._pool)
        self._round = rounding(bank)
        self._shares = torch.ones(3, slots, device=device)
        self._found = torch.zeros(5, slots, device=device)  # as in StepLosses
        self._orders = torch.zeros(2, slots + 1, device=device)  # learning rates and clip; 1 for slots that stay

    def without_graphs(self) -> None:
        """Launch every operation from now on, as a graph's first run does."""
        self._pool, self._update = None, Graphed(None)

    def parts(self, tokens: int, most: int) -> int:
        """In how many parts a step of so many tokens is taken: as few as memory needs, and no more than `most`.

        A part keeps a GPU as busy as a whole step, and the gradient is the same.
        """
        needed = tokens * bytes_a_token(self.model, self.bank.rank) / (_ROOM * self._memory)
        return min(most, max(1, math.ceil(needed)))

    def pack(self, parts: Sequence[Sequence[Group]]) -> list[Segments]:
        """See :meth:`TrioStep.pack`."""
        longest = max((len(row.tokens) for part in parts for group in part for row in group.rows), default=0)
        if longest > _POSITIONS:
            raise ValueError(f"a row has {longest} tokens; on a GPU the most is {_POSITIONS}")
        # On the host, so that a step is packed ahead while the device is busy with the one before.
        weights = self.world.sum_(torch.tensor(slot_weights(parts, self.bank.slots), dtype=torch.float64)).tolist()
        return [lay_out(part, self.bank.slots, weights, self._pinned) for part in parts]

    def kl_parts(self, parts: Sequence[Sequence[Group]]) -> list[Packed]:
        """See :meth:`TrioStep.kl_parts`: the rows whose parent is known, once more."""
        held = [
            [Group(group.slot, rows) for group in part if (rows := [row for row in group.rows if row.parent])]
            for part in parts
        ]
        return [pack(part, self.model.device) for part in held if part]

    def channel_gradients(self, parts: StepParts) -> StepLosses:
        """See :meth:`TrioStep.channel_gradients`. What it returns is valid until the next call."""
        slots, device = self.bank.slots, self.model.device
        losses = torch.zeros(3, slots, device=device)
        self._shares.copy_(parts.shares) if parts.shares is not None else self._shares.fill_(1.0)
        others = parts.pairs or parts.kl or not self.world.is_alone
        held, pairs = self._weights(parts) if others else (None, None)

        def passes() -> None:
            if not parts.sft:
                self.bank.grad.zero_()
            for number, batch in enumerate(parts.sft):
                assert isinstance(batch, Segments)
                losses[0] += self._gradient_of(batch, fresh=number == 0)
            if held is not None and pairs is not None:
                losses[1] = sum((self._pairs_gradient(part, pairs, parts.beta) for part in parts.pairs), losses[1])
                losses[2] = sum((self._kl_gradient(part, held) for part in parts.kl), losses[2])

        self.world.unless_memory_runs_out(passes)
        self.world.sum_(losses)
        self.world.sum_(self.bank.grad)
        torch.stack(
            [(losses * self._shares).sum(0), *losses, torch.linalg.vector_norm(self.bank.grad, dim=1)], out=self._found
        )
        return StepLosses(*self._found)

    def _weights(self, parts: StepParts) -> tuple[Tensor, Tensor]:
        """What the losses beside the examples' are divided by: see :meth:`TrioStep._normalisers`."""
        slots, device = self.bank.slots, self.model.device
        none = torch.zeros(1, slots, device=device)
        held = torch.cat([none, *(parent_weight(part, slots)[None] for part in parts.kl)]).sum(0)
        weights = self.world.sum_(torch.stack([held.double(), pair_weight(parts.pairs, slots, device)]))
        return weights[0].float(), weights[1]

    def _pairs_gradient(self, part: PackedPairs, weight: Tensor, beta: float) -> Tensor:
        with torch.enable_grad():
            own = preference_losses(self.model.log_probs(part.rows, self.bank), part, self.bank.slots, weight, beta)
            (own * self._shares[1]).sum().backward()
        return own.detach()

    def _kl_gradient(self, part: Packed, weight: Tensor) -> Tensor:
        with torch.enable_grad():
            _, of_parent = self.model.log_probs_and_parent(part, self.bank)
            own = kl_losses(of_parent, part, self.bank.slots, weight)
            (own * self._shares[2]).sum().backward()
        return own.detach()

    def _gradient_of(self, batch: Segments, fresh: bool) -> Tensor:
        """The slots' losses of one batch; its gradients are written to the bank, or added if not `fresh`."""
        key = batch.bucket, fresh
        if key not in self._passes:
            self._passes[key] = _BucketPass.of(batch.bucket, self.model.device, self._pool)
        own = self._passes[key]
        own.buffer.copy_(batch.buffer, non_blocking=True)

        @torch.no_grad()
        def run() -> Tensor:
            return self._pass(own.views, batch.bucket, self._shares[0], fresh)

        return own.graphed(run)

    def move(self, rates: Sequence[float | None], clip: float, norms: Tensor, learned: Tensor | None = None) -> None:
        """See :meth:`TrioStep.move`; nothing moves if a loss or a norm of the step is not finite."""
        orders = [[*(rate or 0.0 for rate in rates), clip], [*(float(rate is None) for rate in rates), 0.0]]
        self._orders.copy_(torch.tensor(orders, pin_memory=self._pinned), non_blocking=True)
        if learned is not None:
            self._orders[1, :-1].masked_fill_(learned, 1.0)
        self._update(self._updated)

    @torch.no_grad()
    def _updated(self) -> Tensor:
        """Clip, AdamW and rounding of all slots, as `_orders` says; skipped where it says so or all is not finite."""
        rates, clip, norms = self._orders[0, :-1], self._orders[0, -1], self._found[4]
        broken = torch.isfinite(self._found).all().logical_not()
        skipped = torch.maximum(self._orders[1, :-1], broken.float())
        # AdamW divides by the scale; 1 where the norm is within bounds.
        scales = ((norms + 1e-6) / clip).clamp(min=1.0)
        for slot, parameter in enumerate(self._parameters):
            self._steps[slot].add_(1.0 - skipped[slot])
            mean, square = self._moments[:, slot]
            torch._fused_adamw_(
                [parameter], [self.bank.grad[slot]], [mean], [square], [], [self._steps[slot]],
                lr=rates[slot], beta1=_BETA1, beta2=self._beta2, weight_decay=self._weight_decay, eps=_EPS,
                amsgrad=False, maximize=False, grad_scale=scales[slot], found_inf=skipped[slot],
            )  # fmt: skip
        self._round()
        return skipped

    def load_state_dict(self, tensors: Mapping[str, Tensor], slots: Sequence[int] | None = None) -> None:
        """See :meth:`TrioStep.load_state_dict`; in place, since graphs know where the state lies."""
        own = self.state_dict()
        for slot in range(self.bank.slots) if slots is None else slots:
            with torch.no_grad():
                self.bank.master[slot].copy_(tensors["master"][slot])
                for name in (f"{slot}.step", f"{slot}.exp_avg", f"{slot}.exp_avg_sq"):
                    own[name].copy_(tensors[name]) if name in tensors else own[name].zero_()
        self.bank.round_to_compute()


def step_for(model: LeanModel, rank: int) -> type[TrioStep]:
    """How the adapters of a rank are trained: by graphs where that fits the device, else part by part.

    Fitting are NVIDIA GPUs with Triton from Ampere on. Measured on Hopper; blocks of wide heads and high ranks may not
    fit what an older one's processor holds. A base in four bits goes part by part.
    """
    if not model.whole:
        return TrioStep
    if model.device.type != "cuda" or not torch.version.cuda or find_spec("triton") is None:
        return TrioStep
    capability = torch.cuda.get_device_capability(model.device)
    return GraphStep if graphs_fit(capability, max(model.head_width, rank)) else TrioStep


def graphs_fit(capability: tuple[int, int], widest: int) -> bool:
    """Whether the kernels fit an NVIDIA GPU, for the wider of a head and the rank."""
    return capability >= (8, 0) and widest <= (128 if capability >= (9, 0) else 64)


def bytes_a_token(model: LeanModel, rank: int) -> int:
    """About what a pass keeps of a token for its backward: all layers' states, a fifth more for gradients and padding.

    Measured at 8 to 64 rows a role of Qwen2.5-0.5B's shape: within 6 % of what tensors held at most.
    """
    (q, width), (k, _), *_, (_, inner) = model.module_shapes[0]
    states = 5 * width + q + 2 * k + 3 * inner + 7 * rank
    whole = states + len(model.layers) * 2 * width if model.recomputes else len(model.layers) * states
    return whole * model.embedding.element_size() * 6 // 5


def rounding(bank: AdapterBank) -> Callable[[], None]:
    """What refreshes the bank's copies for the products."""
    if bank.master.device.type != "cuda":
        return bank.round_to_compute
    from trainers.gpu.triton_ops import Rounding

    return Rounding(bank)


def best_ops(device: torch.device) -> Ops:
    """Triton's kernels where they can run, else plain operations."""
    if device.type != "cuda":
        return PlainOps()
    from trainers.gpu.triton_ops import TritonOps

    return TritonOps()
