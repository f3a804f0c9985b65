"""`make gpu-day`: everything that only a GPU can say about this project, in one run of about nine minutes.

Sections: facts of the card, measured ceilings, numbers of the pass against the lean forward, equal bytes, speed against
PEFT loops, launches and idle share, the parts of a layer, tests/gpu, peak memory, the fused engine itself. Each writes
what it found as it ends, and one that fails leaves its traceback and lets the others run.

    python -m bench.gpu_day --out FOLDER [--only SECTION ...]
    python -m bench.gpu_day --out FOLDER --device cpu --small     # does it run?

FOLDER gets `gpu_day.json`, of which `python -m bench.gpu_report FOLDER/gpu_day.json` makes `bench/results/gpu.md`.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.gpu import QWEN2_HALF_BILLION, SMALL, flops, random_model, settings
from bench.gpu_loops import WARM_UP_STEPS, Measured, Setting, random_rows, run_graph, run_lean, stepper
from bench.gpu_probe import card_facts, ceilings, kernel_times, numbers_agree, peak_memory, profiled, same_bytes_twice
from bench.gpu_variants import LEVELS, apply, variants


@dataclass(frozen=True)
class Day:
    """What every section is given."""

    device: torch.device
    small: bool
    rounds: int
    steps: int
    out: Path

    @property
    def settings(self) -> list[Setting]:
        """The rows of the table."""
        return settings(self.small)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="a toy shape, to see that everything runs")
    parser.add_argument("--rounds", type=int, default=2, help="alternated runs of each variant")
    parser.add_argument("--steps", type=int, default=20, help="measured optimizer steps in a run")
    parser.add_argument("--only", nargs="*", default=list(SECTIONS), choices=list(SECTIONS))
    parser.add_argument("--more", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    day = Day(
        torch.device(arguments.device), arguments.small, arguments.rounds, arguments.steps, arguments.out
    )  # fmt: skip
    kept = day.out / "gpu_day.json"
    found: dict[str, Any] = json.loads(kept.read_text()) if arguments.more else {}
    if day.device.type == "cuda":
        if "level" not in found:
            found["level"], found["preflight"] = _level()
        apply(LEVELS[found["level"]])
    for at, name in enumerate(arguments.only):
        began = time.perf_counter()
        try:
            found[name] = SECTIONS[name](day)
        except BaseException:
            found[name] = {"failed": traceback.format_exc()[-6000:]}
        found.setdefault("seconds", {})[name] = round(time.perf_counter() - began, 1)
        kept.write_text(json.dumps(found, indent=1))
        print(
            f"== {found.get('level', '')} {name} ({found['seconds'][name]} s): {json.dumps(found[name])[:1500]}",
            flush=True,
        )
        if arguments.only[at + 1 :] and "failed" in found[name]:  # a fault may have left this process without its GPU
            rest = [*sys.argv[1 : sys.argv.index("--only") if "--only" in sys.argv else None], "--more", "--only"]
            raise SystemExit(subprocess.call([sys.executable, "-m", "bench.gpu_day", *rest, *arguments.only[at + 1 :]]))
        gc.collect()
        if day.device.type == "cuda":
            torch.cuda.empty_cache()


def _level() -> tuple[int, str]:
    """The first of `LEVELS` that a toy gets through here, and what the ones before it said."""
    said = ""
    for level in range(len(LEVELS)):
        command = [sys.executable, "-m", "bench.gpu_variants", str(level)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
        if done.returncode == 0:
            return level, said
        said += done.stderr[-2500:]
    return len(LEVELS) - 1, said


def tests(day: Day) -> dict[str, Any]:
    """`pytest -m gpu tests/gpu`: what passed, and the end of what it said."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/gpu", "-p", "no:cacheprovider", "-q", "-rs"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=150)
    (day.out / "tests.txt").write_text(done.stdout + done.stderr)
    lines = done.stdout.strip().splitlines() or [done.stderr[-500:]]
    return {"exit": done.returncode, "last": lines[-1], "tail": done.stdout[-1500:] if done.returncode else ""}


def speed(day: Day) -> list[dict[str, Any]]:
    """Each variant's examples a second, alternated; kept after every run."""
    model = _model(day)
    runs: dict[int, list[Measured]] = {}
    failures: dict[int, str] = {}
    for number in range(day.rounds):
        order = sorted(range(len(day.settings)), key=lambda at: day.settings[at].run is run_graph)
        for at in order if number % 2 == 0 else order[::-1]:
            setting = day.settings[at]
            rows = random_rows(WARM_UP_STEPS + day.steps, model.config.vocab_size, setting.rows)
            if at in failures:
                continue
            try:
                runs.setdefault(at, []).append(setting.run(model, rows, setting, day.steps))
            except Exception:
                failures[at] = traceback.format_exc()[-2000:]
            table = [_line(day.settings[i], runs.get(i, []), failures.get(i), model.config) for i in order]
            (day.out / "speed.json").write_text(json.dumps(table, indent=1))
    return table


def _line(setting: Setting, runs: list[Measured], failed: str | None, config: Any) -> dict[str, Any]:
    line: dict[str, Any] = {"name": setting.name, "shape": setting.shape, "rows": setting.rows, "failed": failed}
    if not runs:
        return line
    rates = [run.examples / run.seconds for run in runs]
    work, examples = runs[0].work, runs[0].examples
    return line | {
        "examples_per_s": statistics.median(rates),
        "all": [round(rate, 1) for rate in rates],
        "tflops": flops(work, config) / examples * statistics.median(rates) / 1e12,
        "tokens_per_example": work.tokens / examples,
        "peak_mib": max(run.peak_bytes for run in runs) / 2**20,
        "first_losses": runs[0].first_losses,
    }


def three_processes(day: Day) -> dict[str, Any]:
    """Three PEFT loops at the same time, a process each: examples a second of all together."""
    from bench.gpu_three import run_three

    return run_three(day.device, day.small, day.steps if day.small else 40)


def profiles(day: Day) -> dict[str, Any]:
    """Launches, waits and idle share of a step, both ways, at the recipe's size and at 64 rows a role."""
    model = _model(day)
    found, last = {}, WARM_UP_STEPS + 6
    for rows in (8, 10 if day.small else 64):
        for name, run in (("segments and graphs", run_graph), ("part by part", run_lean)):
            setting = Setting(name, rows, 1, run)
            drawn = random_rows(last, model.config.vocab_size, rows)
            found[f"{name}, {rows} rows"] = profiled(stepper(model, drawn, setting, last), day.device)
    return found


def engine(day: Day) -> dict[str, Any]:
    """The fused engine's own `train`, with curves, checks and progress, both ways."""
    from bench.gpu_engine import through_the_engine

    return through_the_engine(SMALL if day.small else QWEN2_HALF_BILLION, day.device, 6 if day.small else 150)


def _model(day: Day) -> Any:
    return random_model(SMALL if day.small else QWEN2_HALF_BILLION, day.device)


SECTIONS: dict[str, Callable[[Day], Any]] = {
    "facts": lambda day: card_facts(day.device),
    "ceilings": lambda day: ceilings(day.device, day.small),
    "numbers": lambda day: numbers_agree(_model(day)),
    "bytes": lambda day: same_bytes_twice(_model(day), 4 if day.small else 30),
    "tests": tests,
    "speed": speed,
    "profiles": profiles,
    "variants": lambda day: variants(_model(day), day.small),
    "kernels": lambda day: kernel_times(_model(day), day.small),
    "engine": engine,
    "three": three_processes,
    "memory": lambda day: peak_memory(_model(day), day.small),
}


if __name__ == "__main__":
    main()
