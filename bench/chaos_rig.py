"""Killed processes, lost nodes and cut cables under runs on one warm cluster of two nodes.

The head has the coordinator and one simulated GPU, the second node another, so that the roles train in two groups.
Where this process is root, the second node lives in a network namespace, behind a bridge from which its cable is taken
to cut it: packets vanish, as behind a switch that failed, and both sides keep their addresses.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bench.chaos_faults import MOST_TRIES, Fault, Outcome
from bench.chaos_home import LINEAGE, accepted, bring, examine, request_of, unspoken
from bench.own_ray import (
    TRIES,
    end_in_order,
    free_port,
    node_options,
    own_folder,
    quiet_environment,
    ray_command,
    start_head,
)
from cluster.client.coordinator import ask, coordinator_for
from cluster.devices.agreement import SIMULATED
from cluster.ray_head import environment
from cluster.state import CoordinatorState
from ledger.errors import LunaError
from ledger.home import Home
from ledger.journal import RunState
from ledger.store import Stores

_BRIDGE, _SPACE, _CABLE, _PLUG = "lunachaos0", "lunachaos", "lunachaos1", "lunachaos2"
_HEAD_IP, _NODE_IP, _BITS = "10.231.77.1", "10.231.77.2", 24

_HEALTH = {
    "RAY_health_check_initial_delay_ms": "3000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "4",
}
"""A node counts as dead after 4 s without its process and 24 s without its network; by Ray's own settings a minute."""

_RESOURCES = ["--num-cpus=4", "--num-gpus=1"]
"""Of each node."""

_START_S = 120
_RUN_S = 240
"""Longest time from a fault to the end of its run."""
_LOOK_S = 0.02
_MOST_RESUMES = 4


def _run(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)


# -- the cluster -----------------------------------------------------------------------------------------------------


@contextmanager
def cable() -> Iterator[bool]:
    """A bridge and a namespace with a cable between them; False where this machine does not let us."""
    try:
        _unlink()
        _run("ip", "link", "add", _BRIDGE, "type", "bridge")
        _run("ip", "addr", "add", f"{_HEAD_IP}/{_BITS}", "dev", _BRIDGE)
        _run("ip", "link", "set", _BRIDGE, "up")
        _run("ip", "netns", "add", _SPACE)
        _run("ip", "link", "add", _CABLE, "type", "veth", "peer", "name", _PLUG, "netns", _SPACE)
        _run("ip", "-n", _SPACE, "addr", "add", f"{_NODE_IP}/{_BITS}", "dev", _PLUG)
        for link in ("lo", _PLUG):
            _run("ip", "-n", _SPACE, "link", "set", link, "up")
        _run("ip", "link", "set", _CABLE, "master", _BRIDGE, "up")
    except (OSError, subprocess.CalledProcessError):
        _unlink()
        yield False
        return
    try:
        yield True
    finally:
        _unlink()


def _unlink() -> None:
    for command in (("ip", "netns", "del", _SPACE), ("ip", "link", "del", _CABLE), ("ip", "link", "del", _BRIDGE)):
        with suppress(OSError, subprocess.CalledProcessError):
            _run(*command)


@dataclass
class Rig:
    """The two nodes."""

    address: str
    folder: Path
    has_cable: bool
    head_raylet: psutil.Process
    second: subprocess.Popen[bytes] | None = None

    def cut(self) -> None:
        """Take the second node's cable from the bridge."""
        _run("ip", "link", "set", _CABLE, "nomaster")

    def mend(self) -> None:
        """Put it back."""
        _run("ip", "link", "set", _CABLE, "master", _BRIDGE)

    def raylet(self) -> psutil.Process | None:
        """The second node's."""
        found = [one for one in _raylets(self.address) if one.pid != self.head_raylet.pid]
        return found[0] if found else None

    def trainers(self) -> list[psutil.Process]:
        """The trainers' processes of both nodes."""
        found = []
        for raylet in _raylets(self.address):
            with suppress(psutil.NoSuchProcess):
                found += [one for one in raylet.children(recursive=True) if "TrainerActor" in _title(one)]
        return sorted(found, key=lambda one: one.pid)

    def lose_node(self) -> None:
        """Kill the second node's raylet; what else the node has dies of that or is ended."""
        if (raylet := self.raylet()) is not None:
            raylet.kill()
        if self.second is not None:
            _end_tree(self.second)
            self.second = None

    def join_node(self) -> None:
        """Have the second node in the cluster; one that a cut has made die is started again."""
        for _ in range(TRIES):
            if self.second is None:
                self.second = _second(self.address, self.has_cable, self.folder)
            if self._joins():
                return
            self.lose_node()
        raise LunaError("the second node does not come back; nothing can be said of what follows.")

    def _joins(self) -> bool:
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self.second is not None and self.second.poll() is None:
            if _alive_nodes() == 2:
                return True
            time.sleep(0.2)
        return False


@contextmanager
def rig() -> Iterator[Rig]:
    """A warm cluster that this process has joined; it is gone afterwards, and no other one is touched."""
    import ray

    with cable() as has_cable, own_folder("chaos") as place, ExitStack() as undo:
        ip = _HEAD_IP if has_cable else "127.0.0.1"
        address = f"{ip}:{free_port()}"
        os.environ.update({**quiet_environment(), **_HEALTH, SIMULATED: "1", "RAY_ADDRESS": address})
        undo.callback(os.environ.pop, "RAY_ADDRESS")
        start_head(address, place, [*_RESOURCES, *node_options(34_001)])
        undo.callback(ray.shutdown)
        ray.init(address=address, namespace="luna", log_to_driver=False, logging_level="ERROR")
        end_in_order()
        (head,) = _raylets(address)
        found = Rig(address, place, has_cable, head)
        undo.callback(found.lose_node)
        found.join_node()
        yield found


def _second(address: str, has_cable: bool, place: Path) -> subprocess.Popen[bytes]:
    inside = ["ip", "netns", "exec", _SPACE] if has_cable else []
    ip = _NODE_IP if has_cable else "127.0.0.1"
    start = [*inside, ray_command(), "start", "--block", f"--address={address}", f"--node-ip-address={ip}"]
    command = [*start, *_RESOURCES, *node_options(38_001)]
    with (place / "second.log").open("ab") as log:
        return subprocess.Popen(
            [*command, *_RESOURCES, *node_options(38_001)],
            env=environment(),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _raylets(address: str) -> list[psutil.Process]:
    return [
        one
        for one in psutil.process_iter(["name", "cmdline", "status"])
        if one.info["name"] == "raylet"
        and one.info["status"] != psutil.STATUS_ZOMBIE
        and f"--gcs-address={address}" in one.info["cmdline"]
    ]


def _title(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""


def _alive_nodes() -> int:
    import ray

    return sum(node["Alive"] for node in ray.nodes())


def _end_tree(process: subprocess.Popen[bytes]) -> None:
    with suppress(psutil.NoSuchProcess):
        for one in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                one.kill()
    process.kill()
    process.wait()


# -- a fault ---------------------------------------------------------------------------------------------------------


def meet(rig: Rig, home: Home, fault: Fault) -> Outcome:
    """Let a run meet the fault, and examine its home when it has ended."""
    for _ in range(MOST_TRIES):
        outcome = _met(rig, home, fault)
        if outcome.hit:
            break
        fault = fault.earlier()
    return outcome


def _met(rig: Rig, home: Home, fault: Fault) -> Outcome:
    rig.join_node()
    witnessed = accepted(home)
    data = bring(home, _next_gen(home))
    run = _Run(home, request_of(home, data))
    driver = _driver(home, data) if fault.kind == "driver killed" else None
    if driver is None:
        run.ask()
    hit = run.wait_for(fault)
    begin = time.monotonic()
    after = strike(rig, run, fault, driver)
    ended, silent = run.until_ended(begin + fault.lasts_s, after)
    seconds, found = round(time.monotonic() - begin, 2), examine(home, witnessed)
    untrue = ended == "accepted" and not found.unclean and run.gen_id not in accepted(home)
    lost = (*found.lost, *([f"G{run.gen_id} was told and is not there"] if untrue else []))
    return Outcome(
        fault.number, fault.kind, hit, ended, tuple(run.said), run.resumes, seconds, lost, found.twice, found.unclean,
        tuple(silent),
    )  # fmt: skip


def strike(rig: Rig, run: _Run, fault: Fault, driver: subprocess.Popen[bytes] | None) -> Callable[[], None]:
    """Make the fault; returns what ends it."""
    if fault.kind == "worker killed":
        random.Random(fault.share).choice(run.awaited(rig.trainers)).kill()
    elif fault.kind == "coordinator killed":
        os.kill(run.state().pid, signal.SIGKILL)
    elif driver is not None:
        driver.kill()
        driver.wait()
    elif fault.kind == "raylet killed":
        rig.lose_node()
        return rig.join_node
    elif fault.kind == "network cut":
        rig.cut()
        return rig.mend
    return lambda: None


def _driver(home: Home, data: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "jobs.cli", "generation", "run", "--data", data, "--home", str(home.root)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _next_gen(home: Home) -> int:
    with Stores.open(home) as stores:
        return stores.ledger.next_gen_id(LINEAGE)


class _Run:
    """A generation as somebody sees it who asks for it and looks into the journal."""

    def __init__(self, home: Home, request: Any):
        self.home, self.request = home, request
        self.gen_id = _next_gen(home)
        self.said: list[str] = []
        self.resumes = 0

    def ask(self) -> None:
        """Ask the coordinator for it, or to go on with it."""
        ask(coordinator_for(self.home), "submit", self.request, timeout_s=_RUN_S)

    def state(self) -> CoordinatorState:
        state: CoordinatorState = ask(coordinator_for(self.home), "state")
        return state

    def known(self) -> RunState | None:
        """What the journal says of it; None before it is admitted."""
        with Stores.open(self.home) as stores:
            run = stores.journal.open_run(LINEAGE)
            if run is not None and run.gen_id == self.gen_id:
                return run
            return next((run for run in stores.journal.runs(LINEAGE) if run.gen_id == self.gen_id), None)

    def wait_for(self, fault: Fault) -> str:
        """Wait for the fault's moment; returns the step in work then, empty where the run has ended."""
        deadline = time.monotonic() + _RUN_S
        while fault.step is not None and time.monotonic() < deadline and not self._has_begun(fault.step):
            time.sleep(_LOOK_S)
        left = fault.delay_s
        while left > 0 and ((run := self.known()) is None or run.next_step not in ("deploy", None)):
            time.sleep(_LOOK_S)
            left -= _LOOK_S
        run = self.known()
        if run is None:
            return "admission"
        return str(run.next_step) if run.state == "open" else ""

    def awaited(self, look: Callable[[], list[psutil.Process]]) -> list[psutil.Process]:
        """What is found once there is something: a trainer may be starting.

        Raises:
            LunaError: nothing is found in time.
        """
        deadline = time.monotonic() + _START_S
        while not (found := look()):
            if time.monotonic() > deadline:
                raise LunaError("the run has no trainer; look at its log under runs/ in the home.")
            time.sleep(_LOOK_S)
        return found

    def _has_begun(self, step: Any) -> bool:
        run = self.known()
        if run is None:
            return False
        with Stores.open(self.home) as stores:
            return run.state != "open" or bool(stores.journal.attempts(run.run_id, step))

    def until_ended(self, due: float = 0.0, after: Callable[[], None] = lambda: None) -> tuple[str, list[str]]:
        """Ask again wherever it stands still; call `after` when it is due, at the latest at the end.

        Returns the verdict or how it was closed, and where nothing said why it stood still.
        """
        silent: list[str] = []
        deadline, waits = time.monotonic() + _RUN_S, True
        while time.monotonic() < deadline and self.resumes <= _MOST_RESUMES:
            if waits and time.monotonic() >= due:
                waits = False
                after()
            run = self.known()
            if run is not None and run.state != "open":
                break
            why = self._why_still()
            if why is not None:
                self.said.append(why)
                if unspoken(why):
                    silent.append(f"it stood still without a sentence: {why!r}")
            if why is not None or run is None:  # its driver was killed before it had asked
                self.resumes += 1
                with suppress(LunaError):
                    self.ask()
            time.sleep(0.2)
        if waits:
            after()
        run = self.known()
        if run is None or run.state == "open":
            return "open", [*silent, f"no end within {_RUN_S} s and {self.resumes} resumes"]
        if run.state == "done":
            return run.message.partition(":")[0], silent
        self.said.append(run.message)
        return run.state, [*silent, *([f"{run.state} without a sentence"] if unspoken(run.message) else [])]

    def _why_still(self) -> str | None:
        """Why it does not go on, empty where nobody says; None while it does, or while its coordinator starts again."""
        for _ in range(2):  # one that is being taken up this moment is not what is looked for
            run = self.known()
            if run is None or run.state != "open":
                return None
            try:
                state = self.state()
            except LunaError:
                return None
            if state.running:
                return None
            if (ended := state.ended) is not None and ended.run_id == run.run_id:
                return f"Error: {ended.reason}" if ended.state == "crashed" else ended.reason
            time.sleep(1.0)
        return ""
