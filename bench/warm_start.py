"""From `luna generation run` to the first optimizer step, on a warm cluster with the profile `tiny`.

    python -m bench.warm_start [--rounds 5]

Warm: Ray runs, the coordinator and the trainers live from a generation before. The bar: 5 s in the median.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.own_ray import end_in_order, free_port, node_options, own_folder, quiet_environment, start_head
from bench.progress import say
from bench.report import keep
from cluster.client.coordinator import ask, coordinator_for
from jobs.curriculum import build_into_inbox
from jobs.home import FIRST_LINEAGE, make_home
from ledger.errors import LunaError
from ledger.home import Home
from ledger.journal import RunState
from ledger.store import Stores

BAR_S = 5.0
_EXAMPLES = 300
_WAIT_S = 600
_LOOK_S = 0.005

BARE, IMPORTS = "Python itself", "imports of the command"
STAGES = ("until it is admitted", "collect", "plan", "train, until the first step")
ALL = "from the command to the first step"
_IMPORTED = "jobs.cli, cluster.client.coordinator, cluster.request, jobs.generation.follow, jobs.generation.show"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-table", action="store_true", help="leave bench/results/warm_start.md as it is")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="luna-warm-") as folder, _own_ray():
        home = Home(Path(folder) / "home")
        make_home(home, "tiny", None)
        end_in_order()
        _bring(home, seed=1)
        subprocess.run(_command(home), check=False, capture_output=True)  # exit status 3 is a verdict as well
        _bring(home, seed=2)
        rounds = [_round(home) for _ in range(asked.rounds)]
    for one in rounds:
        say(", ".join(f"{name} {seconds:.2f} s" for name, seconds in one.items()))
    if not asked.no_table:
        _table(rounds)


@contextmanager
def _own_ray() -> Iterator[None]:
    import ray

    address = f"127.0.0.1:{free_port()}"
    os.environ.update({**quiet_environment(), "RAY_ADDRESS": address})
    with own_folder("warm") as place:
        start_head(address, place, ["--num-cpus=4", "--num-gpus=0", *node_options(34_001)])
        try:
            yield
        finally:
            ray.shutdown()


def _bring(home: Home, seed: int) -> None:
    for file in home.inbox_dir.glob("*.parquet"):
        file.unlink()
    build_into_inbox(home, "recipe", _EXAMPLES, seed)


def _command(home: Home) -> list[str]:
    return [sys.executable, "-m", "jobs.cli", "generation", "run", "--home", str(home.root)]


def _round(home: Home) -> dict[str, float]:
    """Seconds of each stage. The run is paused and given up afterwards, so that its data stays new."""
    own = {BARE: _seconds("pass"), IMPORTS: _seconds(f"import {_IMPORTED}")}
    begin = time.time()
    follower = subprocess.Popen(_command(home), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        run, marks = _marks(home, follower)
        coordinator = coordinator_for(home)
        _await(lambda: ask(coordinator, "state").progress is not None, follower)
        ask(coordinator, "pause")
        _await(lambda: not ask(coordinator, "state").running)
        follower.wait(_WAIT_S)
        ask(coordinator, "abandon")
    finally:
        follower.kill()
    ends = [*marks, _first_step(home.run_dir(run.run_id))]
    begins = [begin, *ends[:-1]]
    shutil.rmtree(home.run_dir(run.run_id))
    stages = {name: after - before for name, before, after in zip(STAGES, begins, ends, strict=True)}
    return {ALL: ends[-1] - begin, **own, **stages}


def _seconds(code: str) -> float:
    begin = time.time()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.time() - begin


def _marks(home: Home, follower: subprocess.Popen[bytes]) -> tuple[RunState, list[float]]:
    """The run, and when it was seen admitted, collected and planned."""
    marks: list[float] = []
    with Stores.open(home) as stores:

        def run() -> RunState | None:
            return stores.journal.open_run(FIRST_LINEAGE)

        _await(lambda: run() is not None, follower)
        found = run()
        assert found is not None
        marks.append(time.time())
        for step in ("plan", "train"):
            _await(lambda step=step: bool(stores.journal.attempts(found.run_id, step)), follower)
            marks.append(time.time())
    return found, marks


def _await(is_so: Any, follower: subprocess.Popen[bytes] | None = None) -> None:
    deadline = time.monotonic() + _WAIT_S
    while not is_so():
        if time.monotonic() > deadline or (follower is not None and follower.poll() is not None):
            raise LunaError("the run ended or hung before its first step; run the command by hand to see why.")
        time.sleep(_LOOK_S)


def _first_step(folder: Path) -> float:
    """When the first optimizer step was done, by the first point of the loss curves."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    points = [
        event.wall_time
        for file in folder.rglob("events.out.tfevents*")
        for event in EventFileLoader(str(file)).Load()
        if any(value.tag.endswith("/loss") for value in event.summary.value)
    ]
    return float(min(points))


def _table(rounds: Sequence[dict[str, float]]) -> None:
    rows = [
        [name, f"{statistics.median(values):.2f}", f"{min(values):.2f}", f"{max(values):.2f}"]
        for name in rounds[0]
        if (values := [one[name] for one in rounds])
    ]
    whole = statistics.median(one[ALL] for one in rounds)
    keep("warm_start", "From the command to the first step, warm", ["s", "median", "least", "most"], rows, [
        f"{len(rounds)} rounds, profile tiny, {_EXAMPLES} examples a role, one trainer on the CPU",
        "warm: the coordinator and the trainer live from a generation before; the command is a new process",
        f"`{BARE}` and `{IMPORTS}` are parts of `{STAGES[0]}`, measured by themselves",
        f"{BAR_S:.0f} s in the median: {'met' if whole <= BAR_S else 'NOT met'}",
    ])  # fmt: skip


if __name__ == "__main__":
    main()
