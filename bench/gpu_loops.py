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
from typing import Any

import torch
from torch import Tensor

from trainers.config import LoraSettings
from trainers.fused.step import TrioStep
from trainers.lean.adapter_bank import AdapterBank
from trainers.lean.lanes import Lanes
from trainers.lean.model import LeanModel
from trainers.lean.packing import Group, Packed, Row, pack

ROLES_TRAINED, RANK, ALPHA, LR = 3, 32, 64, 2e-4
WARM_UP_STEPS, ROWS_A_STEP = 5, 8
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


def random_rows(steps: int, vocabulary: int) -> list[list[Row]]:
    """For each role, the rows of all steps: its header, random text, a random answer."""
    by_role = []
    for role in range(ROLES_TRAINED):
        draw = random.Random(f"bench-gpu:{role}")

        def ids(count: int, draw: random.Random = draw) -> list[int]:
            return [draw.randrange(vocabulary) for _ in range(count)]

        header, rows = ids(HEADER_TOKENS), []
        for _ in range(steps * ROWS_A_STEP):
            length, answer = draw.randint(*EXAMPLE_TOKENS), draw.randint(*ANSWER_TOKENS)
            rows.append(Row([*header, *ids(length - HEADER_TOKENS)], length - answer))
        by_role.append(rows)
    return by_role


def micro_batches(rows: Sequence[Row], step: int, setting: Setting) -> list[Sequence[Row]]:
    """A role's rows of one step, in `accumulation` parts."""
    start = step * ROWS_A_STEP
    return [rows[at : at + setting.batch] for at in range(start, start + ROWS_A_STEP, setting.batch)]


# -- the two ways to train -------------------------------------------------------------------------------------------


def run_fused(hf: Any, rows: list[list[Row]], setting: Setting, steps: int) -> Measured:
    """The three roles in one packed pass a micro-batch, as `trainers.fused.engine` does it."""
    device = hf.device
    _begin(device)
    model = LeanModel(hf)
    bank = AdapterBank(model.module_shapes, ROLES_TRAINED, LoraSettings(rank=RANK, alpha=ALPHA), model.dtype, device)
    for slot in range(ROLES_TRAINED):
        _start_adapter(bank, slot)
    trio = TrioStep(model, bank, Lanes(1, device))
    losses, work, began = [], Work(), 0.0
    for step in range(WARM_UP_STEPS + steps):
        if step == WARM_UP_STEPS:
            work, began = Work(), _now(device)
        parts = zip(*(micro_batches(own, step, setting) for own in rows), strict=True)
        batches = [pack([Group(slot, own) for slot, own in enumerate(part)], device) for part in parts]
        losses.append(_fused_step(trio, batches))
        work = sum((_fused_work(batch) for batch in batches), work)
    return _end(device, began, steps, work, losses[0])


def _fused_step(trio: TrioStep, batches: list[Packed]) -> list[float]:
    losses, norms = trio.gradients(batches)
    found: list[float] = losses.tolist()
    _stop_if_not_finite([*found, *norms.tolist()])
    trio.move([LR] * ROLES_TRAINED, 1.0, norms)
    return found


def _start_adapter(bank: AdapterBank, slot: int) -> None:
    """As PEFT starts one: A uniform in +-1/sqrt(in), B zero."""
    tensors = {}
    for name, view in bank.state_dict(slot).items():
        bound = 1 / math.sqrt(view.shape[1])
        tensors[name] = torch.empty_like(view).uniform_(-bound, bound) if name.endswith("A") else torch.zeros_like(view)
    bank.load_state_dict(slot, tensors)


def _fused_work(batch: Packed) -> Work:
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
    from peft import LoraConfig, get_peft_model

    device = hf.device
    _begin(device)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    seconds, work, first_losses, peak = 0.0, Work(), [], 0
    for own in rows:
        model = get_peft_model(hf, config, autocast_adapter_dtype=master).train()
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=LR, weight_decay=0.0, fused=True)
        began = 0.0
        for step in range(WARM_UP_STEPS + steps):
            if step == WARM_UP_STEPS:
                began = _now(device)
            loss, done = _peft_step(model, parameters, optimizer, micro_batches(own, step, setting), master)
            if step == 0:
                first_losses.append(loss)
            if step >= WARM_UP_STEPS:
                work += done
        role = _end(device, began, steps, work, first_losses)
        seconds, peak = seconds + role.seconds, max(peak, role.peak_bytes)
        model.unload()
        if hasattr(hf, "peft_config"):
            del hf.peft_config
        del model, parameters, optimizer
    return Measured(seconds, ROLES_TRAINED * ROWS_A_STEP * steps, work, peak, first_losses)


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


def _end(device: torch.device, began: float, steps: int, work: Work, first_losses: list[float]) -> Measured:
    seconds = _now(device) - began
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return Measured(seconds, ROLES_TRAINED * ROWS_A_STEP * steps, work, peak, first_losses)


def _stop_if_not_finite(values: list[float]) -> None:
    if not all(map(math.isfinite, values)):
        raise SystemExit(f"a loss or gradient norm is not finite: {values}; the figures would mean nothing.")
