"""A Ray cluster of a bench's own, beside whatever else runs on the machine."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from cluster.ray_head import environment
from ledger.errors import LunaError

LEAST_STORE_BYTES = 78_643_200
"""The smallest object store that Ray takes."""

TRIES = 3
"""Ray gives a node 30 s to start, which is little on a busy machine."""

_START_S = 120


def quiet_environment() -> dict[str, str]:
    """What a bench sets before it starts Ray: no token, no usage report, and this checkout for the workers."""
    root = str(Path(__file__).resolve().parent.parent)
    return {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": root}


def ray_command() -> str:
    """Ray's command of this environment."""
    return str(Path(sys.executable).parent / "ray")


def node_options(first_port: int) -> list[str]:
    """Options of `ray start`: a small object store, and worker ports of its own from this one on."""
    return [
        f"--object-store-memory={LEAST_STORE_BYTES}", "--disable-usage-stats", f"--min-worker-port={first_port}",
        f"--max-worker-port={first_port + 1999}", f"--dashboard-agent-listen-port={first_port - 1}",
    ]  # fmt: skip


@contextmanager
def own_folder(name: str) -> Iterator[Path]:
    """A folder for a cluster's files, by which its processes are known; both are gone afterwards."""
    place = Path(tempfile.mkdtemp(prefix=f"luna-{name}-", dir="/tmp"))  # paths of sockets must be short
    try:
        yield place
    finally:
        _end_processes(place)
        shutil.rmtree(place, ignore_errors=True)


def start_head(address: str, place: Path, options: list[str]) -> None:
    """Start a head that keeps its files under `place`.

    Raises:
        LunaError: Ray did not start.
    """
    ip, _, port = address.rpartition(":")
    command = [
        ray_command(), "start", "--head", f"--port={port}", f"--node-ip-address={ip}", f"--temp-dir={place}",
        "--include-dashboard=false", '--resources={"luna_head": 1}', *options,
    ]  # fmt: skip
    for _ in range(TRIES):
        done = subprocess.run(command, capture_output=True, text=True, timeout=_START_S, env=environment(), check=False)
        if not done.returncode:
            return
        _end_processes(place)
    raise LunaError(f"Ray did not start: {(done.stderr or done.stdout).strip()[-300:]}")


def _end_processes(place: Path) -> None:
    """Those that name the folder; `ray stop` would end every Ray on the machine."""
    for process in psutil.process_iter(["cmdline"]):
        if str(place) in " ".join(process.info["cmdline"] or []) and process.pid != os.getpid():
            with suppress(psutil.NoSuchProcess):
                process.kill()


def end_in_order() -> None:
    """Let SIGTERM undo what was begun, as Ctrl-C does. To be called after `ray.init` too, which takes SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
