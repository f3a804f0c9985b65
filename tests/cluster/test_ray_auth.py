"""Ray's token: a head that Luna starts asks for one, and Luna joins what asks for one, also by its address."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from cluster.access import token as ray_auth
from ledger.errors import LunaError
from tests.jobs.servers import http, listening
from tests.repository import ROOT


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where the user's token would lie, with nothing in the environment that decides."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / ".ray" / "auth_token"


def test_a_new_head_gets_a_token_that_only_its_user_may_read(place):
    assert ray_auth.token() is None
    assert ray_auth.mode_of_a_new_head() == "token"
    assert len(ray_auth.token() or "") == 64
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700


def test_a_token_that_is_there_stays(place):
    place.parent.mkdir()
    place.write_text("mine\n")
    assert ray_auth.mode_of_a_new_head() == "token"
    assert (place.read_text(), ray_auth.token()) == ("mine\n", "mine")


def test_the_users_own_choice_of_a_mode_is_kept(place, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert ray_auth.mode_of_a_new_head() == "disabled"
    assert not place.exists()


def test_a_token_may_lie_elsewhere(place, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "other"))
    ray_auth.make_token()
    assert ray_auth.token() == (tmp_path / "other").read_text()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "given")
    assert ray_auth.token() == "given"


def test_a_token_that_cannot_be_kept_is_told(place, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "file" / "token"))
    with pytest.raises(LunaError, match=r"could not be written to .*Set RAY_AUTH_TOKEN_PATH"):
        ray_auth.mode_of_a_new_head()
    place.parent.mkdir()
    place.touch()
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    with pytest.raises(LunaError, match="holds no token; remove it"):
        ray_auth.mode_of_a_new_head()


@pytest.mark.parametrize(
    ("reply", "asks"),
    [({"authentication_mode": "token"}, "token"), ({"authentication_mode": "disabled"}, "open"), ([], "unknown")],
)
def test_a_job_server_says_what_it_asks_for(reply, asks):
    with listening(http(reply)) as (port, _):
        assert ray_auth.job_server_asks(f"http://127.0.0.1:{port}/") == asks


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:1", "127.0.0.1:1:2", "://", ""])
def test_where_no_cluster_answers_nothing_is_asked_for(address):
    assert ray_auth.asked_by(address) == "unknown"


SESSION = """
import os, subprocess, sys
from pathlib import Path
import ray
from cluster import ray_head
head = ray_head.start_head()
try:
    print("address", head.address, flush=True)
    os.environ.pop("RAY_AUTH_MODE", None)
    worker = [str(Path(sys.executable).parent / "ray"), "start", f"--address={head.address}", "--num-cpus=1",
              "--node-ip-address=127.0.0.1", "--object-store-memory=80000000", "--resources={\\"beside\\": 1}"]
    subprocess.run(worker, check=True, capture_output=True, env={**os.environ, "RAY_AUTH_MODE": "token"}, timeout=100)
    rig = ray_head.connect(head.address)

    @ray.remote(num_cpus=0, resources={"beside": 0.1})
    def told(inner):
        return ray.get(inner[0])

    print("nodes", sum(node["Alive"] for node in ray.nodes()), ray.get(told.remote([ray.put("owned by the driver")])))
    ray.shutdown()
    luna = [sys.executable, "-m", "jobs.cli", "jobs", "list", "--address"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    for address in (head.address, rig.dashboard):
        done = subprocess.run([*luna, address], env=clean, capture_output=True, text=True, timeout=100)
        print("listed", done.returncode, done.stdout.strip(), done.stderr.strip())
    for home, token in (("/nonexistent", {}), (os.environ["HOME"], {"RAY_AUTH_TOKEN": "another" * 9})):
        environment = {**clean, "HOME": home, **token}
        done = subprocess.run([*luna, head.address], env=environment, capture_output=True, text=True, timeout=100)
        print("refused", done.returncode, " ".join(done.stderr.split()))
finally:
    ray_head.stop(head)
"""


@pytest.mark.ray
@pytest.mark.slow
def test_a_head_asks_for_its_token_and_a_worker_and_the_command_line_join_it_by_address():
    folder = Path(tempfile.mkdtemp(prefix="luna-ray-", dir="/tmp"))  # short: it holds sockets
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_AUTH", "RAY_ADDRESS"))}
    try:
        done = subprocess.run(
            [sys.executable, "-c", SESSION], env={**kept, "HOME": str(folder), "RAY_TMPDIR": str(folder)}, cwd=ROOT,
            capture_output=True, text=True, timeout=280, check=False,
        )  # fmt: skip
    finally:
        for process in psutil.process_iter(["cmdline"]):  # the worker's, which Luna did not start
            if str(folder) in " ".join(process.info["cmdline"] or []):
                process.kill()
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[1] == "nodes 2 owned by the driver"
    assert all(line.startswith("listed 0 no job was submitted yet") for line in lines[2:4])
    assert lines[4].startswith("refused 1 error: the Ray cluster at ")
    assert "asks for a token, and there is none on this machine. Copy ~/.ray/auth_token" in lines[4]
    assert "asks for a token, and the one of this machine is another" in lines[5]
