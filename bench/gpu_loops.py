"""The two ways to train that `bench.gpu` compares: the fused trio, and one PEFT loop after another.

Needs torch, transformers and peft only.
"""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from trainers.config import LoraSettings
from trainers.fused.graph import GraphStep
from trainers.fused.step import StepLosses, StepParts, TrioStep
from trainers.lean.adapter_bank import AdapterBank
from trainers.lean.lanes import Lanes
from trainers.lean.model import LeanModel
from trainers.lean.packing import Group, Packed, Row, pack
from trainers.lean.segments import Segments

ROLES_TRAINED, RANK, ALPHA, LR = 3, 32, 64, 2e-4
WARM_UP_STEPS = 5
HEADER_TOKENS, EXAMPLE_TOKENS, ANSWER_TOKENS = 20, (30, 60), (4, 10)


@dataclass(frozen=True)
class Work:
    """What a variant computed in its measured steps."""

    tokens: int = 0
    """Tokens that went through the blocks, padding included."""
    scored: int = 0
    """Positions that went through the output layer."""
    pairs: int = 0
    """Causal (query, key) pairs."""

    def __add__(self, other: Work) -> Work:
        return Work(self.tokens + other.tokens, self.scored + other.scored, self.pairs + other.pairs)


@dataclass(frozen=True)
class Measured:
    seconds: float
    examples: int
    work: Work
    peak_bytes: int
    """Largest memory held by tensors on the device; 0 on a CPU."""
    first_losses: list[float]
    """Of each role at its first step, nats a token: the variants must agree."""


@dataclass(frozen=True)
class Setting:
    """One line of the table."""

    name: str
    batch: int
    accumulation: int
    run: Callable[[Any, list[list[Row]], Setting, int], Measured]

    @property
    def shape(self) -> str:
        return f"{self.batch} x {self.accumulation}"

    @property
    def ours(self) -> bool:
        """No rival."""
        return self.run in (run_graph, run_lean)

    @property
    def rows(self) -> int:
        """Rows of each role in a step."""
        return self.batch * self.accumulation


def random_rows(steps: int, vocabulary: int, rows_a_step: int) -> list[list[Row]]:
    """For each role, the rows of all steps: its header, random text, a random answer."""
    by_role = []
    for role in range(ROLES_TRAINED):
        draw = random.Random(f"bench-gpu:{role}")

        def ids(count: int, draw: random.Random = draw) -> list[int]:
            return [draw.randrange(vocabulary) for _ in range(count)]

        header, rows = ids(HEADER_TOKENS), []
        for _ in range(steps * rows_a_step):
            length, answer = draw.randint(*EXAMPLE_TOKENS), draw.randint(*ANSWER_TOKENS)
            rows.append(Row([*header, *ids(length - HEADER_TOKENS)], length - answer))
        by_role.append(rows)
    return by_role


def micro_batches(rows: Sequence[Row], step: int, setting: Setting) -> list[Sequence[Row]]:
    """A role's rows of one step, in `accumulation` parts."""
    start = step * setting.rows
    return [rows[at : at + setting.batch] for at in range(start, start + setting.rows, setting.batch)]


# -- the two ways to train -------------------------------------------------------------------------------------------


def run_lean(hf: Any, rows: list[list[Row]], setting: Setting, steps: int) -> Measured:
    """The three roles in one packed pass a micro-batch, launched one operation after another."""
    device = hf.device
    _begin(device)
    trio, losses, began = new_step(hf, TrioStep), [], 0.0
    for step in range(WARM_UP_STEPS + steps):
        if step == WARM_UP_STEPS:
            began = _now(device)
        found = trio.channel_gradients(StepParts(trio.pack(step_groups(rows, step, setting))))
        losses.append(_checked(found))
        trio.move([LR] * ROLES_TRAINED, 1.0, found.norms)
    return _end(device, began, setting, steps, fused_work(rows, setting, steps), losses[0])


def run_graph(hf: Any, rows: list[list[Row]], setting: Setting, steps: int) -> Measured:
    """The three roles in one pass and one CUDA graph, the next step packed meanwhile, as `trainers.fused.run` does it.

    Graphs of all shapes are made before the clock starts.
    """
    device = hf.device
    _begin(device)
    trio, losses, began, last = new_step(hf, GraphStep), [], 0.0, WARM_UP_STEPS + steps
    whole = Setting(setting.name, setting.rows, 1, setting.run)  # as few parts as memory needs
    warm_up(trio, [batch for at in range(last) for batch in trio.pack(step_groups(rows, at, whole))])
    ready = trio.pack(step_groups(rows, 0, whole))
    for step in range(last):
        if step == WARM_UP_STEPS:
            began = _now(device)
        found = trio.channel_gradients(StepParts(ready))
        trio.move([LR] * ROLES_TRAINED, 1.0, found.norms)
        ready = trio.pack(step_groups(rows, (step + 1) % last, whole))
        losses.append(_checked(found))
    return _end(device, began, setting, steps, fused_work(rows, whole, steps), losses[0])


def stepper(hf: Any, rows: list[list[Row]], setting: Setting, last: int) -> Callable[[int], None]:
    """One step of :func:`run_graph` or :func:`run_lean`, by its number below `last`, with all graphs made."""
    graphed = setting.run is run_graph
    trio = new_step(hf, GraphStep if graphed else TrioStep)
    parts = [StepParts(trio.pack(step_groups(rows, step, setting))) for step in range(last)]
    if isinstance(trio, GraphStep):
        warm_up(trio, [batch for part in parts for batch in part.sft])

    def take(step: int) -> None:
        found = trio.channel_gradients(parts[step])
        if not graphed:
            _checked(found)
        trio.move([LR] * ROLES_TRAINED, 1.0, found.norms)
        trio.pack(step_groups(rows, (step + 1) % last, setting))  # as if for the next step
        if graphed:
            _checked(found)

    return take


def warm_up(trio: GraphStep, batches: Sequence[Packed | Segments]) -> None:
    """Make the graphs of all shapes."""
    for batch in {batch.bucket: batch for batch in batches if isinstance(batch, Segments)}.values():
        trio.channel_gradients(StepParts([batch]))


Step = TypeVar("Step", bound=TrioStep)


def new_step(hf: Any, kind: type[Step]) -> Step:
    """A step of fresh adapters, one a role."""
    model = LeanModel(hf)
    bank = AdapterBank(model.module_shapes, ROLES_TRAINED, LoraSettings(rank=RANK, alpha=ALPHA), model.dtype, hf.device)
    for slot in range(ROLES_TRAINED):
        _start_adapter(bank, slot)
    return kind(model, bank, Lanes(1, hf.device))


def step_groups(rows: list[list[Row]], step: int, setting: Setting) -> list[list[Group]]:
    """The groups of each micro-batch of a step."""
    parts = zip(*(micro_batches(own, step, setting) for own in rows), strict=True)
    return [[Group(slot, own) for slot, own in enumerate(part)] for part in parts]


def _checked(found: StepLosses) -> list[float]:
    host = found.on_host()
    losses: list[float] = host.total.tolist()
    _stop_if_not_finite([*losses, *host.norms.tolist()])
    return losses


def _start_adapter(bank: AdapterBank, slot: int) -> None:
    """As PEFT starts one: A uniform in +-1/sqrt(in), B zero."""
    tensors = {}
    for name, view in bank.state_dict(slot).items():
        bound = 1 / math.sqrt(view.shape[1])
        tensors[name] = torch.empty_like(view).uniform_(-bound, bound) if name.endswith("A") else torch.zeros_like(view)
    bank.load_state_dict(slot, tensors)


def fused_work(rows: list[list[Row]], setting: Setting, steps: int) -> Work:
    """What the measured steps need: a shared header counts once, padding not at all."""
    measured = range(WARM_UP_STEPS, WARM_UP_STEPS + steps)
    batches = [pack(part, torch.device("cpu")) for step in measured for part in step_groups(rows, step, setting)]
    return sum((_work_of(batch) for batch in batches), Work())


def _work_of(batch: Packed) -> Work:
    rests, prefixes = batch.suffix_lens.tolist(), batch.prefix_lens.tolist()
    pairs = sum(rest * prefix + rest * (rest + 1) // 2 for rest, prefix in zip(rests, prefixes, strict=True))
    first_rows = [sum(batch.group_sizes[:group]) for group in range(len(batch.group_sizes))]
    pairs += sum(prefixes[row] * (prefixes[row] + 1) // 2 for row in first_rows)
    return Work(batch.tokens, int(batch.targets.numel()), pairs)


def run_peft(hf: Any, rows: list[list[Row]], setting: Setting, steps: int, master: bool) -> Measured:
    """Three runs one after another over one base: Hugging Face's forward, sdpa, batches padded to their longest row.

    No gradient checkpointing. Padding stands on the left, so that the answers end together and logits are computed for
    the last few positions alone (`logits_to_keep`), which is the larger part of what a careful user can save.

    Args:
        master: adapters in float32 under autocast, as trainers do; else in bfloat16 altogether.
    """
    _begin(hf.device)
    seconds, work, first_losses, peak = 0.0, Work(), [], 0
    for own in rows:
        role = run_peft_role(hf, own, setting, steps, master)
        seconds, peak, work = seconds + role.seconds, max(peak, role.peak_bytes), work + role.work
        first_losses += role.first_losses
    return Measured(seconds, ROLES_TRAINED * setting.rows * steps, work, peak, first_losses)


def run_peft_role(
    hf: Any, own: list[Row], setting: Setting, steps: int, master: bool, at_start: Callable[[], None] = lambda: None
) -> Measured:
    """One role's loop; `at_start` is called when it is warm."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(hf, config, autocast_adapter_dtype=master).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LR, weight_decay=0.0, fused=True)
    began, work, first_losses = 0.0, Work(), []
    for step in range(WARM_UP_STEPS + steps):
        if step == WARM_UP_STEPS:
            at_start()
            began = _now(hf.device)
        loss, done = _peft_step(model, parameters, optimizer, micro_batches(own, step, setting), master)
        if step == 0:
            first_losses.append(loss)
        if step >= WARM_UP_STEPS:
            work += done
    found = _end(hf.device, began, setting, steps, work, first_losses)
    model.unload()
    if hasattr(hf, "peft_config"):
        del hf.peft_config
    return found


def run_peft_master(hf: Any, rows: list[list[Row]], setting: Setting, steps: int) -> Measured:
    return run_peft(hf, rows, setting, steps, master=True)


def run_peft_bfloat16(hf: Any, rows: list[list[Row]], setting: Setting, steps: int) -> Measured:
    return run_peft(hf, rows, setting, steps, master=False)


def _peft_step(
    model: Any, parameters: list[Tensor], optimizer: torch.optim.AdamW, parts: list[Sequence[Row]], master: bool
) -> tuple[float, Work]:
    device, work = parameters[0].device, Work()
    scored = sum(len(row.tokens) - row.prompt_len for part in parts for row in part)
    total = torch.zeros((), device=device)
    for part in parts:
        width = max(len(row.tokens) for row in part)
        keep = max(len(row.tokens) - row.prompt_len for row in part) + 1
        gaps = [width - len(row.tokens) for row in part]
        ids = torch.tensor([[0] * gap + list(row.tokens) for gap, row in zip(gaps, part, strict=True)], device=device)
        mask = torch.tensor([[0] * gap + [1] * (width - gap) for gap in gaps], device=device)
        answers = [len(row.tokens) - row.prompt_len for row in part]
        wanted = [
            [-100] * (keep - 1 - n) + list(row.tokens[row.prompt_len :]) for n, row in zip(answers, part, strict=True)
        ]
        labels = torch.tensor(wanted, device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=master):
            logits = model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=(mask.cumsum(1) - 1).clamp(min=0),
                use_cache=False,
                logits_to_keep=keep,
            ).logits
        flat = logits[:, :-1].float().flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(flat, labels.flatten(), ignore_index=-100, reduction="sum") / scored
        loss.backward()
        total += loss.detach()
        work += Work(len(part) * width, len(part) * keep, len(part) * width * (width + 1) // 2)
    norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    found = float(total)
    _stop_if_not_finite([found, float(norm)])
    optimizer.step()
    optimizer.zero_grad()
    return found, work


# -- measuring -------------------------------------------------------------------------------------------------------


def _begin(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    torch.manual_seed(2)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _end(
    device: torch.device, began: float, setting: Setting, steps: int, work: Work, first_losses: list[float]
) -> Measured:
    seconds = _now(device) - began
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return Measured(seconds, ROLES_TRAINED * setting.rows * steps, work, peak, first_losses)


def _stop_if_not_finite(values: list[float]) -> None:
    if not all(map(math.isfinite, values)):
        raise SystemExit(f"a loss or gradient norm is not finite: {values}; the figures would mean nothing.")
