"""A training step alone and beside a process that never rests, whole on all threads and in lanes.

One process measures it all in turn, so that drift of the machine hits all alike: in every round, with the busy process
stopped and then running, a step each way. The busy process has the lowest priority. Linux may weigh that among the
processes of one terminal alone (`kernel.sched_autogroup_enabled`), so that one of another terminal takes what an
ordinary process does; it is measured both ways. What other processes took of the cores during a step is reported
beside it.

    python -m bench.shared [--rounds 5] [--tokens 185 550]
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.trainer_actor import ENVIRONMENT

RANK, ALPHA = 16, 32
COMPANY = {"nice": "beside `nice -n 19`", "apart": "beside `nice -n 19` of another autogroup"}
WAYS = {False: "threads", True: "lanes"}


@dataclass(frozen=True)
class Timed:
    """One step."""

    seconds: float
    cpu_seconds: float
    others: float
    """Share of all cores' time that went to processes other than this one and its busy companion."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, nargs="*", default=[185, 550])
    arguments = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        os.environ.update(ENVIRONMENT)  # OpenMP reads its variables when it is loaded
        os.execv(sys.executable, [sys.executable, "-m", "bench.shared", *sys.argv[1:]])
    batches, step, threads, lanes = _trainer()
    rows: list[list[str]] = []
    for tokens in arguments.tokens:
        found: dict[tuple[str, bool], list[Timed]] = defaultdict(list)
        for company in COMPANY:
            with _busy(apart=company == "apart") as busy:
                for number, batch in enumerate(batches(tokens, arguments.rounds + 1)):
                    for beside in ("alone", company):
                        os.kill(busy, signal.SIGSTOP if beside == "alone" else signal.SIGCONT)
                        for way in WAYS:
                            timed = _timed(step, batch, way, busy)
                            if number:  # the first warms up
                                found[beside, way].append(timed)
                                print(tokens, beside, WAYS[way], timed, file=sys.stderr)
        rows += _lines(tokens, found)
    _report(rows, threads, lanes, arguments.rounds)


def _lines(tokens: int, found: dict[tuple[str, bool], list[Timed]]) -> list[list[str]]:
    def median(company: str, way: bool, what: Callable[[Timed], float]) -> float:
        return statistics.median(map(what, found[company, way]))

    rows = []
    for way, name in WAYS.items():
        for company in ("alone", *COMPANY):
            seconds = median(company, way, lambda timed: timed.seconds)
            quiet = median("alone", way, lambda timed: timed.seconds)
            cpu = median(company, way, lambda timed: timed.cpu_seconds)
            others = median(company, way, lambda timed: timed.others)
            most = max(timed.seconds for timed in found[company, way])
            measured = [f"{value:.2f}" for value in (seconds, most, seconds / quiet, cpu)]
            rows.append(
                [f"{tokens}", name, COMPANY.get(company, company), *measured, f"{tokens / cpu:.0f}", f"{others:.0%}"]
            )
    return rows


def _report(rows: list[list[str]], threads: int, lanes: int, rounds: int) -> None:
    from bench.report import keep

    notes = [
        f"threads: a step whole, {threads} threads a product; lanes: {lanes} parts at a time, {threads // lanes} each",
        f"medians of {rounds} rounds, alone of {rounds * len(COMPANY)}; SmolLM2-135M, three roles, LoRA r = {RANK}",
        "others: share of the cores that went to processes other than these two; it makes `alone` slower than it is",
    ]
    header = ["tokens", "way", "company", "s/step", "slowest", "× alone", "CPU s", "tokens/CPU-s", "others"]
    keep("shared_machine", "A training step on a shared machine", header, rows, notes)


@contextmanager
def _busy(apart: bool) -> Iterator[int]:
    """The id of a process that never rests, of the lowest priority, stopped at first; it ends with this one."""
    watch = f"import os\nwhile os.getppid() == {os.getpid()}: pass"
    process = subprocess.Popen(["nice", "-n", "19", sys.executable, "-c", watch], start_new_session=apart)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def _timed(step: Callable[[Any, bool], None], batch: Any, way: bool, busy: int) -> Timed:
    before = time.perf_counter(), time.process_time(), _used(), _used(busy)
    step(batch, way)
    after = time.perf_counter(), time.process_time(), _used(), _used(busy)
    seconds, own, used, companion = (late - early for late, early in zip(after, before, strict=True))
    cores = os.cpu_count() or 1
    return Timed(seconds, own, max(0.0, used - own - companion) / (seconds * cores))


def _used(process: int | None = None) -> float:
    """CPU seconds, user and system, that all processes have taken since the machine started, or one of them."""
    tick = os.sysconf("SC_CLK_TCK")
    if process is None:
        whole = Path("/proc/stat").read_text().splitlines()[0].split()
        user, nice, system, _idle, _wait, irq, soft = map(int, whole[1:8])
        return (user + nice + system + irq + soft) / tick
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / tick


def _trainer() -> tuple[Callable[[int, int], list[Any]], Callable[[Any, bool], None], int, int]:
    """So many batches of about so many tokens; a step of one, whole or in lanes; threads and lanes."""
    import torch

    from bench.train import base, examples
    from trainers import runtime
    from trainers.config import LoraSettings
    from trainers.data import tokenise
    from trainers.fused.step import TrioStep
    from trainers.lean.adapter_bank import AdapterBank
    from trainers.lean.lanes import Lanes
    from trainers.lean.model import LeanModel
    from trainers.lean.packing import Group, cut, pack, token_count
    from trainers.models.adapters import initial_adapter
    from trainers.models.frozen import load_base

    runtime.keep_freed_memory()
    threads, cpu = runtime.pin_threads(None), torch.device("cpu")
    hf, tokenizer = load_base(base().path, runtime.resolve_dtype("auto", cpu), cpu)
    model, lanes = LeanModel(hf), Lanes(threads, cpu)
    rows = {role: [tokenise(tokenizer, example) for example in own[:200]] for role, own in examples().items()}
    bank = AdapterBank(model.module_shapes, len(rows), LoraSettings(rank=RANK, alpha=ALPHA), model.dtype, cpu)
    for slot, role in enumerate(rows):
        bank.load_state_dict(slot, initial_adapter(model.module_shapes, RANK, 1, role))
    trio = TrioStep(model, bank, lanes)

    def batches(tokens: int, count: int) -> list[list[Group]]:
        """The same number of rows of each role, as many as come nearest to `tokens` in the first."""

        def of(number: int, each: int) -> list[Group]:
            return [Group(slot, own[number : number + each]) for slot, own in enumerate(rows.values())]

        each = min(range(1, 33), key=lambda each: abs(token_count(of(0, each)) - tokens))
        return [of(number * each, each) for number in range(count)]

    def step(batch: Sequence[Group], in_lanes: bool) -> None:
        parts = lanes.count if in_lanes else 1
        _, norms = trio.gradients([pack(part, cpu) for part in cut(batch, parts)], parts)
        trio.move([2e-4] * len(rows), 1.0, norms)

    return batches, step, threads, lanes.count


if __name__ == "__main__":
    main()
