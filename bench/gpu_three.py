"""Three PEFT loops at the same time, each a process of its own on one card: what a user with three terminals has."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from bench.gpu_loops import ROLES_TRAINED, WARM_UP_STEPS, Setting, random_rows, run_peft_bfloat16, run_peft_role


def run_three(device: torch.device, small: bool, steps: int) -> dict[str, Any]:
    """Examples a second of the three together, from the first's start to the last's end."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bench.gpu_three", folder, str(device), str(int(small)), str(steps)]
        running = [
            subprocess.Popen([*command, str(role)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for role in range(ROLES_TRAINED)
        ]
        said = [process.communicate(timeout=150) for process in running]
    if any(process.returncode for process in running):
        raise RuntimeError("\n".join(error[-1500:] for _, error in said))
    found = [json.loads(out.strip().splitlines()[-1]) for out, _ in said]
    seconds = max(own["end"] for own in found) - min(own["begin"] for own in found)
    examples = sum(own["examples"] for own in found)
    return {"examples_per_s": examples / seconds, "peak_mib": [own["peak_mib"] for own in found], "steps": steps}


def main() -> None:
    """One role: build, warm up, wait for the others, measure."""
    from bench.gpu import QWEN2_HALF_BILLION, SMALL, random_model

    parser = argparse.ArgumentParser()
    for name, kind in (("folder", Path), ("device", str), ("small", int), ("steps", int), ("role", int)):
        parser.add_argument(name, type=kind)
    own = parser.parse_args()
    model = random_model(SMALL if own.small else QWEN2_HALF_BILLION, torch.device(own.device))
    rows = random_rows(WARM_UP_STEPS + own.steps, model.config.vocab_size, 8)[own.role]
    begin = 0.0

    def wait() -> None:
        nonlocal begin
        (own.folder / f"ready-{own.role}").touch()
        while len(list(own.folder.glob("ready-*"))) < ROLES_TRAINED:
            time.sleep(0.01)
        begin = time.time()

    setting = Setting("", 8, 1, run_peft_bfloat16)
    done = run_peft_role(model, rows, setting, own.steps, False, wait)
    examples = setting.rows * own.steps
    print(json.dumps({"begin": begin, "end": time.time(), "examples": examples, "peak_mib": done.peak_bytes >> 20}))


if __name__ == "__main__":
    main()
