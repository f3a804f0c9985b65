"""The table of `bench.gpu_day`: `python -m bench.gpu_report FOLDER/gpu_day.json [--commit SHA] [--note TEXT ...]`."""

from __future__ import annotations

import argparse
import json
import subprocess
from datetime import date
from pathlib import Path
from typing import Any

from bench.report import keep
from cluster.plan.cards import peak_tflops

HEADER = ["variant", "batch x acc.", "examples/s", "x best PEFT", "tokens/example", "TFLOPS", "MFU", "peak MiB", "runs"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--commit", help="of what was measured; else the present one")
    parser.add_argument("--note", action="append", default=[], help="what a reader must know besides")
    arguments = parser.parse_args()
    report(arguments.file, arguments.commit or _commit(), arguments.note)


def report(file: Path, commit: str, notes: list[str]) -> None:
    """Print the table of a day and write it to `bench/results/gpu.md`."""
    found, day = json.loads(file.read_text()), date.fromtimestamp(file.stat().st_mtime).isoformat()
    facts = found["facts"]
    line = (
        f"One {facts['name']} (capability {facts['capability']}, driver {facts['nvidia_smi'].split(', ')[1]}), CUDA "
        f"{facts['cuda']}, torch {facts['torch']}, triton {facts['triton']}, transformers {facts['transformers']}, "
        f"peft {facts['peft']}; commit {commit}"
    )
    rows = _rows(found, peak_tflops(facts["name"]))
    keep("gpu", "The fused trio on a GPU against PEFT loops", HEADER, rows, [*_notes(found), *notes], (day, line))


def _rows(found: dict[str, Any], peak: float | None) -> list[list[str]]:
    lines = [line for line in found["speed"] if "examples_per_s" in line]
    rivals: dict[str, float] = {}
    for line in lines:
        if "PEFT" in line["name"]:
            rivals[line["shape"]] = max(rivals.get(line["shape"], 0.0), line["examples_per_s"])
    rows = [
        [
            line["name"],
            line["shape"].replace("64 x 1", "64 x 1 *"),
            f"{line['examples_per_s']:.0f}",
            f"{line['examples_per_s'] / rivals[line['shape']]:.1f}" if line["shape"] in rivals else "",
            f"{line['tokens_per_example']:.1f}",
            f"{line['tflops']:.1f}",
            f"{line['tflops'] / peak:.1%}" if peak else "",
            f"{line['peak_mib']:.0f}",
            ", ".join(f"{rate:.0f}" for rate in line["all"]),
        ]
        for line in sorted(lines, key=lambda line: (line["rows"], line["shape"], -line["examples_per_s"]))
    ]
    three = found.get("three", {})
    if "examples_per_s" in three:
        rows.append(
            [
                "3 PEFT loops, bfloat16 adapters, at the same time, a process each",
                "8 x 1",
                f"{three['examples_per_s']:.0f}",
                f"{three['examples_per_s'] / rivals['8 x 1']:.1f}",
                *[""] * 3,
                f"{sum(three['peak_mib'])}",
                "",
            ]
        )
    return rows


def _notes(found: dict[str, Any]) -> list[str]:
    """What the other sections found, a line each."""
    notes = [
        (
            "3 roles; Qwen2.5-0.5B's shape with random bfloat16 weights; LoRA r = 32 on all linear layers; 30 to 60 "
            "random tokens, the first 20 shared by a role, answers of 4 to 10; batch making and optimizer included; "
            "median of the runs, which alternated"
        ),
        (
            "FLOPs as in `bench.gpu.flops`, of real tokens only; MFU over the vendor's dense bfloat16 peak; * more "
            "rows than the recipe has; 4 x 2 is one part for Luna, since memory allows it"
        ),
    ]
    if "copy_tb_per_s" in found.get("ceilings", {}):
        own = found["ceilings"]
        notes.append(f"ceilings: {own['copy_tb_per_s']:.2f} TB/s copied, {own['bf16_tflops']:.0f} TFLOP/s in a product")
    if "last" in found.get("tests", {}):
        notes.append(f"tests/gpu: {found['tests']['last'].split(' in ')[0]}")
    if isinstance(found.get("bytes"), dict) and "failed" not in found["bytes"]:
        notes.append("30 steps: " + ", ".join(f"{name}: {_said(value)}" for name, value in found["bytes"].items()))
    for name, own in found.get("profiles", {}).items():
        if "busy_ms" in own:
            notes.append(
                f"profile of {name}: {own['kernels_a_step']:.0f} kernels and {own['launches_a_step']:.0f} launches a "
                f"step, {own['waits_a_step']:.1f} waits, {own['copies_a_step']:.0f} copies; busy {own['busy_ms']:.1f} "
                f"of {own['step_ms']:.1f} ms under the profiler, idle {own['idle_share']:.0%}"
            )
    for name, own in found.get("variants", {}).items():
        if isinstance(own, dict):
            notes.append(f"variant, {name}: {own['step_ms']:.2f} ms a step (median)")
    for name, own in found.get("engine", {}).items():
        if isinstance(own, dict):
            notes.append(
                f"`FusedEngine.train`, 150 steps of 8 rows a role (other texts), {name}: "
                f"{own['examples_per_s_whole']:.0f} examples/s from start to published adapters, "
                f"{own['examples_per_s_after_a_third']:.0f} after the first third"
            )
    peaks = [f"{name}: {own['peak_mib']}" for name, own in found.get("memory", {}).items() if isinstance(own, dict)]
    return [*notes, "peak MiB of tensors by rows a role: " + ", ".join(peaks)] if peaks else notes


def _said(value: bool | float) -> str:
    return ("equal" if value else "not equal") if isinstance(value, bool) else f"{value:.3f}"


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
