"""`make bench-gpu`: the fused trio on a GPU against three plain PEFT loops set well, on a 0.5B-shaped Qwen2.

Weights and token ids are random (the speed does not depend on them) and made on the device, so nothing is downloaded;
torch, transformers, peft, accelerate and datasets are enough. Seed recipe: LoRA r = 32, alpha = 64 on all linear
layers, bfloat16, batch 4 x accumulation 2 for each role, examples of 30 to 60 tokens. The table goes to
`bench/results/gpu.md`.

    python -m bench.gpu [--rounds 3] [--steps 30]
    python -m bench.gpu --device cpu --small      # does it run? prints figures, keeps none
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import replace
from typing import Any

import torch

from bench.gpu_loops import (
    ALPHA,
    ANSWER_TOKENS,
    EXAMPLE_TOKENS,
    HEADER_TOKENS,
    RANK,
    ROLES_TRAINED,
    WARM_UP_STEPS,
    Measured,
    Setting,
    Work,
    random_rows,
    run_graph,
    run_lean,
    run_peft_bfloat16,
    run_peft_master,
)
from cluster.plan.cards import peak_tflops

SEED_EXAMPLES_PER_S = 6.1
"""What the project's first run, on another machine and with another program, is reported to have reached."""

QWEN2_HALF_BILLION: dict[str, Any] = {
    "vocab_size": 151_936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32_768,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
}
"""Qwen2.5-0.5B's published config."""

SMALL = QWEN2_HALF_BILLION | {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}

SETTINGS = [
    Setting(name, batch, accumulation, run)
    for batch, accumulation in ((4, 2), (8, 1), (64, 1))
    for name, run in (
        ("Luna, fused", run_graph),
        ("Luna, fused, without segments and graphs", run_lean),
        ("3 PEFT loops, float32 adapters, autocast", run_peft_master),
        ("3 PEFT loops, bfloat16 adapters", run_peft_bfloat16),
    )
]


def settings(small: bool) -> list[Setting]:
    """The lines of the table; of the toy at most ten rows a role."""
    return [replace(own, batch=min(own.batch, 10)) for own in SETTINGS] if small else SETTINGS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="alternated runs of each variant")
    parser.add_argument("--steps", type=int, default=30, help="measured optimizer steps in a run")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="a toy shape, to see that everything runs")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print(
            "bench.gpu needs a GPU and torch sees none; `--device cpu --small` only checks that it runs.",
            file=sys.stderr,
        )
        raise SystemExit(2)
    device = torch.device(arguments.device)
    model = random_model(SMALL if arguments.small else QWEN2_HALF_BILLION, device)
    chosen = settings(arguments.small)
    results: dict[Setting, list[Measured]] = {setting: [] for setting in chosen}
    for number in range(arguments.rounds):
        for setting in chosen if number % 2 == 0 else chosen[::-1]:
            rows = random_rows(WARM_UP_STEPS + arguments.steps, model.config.vocab_size, setting.rows)
            done = setting.run(model, rows, setting, arguments.steps)
            results[setting].append(done)
            print(
                f"round {number + 1}: {setting.name}, {setting.shape}: {_speed(done):.1f} examples/s", file=sys.stderr
            )
    _check_losses_agree(results)
    report(results, model.config, arguments)


# -- model ---------------------------------------------------------------------------------------------------------


def random_model(shape: dict[str, Any], device: torch.device) -> Any:
    """A frozen bfloat16 Qwen2 with random weights, made on the device."""
    from transformers import AutoModelForCausalLM, Qwen2Config

    torch.manual_seed(1)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(Qwen2Config(**shape), dtype=torch.bfloat16, attn_implementation="sdpa")
    return model.to(device).requires_grad_(False)


def _check_losses_agree(results: dict[Setting, list[Measured]]) -> None:
    """Before the first update every variant has the base's loss on the same rows, to bfloat16's accuracy."""
    for setting, runs in results.items():
        first = next(other for other in results if other.rows == setting.rows)
        wanted = results[first][0].first_losses
        for found in runs[0].first_losses, runs[-1].first_losses:
            if any(abs(a - b) > 0.02 * abs(a) for a, b in zip(wanted, found, strict=True)):
                raise SystemExit(f"{setting.name} computes another loss: {found}, expected {wanted}.")


def _speed(run: Measured) -> float:
    return run.examples / run.seconds


# -- the table -------------------------------------------------------------------------------------------------------


def flops(work: Work, config: Any) -> float:
    """Floating-point operations of forward and backward over a frozen base with LoRA.

    4 P + 6 R a token (P linear weights of the blocks: forward and the gradient of their input; R adapter weights:
    their own gradient too), 4 D V a scored position, 12 L H d a (query, key) pair (scores and values, backward twice
    the forward).
    """
    width, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    head = width // config.num_attention_heads
    keys = config.num_key_value_heads * head
    sites = [(width, width), (width, keys), (width, keys), (width, width)]
    sites += [(width, inner), (width, inner), (inner, width)]
    linear = layers * sum(in_features * out for in_features, out in sites)
    adapters = layers * RANK * sum(in_features + out for in_features, out in sites)
    return (
        work.tokens * (4 * linear + 6 * adapters)
        + work.scored * 4 * width * config.vocab_size
        + work.pairs * 12 * layers * width
    )


def report(results: dict[Setting, list[Measured]], config: Any, arguments: argparse.Namespace) -> None:
    """Print the table, and keep it unless this was the toy."""
    speed = {setting: statistics.median(map(_speed, runs)) for setting, runs in results.items()}
    on_gpu = arguments.device == "cuda"
    peak = peak_tflops(torch.cuda.get_device_name(0)) if on_gpu else None
    rows = []
    for setting, runs in results.items():
        rivals = [
            speed[other] for other in speed if other.shape == setting.shape and other.run not in (run_graph, run_lean)
        ]
        work, examples = runs[0].work, runs[0].examples
        rate = flops(work, config) / examples * speed[setting] / 1e12
        rows.append(
            [
                setting.name,
                setting.shape,
                f"{speed[setting]:.1f}",
                f"{speed[setting] / max(rivals):.2f}",
                f"{work.tokens / examples:.1f}",
                f"{rate:.2f}",
                f"{rate / peak:.2%}" if peak else "",
                f"{max(run.peak_bytes for run in runs) / 2**20:.0f}" if on_gpu else "",
                f"{max(map(_speed, runs)) / min(map(_speed, runs)) - 1:.0%}",
            ]
        )
    rows.append(["the seed's run, as reported", "4 x 2", f"{SEED_EXAMPLES_PER_S}", *[""] * 6])
    header = ["variant", "batch x acc.", "examples/s", "x faster PEFT", "tokens/example", "TFLOPS", "MFU", "peak MiB"]
    header.append("spread")
    notes = _notes(config, arguments, peak)
    if arguments.small or not on_gpu:
        for line in [header, *rows]:
            print(" | ".join(line))
        print("smoke run: these figures say nothing about speed and are not kept.")
        return
    from bench.report import keep

    keep("gpu", "The fused trio on a GPU against three PEFT loops", header, rows, notes)


def _notes(config: Any, arguments: argparse.Namespace, peak: float | None) -> list[str]:
    (shortest, longest), (least, most) = EXAMPLE_TOKENS, ANSWER_TOKENS
    peak_text = f"peak of {peak:g} TFLOPS" if peak else "peak, which is not known for this device"
    return [
        (
            f"{ROLES_TRAINED} roles; Qwen2, {config.num_hidden_layers} layers of width {config.hidden_size}, "
            f"vocabulary {config.vocab_size}, random bfloat16 weights; "
            f"LoRA r = {RANK}, alpha = {ALPHA}, all linear layers"
        ),
        (
            f"examples of {shortest} to {longest} random tokens, the first {HEADER_TOKENS} shared by a role, answers "
            f"of {least} to {most}"
        ),
        (
            f"examples/s of all roles together, batch making and optimizer included: median of {arguments.rounds} "
            f"alternated rounds of {arguments.steps} steps after {WARM_UP_STEPS}; spread is max over min less one"
        ),
        (
            "x faster PEFT: against the faster of the two PEFT rows of the same shape; the loops run one after another "
            "in one process, sdpa, no checkpointing, no compilation, logits at the last positions only"
        ),
        (
            "FLOPs = tokens x (4 P + 6 R) + scored positions x 4 D V + (query, key) pairs x 12 L H d, over what each "
            "variant really computes (padding counts, a shared header counts once); P linear weights of the blocks, R "
            f"adapter weights; MFU = FLOPs/s over the dense bfloat16 {peak_text}"
        ),
        "peak is what tensors held at most, base included; three PEFT processes at once would hold three times theirs",
        "the seed's figure comes from other hardware and another program; it is no measure of the fusing",
    ]


if __name__ == "__main__":
    main()
