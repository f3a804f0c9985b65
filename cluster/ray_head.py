"""Starting, finding and stopping Ray: one head on this machine that outlives the command, or a cluster that is there.

What Luna starts it writes down beside Ray's own note of the cluster, so that `luna down` ends that and nothing else.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from cluster.access import token
from ledger.errors import LunaError
from ledger.files import write_atomic
from trainers.driver import gpus_for_ray

NAMESPACE = "luna"

_OBJECT_STORE_BYTES = 512 << 20
"""Examples and records travel through the object store, weights through files, or in parts of some MiB to nodes that do
not see the home: half a gigabyte is plenty."""

_START_TIMEOUT_S = 120
_ANSWER_S = 3
_STOP_TIMEOUT_S = 10
"""How long the processes of a head may take to end by themselves."""

_ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Ray starts workers at niceness 15; training that its user waits for should not starve beside other programs.
    "RAY_worker_niceness": "0",
    # A job that is told to end has a generation pause first; Ray kills it after three seconds otherwise.
    "RAY_JOB_STOP_WAIT_TIME_S": "30",
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


@dataclass(frozen=True)
class StartedHead:
    """A head that Luna started on this machine."""

    address: str
    prefix: str
    """`sys.prefix` of the Python environment that it runs in."""
    processes: tuple[tuple[int, float], ...]
    """(pid, create time) of each of its daemons: a pid alone may be another process's by now."""


def connect(address: str | None = None) -> Rig:
    """Join the Ray cluster at `address` (or RAY_ADDRESS, or the one on this machine); start a head if there is none.

    Raises:
        LunaError: a named cluster does not answer, it runs with other versions or in another Python environment, or
            a head cannot be started.
    """
    import ray

    if ray.is_initialized():
        return describe(False)
    os.environ.update({key: os.environ.get(key, value) for key, value in _ENVIRONMENT.items()})
    wanted = _named_cluster(address)
    if wanted or _inside_a_job():
        _join_named(wanted)
        return describe(False)
    forget_dead_cluster()
    _refuse_other_environment(started_by_luna())
    try:
        _join("auto")
        return describe(False)
    except ConnectionError:
        start_head()
    _join("auto")
    return describe(True)


def join_running() -> bool:
    """Join the cluster that RAY_ADDRESS names or that runs on this machine, if there is one; none is started.

    Raises:
        LunaError: RAY_ADDRESS names none that answers, or it runs with other versions.
    """
    wanted = _named_cluster(None)
    if wanted is None and not _ray_lives():  # asked first: the import takes seconds
        return False
    import ray

    if ray.is_initialized():
        return True
    if wanted is not None:
        _join_named(wanted)
        return True
    forget_dead_cluster()
    try:
        _join("auto")
    except ConnectionError:
        return False
    return True


def started_by_luna() -> StartedHead | None:
    """The head on this machine that Luna started, as long as one of its daemons lives."""
    note = _own_note()
    try:
        if note.stat().st_uid != os.getuid():  # Ray's folder is open to other users
            return None
        found = json.loads(note.read_text(encoding="utf-8"))
        head = StartedHead(
            str(found["address"]), str(found["prefix"]), tuple((int(pid), float(at)) for pid, at in found["processes"])
        )
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    return head if _alive(head) else None


def head_to_stop() -> StartedHead | None:
    """What `luna down` may stop; None where no Ray runs on this machine.

    Raises:
        LunaError: a Ray cluster runs here that Luna did not start.
    """
    from ray._private.services import find_gcs_addresses

    head = started_by_luna()
    if head is None and (others := sorted(find_gcs_addresses())):
        raise LunaError(
            f"the Ray cluster at {', '.join(others)} was not started by Luna, so Luna leaves it alone. "
            "Whoever started it can end it; `ray stop` ends every Ray process of this machine that you may end."
        )
    return head


def stop(head: StartedHead) -> None:
    """End a head that Luna started, with everything that runs on it. Other clusters go on.

    Raises:
        LunaError: some of its processes did not end.
    """
    import ray
    from ray._private.services import find_gcs_addresses

    if ray.is_initialized() and ray.get_runtime_context().gcs_address == head.address:
        ray.shutdown()
    processes = _with_descendants(_alive(head))
    # The raylet first, which ends its workers; the GCS last, which all others wait for.
    left = [*_end(processes, "raylet"), *_end(processes, "gcs_server", others=True), *_end(processes, "gcs_server")]
    if left:
        raise LunaError(f"these processes of Ray did not end: {', '.join(str(process.pid) for process in left)}.")
    find_gcs_addresses.cache_clear()
    _own_note().unlink(missing_ok=True)
    if _noted_address() == head.address:
        _ray_note().unlink(missing_ok=True)


def environment() -> dict[str, str]:
    """The environment of a head: this process's, with this interpreter's folder first, so that jobs' `python` is the
    same one, and with the token's mode."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    # Workers keep the bytecode of what they import: vLLM alone takes half a minute to import without.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, **_ENVIRONMENT, "PATH": path, token.MODE_VARIABLE: token.mode_of_a_new_head()}


def forget_dead_cluster() -> None:
    """Remove Ray's note of a cluster that a power cut or reboot ended: `ray.init` would wait minutes for it."""
    from ray._private.services import find_gcs_addresses

    note = _ray_note()
    if not note.exists() or find_gcs_addresses():  # the latter: a Ray process of this machine is alive
        return
    host, _, port = _noted_address().rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    except (OSError, ValueError):
        note.unlink(missing_ok=True)


def start_head() -> StartedHead:
    """Start a head on the loopback address and write down which processes it has.

    Raises:
        LunaError: Ray did not start.
    """
    ray_command = str(Path(sys.executable).parent / "ray")  # so that head and workers run the same environment
    command = [
        ray_command, "start", "--head", "--port=0", "--dashboard-host=127.0.0.1", "--node-ip-address=127.0.0.1",
        "--disable-usage-stats", f"--object-store-memory={_OBJECT_STORE_BYTES}",
    ]  # fmt: skip
    if (gpus := gpus_for_ray()) is not None:  # AMD cards that Ray does not count by itself
        command.append(f"--num-gpus={gpus}")
    failed = f"Ray could not be started with `{' '.join(command)}`"
    try:
        starter = subprocess.Popen(
            command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path.home(), env=environment(),
            start_new_session=True,  # by which its daemons are known: they stay in that session
        )  # fmt: skip
    except OSError as error:
        raise LunaError(f"{failed}: {error}.") from error
    try:
        stdout, stderr = starter.communicate(timeout=_START_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        _kill([*_of_session(starter.pid), psutil.Process(starter.pid)])
        raise LunaError(f"{failed}: it took more than {_START_TIMEOUT_S} s.") from error
    if starter.returncode != 0:
        _kill(_of_session(starter.pid))
        last = (stderr or stdout).strip().splitlines()[-1:] or ["no output"]
        raise LunaError(f"{failed}: {last[0]}")
    daemons = tuple((process.pid, process.create_time()) for process in _of_session(starter.pid))
    head = StartedHead(_noted_address(), sys.prefix, daemons)
    write_atomic(_own_note(), json.dumps(asdict(head)))
    return head


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


def _named_cluster(address: str | None) -> str | None:
    """The cluster that --address or RAY_ADDRESS names.

    Raises:
        LunaError: it is the address of a job server, which Ray's own manual sets for `ray job submit`.
    """
    wanted = address or os.environ.get("RAY_ADDRESS") or None
    if wanted and wanted.lower().startswith(("http:", "https:")):
        raise LunaError(
            f"{'--address' if address else 'RAY_ADDRESS'} is {wanted}, a job server, which only `luna submit` can use. "
            "Give the cluster's own address, such as 127.0.0.1:6379 (`ray status` shows it), or leave it out to use "
            "this machine."
        )
    return wanted


def _join_named(wanted: str | None) -> None:
    """Join a named cluster, or that of the job that this process is."""
    try:
        _join(wanted or "auto")
    except (OSError, RuntimeError, ValueError, AssertionError) as error:  # an AssertionError for what is no address
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise LunaError(
            f"no Ray cluster answers at {wanted or 'this job'}: {reason}. "
            "Start one (`ray start --head`) or leave --address out to use this machine."
        ) from error


def _ray_lives() -> bool:
    """Whether a daemon of Ray runs on this machine, wherever it keeps its files (TMPDIR decides that)."""
    names = {process.info["name"] for process in psutil.process_iter(["name"])}
    return bool(names & {"gcs_server", "raylet"})


def _join(address: str) -> None:
    """`ray.init` for a cluster that runs.

    Raises:
        LunaError: it runs with another version of Ray or Python, or asks for a token that is not here.
        ConnectionError: there is none.
    """
    import ray

    if where := _noted_address() if address == "auto" else address:
        token.agree_with(where)
    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
    except RuntimeError as error:
        if "ersion mismatch" not in str(error):
            raise
        raise LunaError(_version_mismatch(str(error))) from error


def _version_mismatch(said: str) -> str:
    """What to do about Ray's own report of two versions, which takes eight lines."""
    versions = [line.strip() for line in said.splitlines() if line.strip().startswith(("Ray:", "Python:"))]
    theirs, ours = ", ".join(versions[:2]), ", ".join(versions[2:4])
    return (
        f"the Ray cluster that runs here has other versions ({theirs}) than Luna ({ours}); they cannot work together. "
        "Use the environment that started it, stop it there (`luna down`, or `ray stop`), or name another cluster "
        "with --address."
    )


def _refuse_other_environment(head: StartedHead | None) -> None:
    if head is not None and head.prefix != sys.prefix:
        raise LunaError(
            f"Luna's Ray on this machine was started from another Python environment, {head.prefix} (this one is "
            f"{sys.prefix}), and its workers would import that one's packages. `luna down` stops it; the next command "
            "starts it from here."
        )


def _inside_a_job() -> bool:
    """Whether `ray job submit` started this process."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def _ray_note() -> Path:
    """Where Ray keeps the address of this machine's cluster."""
    from ray._private.utils import get_ray_address_file

    return Path(get_ray_address_file(None))


def _noted_address() -> str:
    try:
        return _ray_note().read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""


def _own_note() -> Path:
    return _ray_note().with_name("luna_head.json")


def _of_session(leader: int) -> list[psutil.Process]:
    """The processes of a POSIX session, which outlives the process that began it."""

    def session_of(process: psutil.Process) -> int | None:
        try:
            return os.getsid(process.pid)
        except OSError:  # gone, or not ours to ask
            return None

    return [process for process in psutil.process_iter() if process.pid != leader and session_of(process) == leader]


def _alive(head: StartedHead) -> list[psutil.Process]:
    """Those of the head's daemons that still live."""
    found = []
    for pid, created in head.processes:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            if process.create_time() == created and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _with_descendants(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Each once, parents first."""
    found: dict[int, psutil.Process] = {}
    for process in processes:
        found.setdefault(process.pid, process)
        with suppress(psutil.NoSuchProcess):
            found |= {child.pid: child for child in process.children(recursive=True) if child.pid not in found}
    return list(found.values())


def _end(processes: Iterable[psutil.Process], name: str, others: bool = False) -> list[psutil.Process]:
    """End the processes of this name (or all others), by force where they take too long; returns what is left."""
    ending = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if (process.name() == name) != others:
                process.terminate()
                ending.append(process)
    _, slow = psutil.wait_procs(ending, timeout=_STOP_TIMEOUT_S)
    _kill(slow)
    return psutil.wait_procs(slow, timeout=_ANSWER_S)[1]


def _kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
