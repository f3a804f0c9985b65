"""Starting, finding and stopping Ray: what others run on this machine is neither joined by mistake nor stopped."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from cluster import ray_head
from ledger.errors import LunaError

MISMATCH = """Version mismatch: The cluster was started with:
    Ray: 2.59.0
    Python: 3.12.1
This process on node 127.0.0.1 was started with:
    Ray: 2.60.0
    Python: 3.11.9
"""


@pytest.fixture
def note(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    _sees(monkeypatch)  # whatever else runs on this machine
    path = tmp_path / "ray" / "ray_current_cluster"
    path.parent.mkdir()
    return path


def _sees(monkeypatch, *addresses):
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", lambda: set(addresses))


def test_the_note_of_a_cluster_that_is_gone_is_removed(note):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    note.write_text(f"127.0.0.1:{port}")
    ray_head.forget_dead_cluster()
    assert not note.exists()


def test_the_note_of_a_cluster_that_answers_stays(note):
    with socket.create_server(("127.0.0.1", 0)) as server:
        note.write_text(f"127.0.0.1:{server.getsockname()[1]}")
        ray_head.forget_dead_cluster()
    assert note.exists()


def test_where_nothing_ran_there_is_nothing_to_forget(note):
    ray_head.forget_dead_cluster()
    assert not note.exists()


def record(note, process, prefix=sys.prefix, later=0.0):
    daemons = [[process.pid, process.create_time() + later]]
    content = {"address": "127.0.0.1:1", "prefix": prefix, "processes": daemons}
    note.with_name("luna_head.json").write_text(json.dumps(content))


def test_a_head_is_lunas_while_a_process_that_it_wrote_down_lives_and_is_the_same(note):
    ours = psutil.Process()
    assert ray_head.started_by_luna() is None
    record(note, ours)
    assert ray_head.started_by_luna().address == "127.0.0.1:1"
    record(note, ours, later=5.0)
    assert ray_head.started_by_luna() is None, "its number belongs to another process now"
    note.with_name("luna_head.json").write_text("{")
    assert ray_head.started_by_luna() is None


def test_a_note_that_another_user_wrote_is_not_believed(note, monkeypatch):
    record(note, psutil.Process())
    monkeypatch.setattr("os.getuid", lambda: note.parent.stat().st_uid + 1)
    assert ray_head.started_by_luna() is None


def test_what_luna_did_not_start_is_not_stopped(note, monkeypatch):
    assert ray_head.head_to_stop() is None
    _sees(monkeypatch, "10.0.0.7:6379")
    with pytest.raises(LunaError, match=r"10\.0\.0\.7:6379 was not started by Luna"):
        ray_head.head_to_stop()


def test_lunas_head_of_another_python_environment_is_refused_before_it_is_joined(note, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    record(note, psutil.Process(), prefix="/elsewhere/.venv")
    with pytest.raises(LunaError, match=r"another Python environment, /elsewhere/\.venv"):
        ray_head.connect()


@pytest.mark.parametrize("address", [None, "127.0.0.1:6379"])
def test_a_cluster_of_other_versions_is_refused_with_what_to_do(note, monkeypatch, address):
    def init(**_):
        raise RuntimeError(MISMATCH)

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", init)
    with pytest.raises(LunaError, match=r"other versions \(Ray: 2\.59\.0, Python: 3\.12\.1\) than Luna \(Ray: 2\.60"):
        ray_head.connect(address)


@pytest.mark.ray
@pytest.mark.slow
def test_stopping_ends_the_whole_head_that_luna_started_and_no_other_cluster(ray_head_beside):
    folder = Path(tempfile.mkdtemp(prefix="luna-ray-", dir="/tmp"))  # short: it holds sockets
    script = (
        "import ray\nfrom cluster import ray_head\nhead = ray_head.start_head()\n"
        "ray.init(address=head.address)\n"
        "@ray.remote\ndef pid():\n    import os\n    return os.getpid()\n"
        "worker = ray.get(pid.remote())\n"
        "assert ray_head.started_by_luna() == head\n"
        "pids = [one for one, _ in head.processes]\n"
        "ray_head.stop(head)\n"
        "assert ray_head.started_by_luna() is None\n"
        "print('pids', worker, *pids)\n"
    )
    environment = {**os.environ, "RAY_TMPDIR": str(folder), "RAY_ADDRESS": ""}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr
    worker, *daemons = done.stdout.split("pids", 1)[1].split()
    assert len(daemons) > 4
    assert not [pid for pid in (worker, *daemons) if psutil.pid_exists(int(pid))]
    assert not [one for one in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(one.info["cmdline"] or [])]
    assert ray_head_beside.is_running()


@pytest.fixture
def ray_head_beside(request):
    """The GCS of the cluster that the other tests use, which Luna did not start."""
    port = request.getfixturevalue("ray_head")["address"].rpartition(":")[2]
    return next(
        one
        for one in psutil.process_iter(["name", "cmdline"])
        if one.info["name"] == "gcs_server" and f"--gcs_server_port={port}" in " ".join(one.info["cmdline"] or [])
    )


def test_a_cluster_is_found_by_its_processes_wherever_tmpdir_points(tmp_path, monkeypatch):
    """As every SLURM job sets it: Ray's note then lies elsewhere than `luna status` may be looking."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "elsewhere"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    asked = []
    monkeypatch.setattr("ray.init", lambda **options: asked.append(options["address"]))
    shutil.copy(shutil.which("sleep"), tmp_path / "raylet")
    with subprocess.Popen([tmp_path / "raylet", "60"]) as daemon:
        try:
            assert ray_head.join_running()
        finally:
            daemon.kill()
    assert asked == ["auto"]


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "HTTPS://rig:8265"])
def test_a_job_servers_address_is_refused_with_what_to_give(monkeypatch, address):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(LunaError, match=r"^--address is .*only `luna submit` can use.*127.0.0.1:6379"):
        ray_head.connect(address)
    monkeypatch.setenv("RAY_ADDRESS", address)
    for join in (ray_head.connect, ray_head.join_running):
        with pytest.raises(LunaError, match=r"^RAY_ADDRESS is .*only `luna submit` can use"):
            join()


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:1:2", "ftp://x", "://", "127.0.0.1:port"])
def test_what_is_no_address_is_a_sentence(monkeypatch, address):
    monkeypatch.setattr("ray.is_initialized", lambda: False)

    def init(**_):
        raise {"nonsense": ConnectionError, "ftp://x": AssertionError, "://": OSError}.get(address, ValueError)()

    monkeypatch.setattr("ray.init", init)
    with pytest.raises(LunaError, match="no Ray cluster answers at"):
        ray_head.connect(address)
