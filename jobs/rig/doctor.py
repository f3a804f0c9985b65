"""Checks that are cheap and true: devices, Ray, the disk, the home and its runs. Nothing is started or changed."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from cluster.devices import NodeFacts, RayNode, disagreements
from cluster.devices.probe import facts_here, facts_of, ray_nodes, simulated
from ledger.errors import LunaError
from ledger.home import Home
from ledger.store import Stores
from trainers.driver import gpus_for_ray

_GIB = 1 << 30

LEAST_FREE = 2 * _GIB
"""On the home's disk: a checkpoint of the rig profile's three adapters has 0.6 GiB, and two are there for a moment."""

_ANSWER_S = 10


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    said: str
    is_problem: bool = False


@dataclass(frozen=True)
class Examined:
    """Everything that was found."""

    nodes: tuple[RayNode, ...]
    """None where no Ray runs."""
    facts: tuple[NodeFacts, ...]
    checks: tuple[Check, ...]


def examine(home: Home) -> Examined:
    """Look at everything."""
    ray_checks, joined = _ray()
    nodes = tuple(ray_nodes()) if joined else ()
    facts = tuple(facts_of(nodes)) if joined else (facts_here(),)
    checks = (*ray_checks, *_devices(nodes, facts), *_home(home), *(_coordinator(home) if joined else ()))
    return Examined(nodes, facts, checks)


def _ray() -> tuple[list[Check], bool]:
    """Its version, and whether a cluster was joined."""
    from cluster.ray_head import describe, join_running, started_by_luna

    installed = Check("ray", f"version {version('ray')}")
    try:
        if not join_running():
            return [installed, Check("cluster", "none runs here; the next command that needs one starts it")], False
    except LunaError as error:
        return [installed, Check("cluster", str(error), is_problem=True)], False
    rig = describe(started=False)
    whose = "started by Luna" if started_by_luna() else "not started by Luna"
    return [installed, Check("cluster", f"{rig.address}, {whose}, {rig.cpus} CPUs and {rig.gpus} GPUs")], True


def _devices(nodes: tuple[RayNode, ...], facts: tuple[NodeFacts, ...]) -> list[Check]:
    checks = [Check("devices", clause, is_problem=True) for clause in disagreements(nodes, facts, simulated())]
    if nodes and not checks:
        whether = " (simulated GPUs are allowed)" if simulated() else ""
        checks = [Check("devices", f"Ray and torch count the same cards on every node{whether}")]
    if not nodes and (told := gpus_for_ray()) is not None:
        checks.append(Check("devices", f"Ray cannot count AMD cards without amdsmi; Luna's will be told of {told}"))
    for own in facts:
        if own.driver_gpus > own.torch_gpus and not own.visible:
            lists = f"the driver of {own.host} lists {own.driver_gpus} cards, torch {own.torch} sees {own.torch_gpus}"
            fix = (
                "install the torch for this card (`make setup` chooses it)" if not own.toolkit else "update the driver"
            )
            checks.append(Check("driver", f"{lists}: {fix}", is_problem=True))
    return checks


def _home(home: Home) -> list[Check]:
    """Disk, ledger, open run."""
    there = next(folder for folder in (home.root, *home.root.parents) if folder.exists())
    checks = [disk_check(there, psutil.disk_usage(str(there)).free)]
    if not home.db.exists():
        return [*checks, Check("home", f"{home.root} is no home yet; `luna init` makes one")]
    try:
        with Stores.open(home) as stores:
            lineage = stores.ledger.current_lineage()
            run, head = stores.journal.open_run(lineage), stores.ledger.head()
    except LunaError as error:
        return [*checks, Check("home", str(error), is_problem=True)]
    checks.append(
        Check("home", f"{home.root}, lineage {lineage}, " + ("no head yet" if head is None else f"head G{head}"))
    )
    if run is not None:
        checks.append(Check("run", f"G{run.gen_id} is open at {run.next_step}; `luna generation run` resumes it"))
    return checks


def disk_check(folder: Path, free: int) -> Check:
    """Whether so many free bytes are enough for a generation."""
    said = f"{free / _GIB:.1f} GiB free under {folder}"
    if free >= LEAST_FREE:
        return Check("disk", said)
    return Check("disk", f"{said}, less than the {LEAST_FREE / _GIB:g} that a generation may need", is_problem=True)


def _coordinator(home: Home) -> list[Check]:
    from ray.exceptions import GetTimeoutError, RayActorError

    from cluster.calls import get
    from cluster.client.coordinator import find_coordinator

    actor = find_coordinator()
    if actor is None:
        return [Check("coordinator", "none; the next generation starts it")]
    try:
        works_for = get(actor.home.remote(), _ANSWER_S)
        state = get(actor.state.remote(), _ANSWER_S)
    except (GetTimeoutError, RayActorError) as error:
        why = f"does not answer ({type(error).__name__}); look at its log in the Ray dashboard"
        return [Check("coordinator", why, is_problem=True)]
    other = "" if works_for == str(home.root.resolve()) else f" for another home, {works_for}"
    at_work = f"raises G{state.gen_id} ({state.step or 'starting'})" if state.running else "is idle"
    return [Check("coordinator", f"alive, pid {state.pid}, {at_work}{other}")]


def print_examined(found: Examined, out: Console) -> None:
    """Tables of nodes and devices, then the checks."""
    by_ray = {node.node: f"{node.gpus:g}" for node in found.nodes}
    nodes = Table("node", "GPUs by Ray", "by torch", "by the driver", "torch", "built for", "driver", "hidden by")
    devices = Table("node", "device", "name", "capability", "GiB", "free")
    for own in found.facts:
        hidden = " ".join(f"{name}={value}" for name, value in own.visible.items())
        nodes.add_row(
            own.host, by_ray.get(own.node, "-"), str(own.torch_gpus), str(own.driver_gpus), own.torch,
            own.toolkit or "CPU", own.driver or "-", hidden or "-",
        )  # fmt: skip
        for device in own.devices:
            cores = " cores" if device.kind == "cpu" else ""
            devices.add_row(
                own.host, f"{device.kind} {device.index}", device.name, device.capability + cores,
                f"{device.total_bytes / _GIB:.1f}", f"{device.free_bytes / _GIB:.1f}",
            )  # fmt: skip
    out.print(nodes)
    out.print(devices)
    for check in found.checks:
        mark = "[red]wrong[/]" if check.is_problem else "[green]ok[/]"
        out.print(f"{mark:<16} {check.name}: ", end="")
        out.print(check.said, markup=False, soft_wrap=True)
