"""What the coordinator costs with many lineages at once, over a simulated cluster of many nodes.

    python -m bench.scale [--nodes 20] [--lineages 1 10 50] [--seconds 60]

Nodes are raylets of this machine with logical GPUs, as many as its memory has room for. Each lineage is raised by the
real coordinator with its ledger, journal and pool of trainers, one trainer a role; only the trainers are stubs whose
steps take a second. A coordinator raises one generation at a time for its home, so that so many lineages are so many
homes; their coordinators share one process here, and with it one interpreter lock, which is the worst that one
coordinator for all of them could be.

The bar: the coordinator's own work within 20 ms for each optimizer step of a lineage, with 50 at once.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil

from bench.chaos_home import bring, new_home, request_of
from bench.own_ray import LEAST_STORE_BYTES, end_in_order, free_port, quiet_environment
from bench.progress import say
from bench.report import keep
from bench.scale_trainer import FINISH, STEP_S, StubTrainer
from cluster.devices.agreement import SIMULATED
from ledger.home import Home
from ledger.journal import STEPS
from ledger.roles import ROLES
from ledger.verification.ledger import verify

_NO_SPARE_WORKERS = {
    "RAY_num_workers_soft_limit": "1",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_enable_worker_prestart": "0",
}
"""Ray would keep a process for each logical CPU of each node."""

_LEAST_FREE = 3 << 30
"""No node or lineage is added with less memory left."""

_START_S = 900
BAR_MS = 20.0


@dataclass(frozen=True)
class Sample:
    """What the coordinators' process has used, and how far its lineages are."""

    cpu_s: float
    at: float
    steps: int
    """Optimizer steps of all lineages together."""
    training: int
    """Lineages in which every role trains."""
    ended: dict[int, str]


@dataclass(frozen=True)
class Figures:
    """One size."""

    lineages: int
    nodes: int
    seconds: float
    steps: int
    cpu_s: float
    by_step: dict[str, list[float]]
    """CPU ms of a run's own thread in each step of a generation."""
    judgement_ms: list[float]
    """Wall time of the ledger's transaction."""
    accepted: int
    unclean: int
    memory_gib: float

    @property
    def ms_a_step(self) -> float:
        return 1000 * self.cpu_s / self.steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=20)
    parser.add_argument("--lineages", type=int, nargs="*", default=[1, 10, 50])
    parser.add_argument("--seconds", type=float, default=60.0, help="measured, once all lineages train")
    parser.add_argument("--no-table", action="store_true", help="leave bench/results/scale.md as it is")
    asked = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="luna-scale-", dir="/tmp") as folder,
        _cluster(Path(folder), asked.nodes, max(asked.lineages)) as nodes,
    ):
        found = [_measured(Path(folder), nodes, count, asked.seconds) for count in asked.lineages]
    for one in found:
        say(f"{one.lineages} lineages on {one.nodes} nodes: {one.ms_a_step:.2f} ms of CPU a step")
    if not asked.no_table:
        _table(found, asked.nodes, max(asked.lineages))


# -- the cluster -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _cluster(folder: Path, nodes: int, lineages: int) -> Iterator[int]:
    """A cluster of its own that this process has joined; gives the number of nodes that there was room for."""
    os.environ.update({**quiet_environment(), **_NO_SPARE_WORKERS, SIMULATED: "1", "RAY_TMPDIR": str(folder)})
    import ray
    from ray.cluster_utils import Cluster

    each = math.ceil(lineages * len(ROLES) / nodes)
    common = {"object_store_memory": LEAST_STORE_BYTES, "include_dashboard": False}
    head = {**common, "num_cpus": 2, "dashboard_port": free_port(), "resources": {"luna_head": 1.0}}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        count = 0
        while count < nodes and psutil.virtual_memory().available > 2 * _LEAST_FREE:
            cluster.add_node(num_cpus=each + 1, num_gpus=each, **common)
            count += 1
            say(f"node {count} of {nodes}, {psutil.virtual_memory().available / 2**30:.1f} GiB free")
        ray.init(address=cluster.address, namespace="luna", log_to_driver=False, logging_level="ERROR")
        end_in_order()
        yield count
    finally:
        ray.shutdown()
        cluster.shutdown()


class Fleet:
    """The coordinators of many homes in one process, with what they spend."""

    def __init__(self) -> None:
        from cluster.devices.probe import check_rig
        from cluster.generation import GenerationRun
        from ledger.store import Ledger

        patch("cluster.trainer_actor.TrainerActor", StubTrainer).start()
        patch("cluster.trainer_pool._DEVICE_TIMEOUT_S", _START_S).start()  # there are devices for all, however late
        self._coordinators: list[Any] = []
        self._by_step: dict[str, list[float]] = defaultdict(list)
        self._judgements: list[float] = []
        _time(GenerationRun, "_once", time.thread_time, lambda kind: self._by_step[kind.step])
        _time(Ledger, "record_judgement", time.perf_counter, lambda _: self._judgements)
        check_rig()  # each node is asked once in a process's life, here before all lineages ask at once

    def raise_one(self, root: str, data: str) -> None:
        """Begin a generation of another home."""
        from cluster.coordinator import Coordinator

        coordinator = Coordinator(root)
        coordinator.open()
        coordinator.submit(request_of(Home(Path(root)), data))
        self._coordinators.append(coordinator)

    def sample(self) -> Sample:
        """Where all of them stand."""
        states = [coordinator.state() for coordinator in self._coordinators]
        steps = [state.progress.step for state in states if state.progress is not None]
        ended = {n: state.ended for n, state in enumerate(states) if state.ended is not None}
        return Sample(
            cpu_s=time.process_time(),
            at=time.monotonic(),
            steps=sum(steps),
            training=sum(state.progress is not None and set(state.progress.role_steps) == set(ROLES)
                         for state in states),
            ended={n: f"{one.state}: {one.judged.verdict if one.judged else one.reason}" for n, one in ended.items()},
        )  # fmt: skip

    def spent(self) -> tuple[dict[str, list[float]], list[float]]:
        """(CPU ms of a run's thread in each step of a generation, wall ms of each judgement)."""
        return dict(self._by_step), self._judgements

    def close(self) -> None:
        """Let the trainers and the ledgers go."""
        for coordinator in self._coordinators:
            coordinator.close()


def _time(owner: type, name: str, clock: Callable[[], float], into: Callable[[Any], list[float]]) -> None:
    """Note the milliseconds of each call of a method, by its first argument."""
    real = getattr(owner, name)

    def timed(self: Any, first: Any, *rest: Any, **options: Any) -> Any:
        begin = clock()
        try:
            return real(self, first, *rest, **options)
        finally:
            into(first).append(1000 * (clock() - begin))

    setattr(owner, name, timed)


# -- one size --------------------------------------------------------------------------------------------------------


def _measured(folder: Path, nodes: int, lineages: int, seconds: float) -> Figures:
    import ray

    homes = _homes(folder / f"{lineages}-lineages", lineages)
    fleet = ray.remote(Fleet).options(num_cpus=0, resources={"luna_head": 0.001}, max_concurrency=8).remote()
    try:
        begun = _begin_all(fleet, homes)
        first: Sample = ray.get(fleet.sample.remote())
        say(f"{begun} lineages train; measuring for {seconds:.0f} s")
        time.sleep(seconds)
        last: Sample = ray.get(fleet.sample.remote())
        memory = psutil.virtual_memory().used / 2**30
        for home, _ in homes[:begun]:
            (home.root / FINISH).touch()
        ended = _wait(fleet, lambda now: len(now.ended) == begun, "ended").ended
        by_step, judgements = ray.get(fleet.spent.remote())
        ray.get(fleet.close.remote())
    finally:
        ray.kill(fleet)
    return Figures(
        lineages=begun,
        nodes=nodes,
        seconds=last.at - first.at,
        steps=last.steps - first.steps,
        cpu_s=last.cpu_s - first.cpu_s,
        by_step=by_step,
        judgement_ms=judgements,
        accepted=sum(how == "done: accepted" for how in ended.values()),
        unclean=sum(len(verify(home)) for home, _ in homes[:begun]),
        memory_gib=memory,
    )


def _homes(folder: Path, count: int) -> list[tuple[Home, str]]:
    """So many homes with data for a first generation."""
    first = new_home(folder / "home-0")
    data = bring(first, 0)
    others = [Home(Path(shutil.copytree(first.root, folder / f"home-{n}"))) for n in range(1, count)]
    return [(home, data) for home in (first, *others)]


def _begin_all(fleet: Any, homes: Sequence[tuple[Home, str]]) -> int:
    """Begin a generation in each home, while there is memory; returns how many train at once then."""
    import ray

    for count, (home, data) in enumerate(homes):
        if psutil.virtual_memory().available < _LEAST_FREE:
            say(f"no memory for more than {count} lineages")
            break
        ray.get(fleet.raise_one.remote(str(home.root), data))
        _wait(fleet, partial(_trains, count + 1), f"train, {count + 1} asked for")
    else:
        count = len(homes)
    return count


def _trains(count: int, now: Sample) -> bool:
    return now.training >= count


def _wait(fleet: Any, is_so: Callable[[Sample], bool], what: str) -> Sample:
    import ray

    deadline = time.monotonic() + _START_S
    while not is_so(now := ray.get(fleet.sample.remote())):
        if time.monotonic() > deadline or any(not how.startswith("done") for how in now.ended.values()):
            raise RuntimeError(f"not all lineages {what}: {now}")
        time.sleep(0.5)
    return now


def _table(found: Sequence[Figures], nodes: int, lineages: int) -> None:
    rows = [[
        str(one.lineages), str(one.lineages * len(ROLES)), str(one.nodes), f"{one.steps / one.seconds:.1f}",
        f"{one.ms_a_step:.1f}", f"{one.cpu_s / one.seconds:.0%}", f"{statistics.median(one.judgement_ms):.1f}",
        f"{max(one.judgement_ms):.1f}",
        ", ".join(f"{step} {statistics.median(one.by_step[step]):.0f}" for step in STEPS if step in one.by_step),
        f"{one.accepted}/{one.lineages}", f"{one.memory_gib:.1f}",
    ] for one in found]  # fmt: skip
    header = [
        "lineages at once", "trainers", "nodes", "steps/s, all", "own CPU ms a step", "of a core",
        "judgement ms, median", "longest", "CPU ms of a run's thread, by step of a generation", "accepted",
        "memory of the machine, GiB",
    ]  # fmt: skip
    largest = max(found, key=lambda one: one.lineages)
    is_met = largest.ms_a_step <= BAR_MS and largest.lineages >= lineages
    keep("scale", "Many lineages at once, simulated", header, rows, [
        f"asked for: {nodes} nodes, {lineages} lineages; there was memory for {largest.nodes} and {largest.lineages}",
        f"a step takes its trainer {STEP_S:.0f} s and no CPU, so that the coordinator looks at every one",
        "own CPU: of the process with all coordinators, Ray's threads included, while all lineages train",
        "each lineage is a home of its own: a coordinator raises one generation at a time for its home",
        f"{sum(one.unclean for one in found)} complaints of `luna ledger verify` about all homes",
        f"own work within {BAR_MS:.0f} ms a step with {lineages} lineages: {'met' if is_met else 'NOT met'}",
    ])  # fmt: skip


if __name__ == "__main__":
    main()
