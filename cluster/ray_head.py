"""Starting and finding Ray: one head on this machine that outlives the command, or a cluster that is already there."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from cluster import haproxy
from ledger.errors import LunaError

NAMESPACE = "luna"

_OBJECT_STORE_BYTES = 512 << 20
"""Examples and records travel through the object store, weights through files: half a gigabyte is plenty."""

_START_TIMEOUT_S = 120
_ANSWER_S = 3

_QUIET = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Ray starts workers at niceness 15; training that its user waits for should not starve beside other programs.
    "RAY_worker_niceness": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True)
class Rig:
    """The Ray cluster that this process is connected to."""

    address: str
    dashboard: str
    """URL of the dashboard, empty when it runs without one."""
    cpus: int
    gpus: int
    started: bool
    """Whether this call started it."""


def connect(address: str | None = None) -> Rig:
    """Join the Ray cluster at `address` (or RAY_ADDRESS, or the one on this machine); start a head if there is none.

    Raises:
        LunaError: a named cluster does not answer, or a head cannot be started.
    """
    import ray

    if ray.is_initialized():
        return describe(False)
    os.environ.update({key: os.environ.get(key, value) for key, value in _QUIET.items()})
    wanted = address or os.environ.get("RAY_ADDRESS")
    if _inside_a_job() or wanted:
        try:
            ray.init(address=wanted or "auto", namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise LunaError(
                f"no Ray cluster answers at {wanted or 'this job'}: {str(error).splitlines()[0]}. "
                "Start one (`ray start --head`) or leave --address out to use this machine."
            ) from error
        return describe(False)
    forget_dead_cluster()
    try:
        ray.init(address="auto", namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
        return describe(False)
    except ConnectionError:
        _start_head()
    ray.init(address="auto", namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
    return describe(True)


def shut_down() -> bool:
    """Stop the Ray processes on this machine that this user's `ray` started. False when none ran."""
    import ray

    if ray.is_initialized():
        ray.shutdown()
    result = subprocess.run([_ray_command(), "stop"], capture_output=True, text=True, check=False)
    return "Did not find any active Ray processes" not in result.stdout


def _inside_a_job() -> bool:
    """Whether `ray job submit` started this process."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def environment() -> dict[str, str]:
    """This process's environment, with this interpreter's folder first, so that jobs' `python` is the same one."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    # Workers keep the bytecode of what they import: vLLM alone takes half a minute to import without.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**haproxy.environment(), **kept, **_QUIET, "PATH": path}


def _ray_command() -> str:
    """The `ray` beside this interpreter, so that head and workers run the same environment."""
    return str(Path(sys.executable).parent / "ray")


def forget_dead_cluster() -> None:
    """Remove Ray's note of a cluster that a power cut or reboot ended: `ray.init` would wait minutes for it."""
    from ray._private.services import find_gcs_addresses
    from ray._private.utils import get_ray_address_file

    note = Path(get_ray_address_file(None))
    if not note.exists() or find_gcs_addresses():  # the latter: a Ray process of this machine is alive
        return
    host, _, port = note.read_text(encoding="utf-8").strip().rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    except (OSError, ValueError):
        note.unlink(missing_ok=True)


def _start_head() -> None:
    command = [
        _ray_command(), "start", "--head", "--port=0", "--dashboard-host=127.0.0.1", "--node-ip-address=127.0.0.1",
        "--disable-usage-stats", f"--object-store-memory={_OBJECT_STORE_BYTES}",
    ]  # fmt: skip
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_START_TIMEOUT_S, cwd=Path.home(),
            env=environment(),
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LunaError(f"Ray could not be started with `{' '.join(command)}`: {error}.") from error
    if result.returncode != 0:
        last = (result.stderr or result.stdout).strip().splitlines()[-1:] or ["no output"]
        raise LunaError(f"Ray could not be started with `{' '.join(command)}`: {last[0]}")


def describe(started: bool) -> Rig:
    """The cluster that this process has joined."""
    import ray

    context = ray.get_runtime_context()
    resources = ray.cluster_resources()
    dashboard = ray._private.worker.get_dashboard_url()
    return Rig(
        address=context.gcs_address,
        dashboard=f"http://{dashboard}" if dashboard else "",
        cpus=int(resources.get("CPU", 0)),
        gpus=int(resources.get("GPU", 0)),
        started=started,
    )
