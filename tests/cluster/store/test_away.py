"""A home that only the head sees: another node, in a mount namespace of its own, finds an empty disk in its place.

Both raylets, the trainers and what they train are real; a node's GPU is a logical one.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster import trainer_pool
from cluster.generation import Watcher
from cluster.placement import Placement
from cluster.settings import Settings, load_settings
from cluster.store.depot import ARRIVALS
from cluster.store.reach import Reach, Setup
from cluster.trainer_pool import TrainerPool
from cluster.workers.train_group import train_in_group
from curriculum.parquet import write_examples
from ledger.errors import LunaError
from ledger.files import sha256_file
from ledger.home import Home
from ledger.roles import ROLES, Role
from ledger.store import Stores
from ledger.verification.ledger import verify
from tests.cluster.builders import even_numbers
from tests.cluster.test_generations import make_home
from tests.cluster.test_groups import ONE_THREAD, adapters, begin, is_reproduced, trainers, wait_for
from tests.cluster.test_walk import a_run, nothing_is_served, walk  # noqa: F401
from tests.repository import ROOT
from trainers.job import TrioProgress
from trainers.models.frozen import prepare_base

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.unproven,
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="hides a folder by a mount"),
]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class AwayNode:
    """A raylet with one CPU and one logical GPU that finds an empty disk at a folder."""

    def __init__(self, address: str, hidden: Path, cache: Path, log: Path):
        before = alive()
        start = (
            f"{Path(sys.executable).parent / 'ray'} start --address={address} --block --num-cpus=1 --num-gpus=1 "
            "--object-store-memory=157286400 --min-worker-port=0 --max-worker-port=0 --disable-usage-stats "
            f"--dashboard-agent-listen-port={free_port()}"
        )
        self._log = log
        with log.open("w") as said:
            self._process = subprocess.Popen(
                ["unshare", "-m", "sh", "-c", f"mount -t tmpfs none {hidden} && exec {start}"],
                env={**os.environ, "LUNA_CACHE": str(cache)}, stdout=said, stderr=subprocess.STDOUT,
            )  # fmt: skip
        (self.node_id,) = self._joined(before)

    def _joined(self, before: set[str]) -> set[str]:
        deadline = time.monotonic() + 120
        while not (new := alive() - before):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._end()
                raise AssertionError(f"the node did not join: {self._log.read_text()}")
            time.sleep(0.1)
        return new

    def kill(self) -> None:
        """As a power cut ends it."""
        self._end()
        while self.node_id in alive():
            time.sleep(0.1)

    def _end(self) -> None:
        if self._process.poll() is None:
            whole = psutil.Process(self._process.pid)
            for process in [*whole.children(recursive=True), whole]:
                process.kill()
            self._process.wait()


def alive() -> set[str]:
    import ray

    return {str(node["NodeID"]) for node in ray.nodes() if node["Alive"]}


@pytest.fixture(scope="module")
def hidden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Homes lie here; away nodes see nothing of it."""
    return tmp_path_factory.mktemp("only-the-head-sees-this")


@pytest.fixture(scope="module")
def head(hidden: Path) -> Iterator[str]:
    """Address of a head with one logical GPU, beside a cluster that a user runs on this machine."""
    import ray
    from ray.cluster_utils import Cluster

    from cluster.ray_head import connect, environment

    ray.shutdown()  # of another test's
    with pytest.MonkeyPatch.context() as patched:
        for name, value in {**environment(), "RAY_TMPDIR": f"/tmp/luna-away-{os.getpid()}"}.items():
            patched.setenv(name, value)
        patched.setenv("LUNA_SIMULATED_GPUS", "1")
        arguments = {"num_cpus": 3, "num_gpus": 1, "include_dashboard": True, "dashboard_port": free_port()}
        ports = {"dashboard_agent_listen_port": free_port()}
        made = Cluster(initialize_head=True, head_node_args={**arguments, **ports})
        patched.setenv("RAY_ADDRESS", made.address)
        connect()
        yield made.address
        ray.shutdown()
        made.shutdown()


@pytest.fixture
def away(head: str, hidden: Path, tmp_path: Path) -> Iterator[AwayNode]:
    node = AwayNode(head, hidden, tmp_path / "cache", tmp_path / "log")
    yield node
    if node.node_id in alive():
        node.kill()


@pytest.fixture
def taken() -> Iterator[None]:
    """The head's GPU has another user, so that trainers must be elsewhere."""
    import ray

    class Other:
        def is_there(self) -> bool:
            return True

    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    other: Any = ray.remote(num_cpus=0, num_gpus=1, label_selector=here)(Other).remote()
    assert ray.get(other.is_there.remote(), timeout=60)
    yield
    ray.kill(other)


def raise_away(home: Home, away: AwayNode, monkeypatch: pytest.MonkeyPatch, generations: int) -> list[str]:
    """Generations whose trainer is on the other node, with this process for a coordinator; returns their log."""
    base = prepare_base(load_settings(home.settings_file).base, home)
    monkeypatch.setattr(trainer_pool, "place_roles", lambda gpus: (Placement(ROLES, 1),))
    seen: set[str] = set()
    pool, lines = TrainerPool(), list[str]()

    def note(progress: TrioProgress) -> None:
        seen.update(node for node, _ in trainers().values())

    try:
        with Stores.create(home) as stores:
            stores.ledger.create_lineage("main", base.sha)
            for number in range(generations):
                spec = a_run(home, stores, base, 1000 * number)
                watcher = Watcher(lambda step: None, note, threading.Event())
                assert walk(spec, stores, pool, watcher, lines).verdict == "accepted"
    finally:
        pool.release()
    assert seen == {away.node_id}
    return lines


def test_a_child_and_its_parent_are_trained_and_measured_on_a_node_that_does_not_see_the_home(
    away: AwayNode, taken: None, hidden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(hidden / "through-ray").create()
    home.settings_file.write_text(ONE_THREAD)
    lines = raise_away(home, away, monkeypatch, 2)
    assert any(f"does not see the home {home.root}; files go through Ray" in line for line in lines)
    assert is_reproduced(home, 0), "by this process, which sees the home"
    assert is_reproduced(home, 1)
    assert verify(home) == []
    assert list((home.root / ARRIVALS).rglob("*")) == []


def test_a_submitted_generation_outlives_a_node_that_does_not_see_its_home(away: AwayNode, hidden: Path) -> None:
    """Submitted from a third process; one of two raylets is killed in the middle."""
    from cluster.client.coordinator import coordinator_for

    (hidden / "submitted").mkdir()
    home = make_home(hidden / "submitted", ONE_THREAD.replace("steps = 12\n", "steps = 80\n"))
    write_examples(home.inbox_dir, even_numbers(0, 150))
    command = ["submit", "generation", "--home", str(home.root), "--", "--profile", "tiny"]
    submitted = subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", *command], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    coordinator = coordinator_for(home)
    wait_until_running(coordinator, submitted)
    wait_for(coordinator, lambda state: state.progress and state.progress.step >= 20, 240)
    at = {name.removeprefix("luna-trainer-"): node for name, (node, _) in trainers().items()}
    (lost,) = (group for group, node in at.items() if node == away.node_id)
    assert set(at) == {"creative+logical", "dialectical"}
    assert list(home.runs_dir.glob(f"*/{lost}/checkpoint-*")), "what was trained there is in the home"
    away.kill()
    state = wait_for(coordinator, lambda state: state.ended and state.ended.state == "done", 300)
    told, _ = submitted.communicate(timeout=120)
    assert submitted.returncode == 0, told
    assert "G0: accepted" in told
    assert any("does not see the home" in line for line in state.lines)
    assert any("a trainer died; starting it again from its last checkpoint" in line for line in state.lines)
    assert set(adapters(home)) == set(ROLES)
    assert is_reproduced(home, 0)
    assert verify(home) == []


def wait_until_running(coordinator: Any, submitted: subprocess.Popen[str]) -> None:
    from cluster.client.coordinator import ask

    deadline = time.monotonic() + 180
    while not ask(coordinator, "state").running:
        assert submitted.poll() is None, submitted.communicate()
        assert time.monotonic() < deadline, "the job did not begin"
        time.sleep(0.2)


def test_a_node_that_can_be_given_nothing_is_named_before_anything_is_recorded(
    head: str, hidden: Path, tmp_path: Path
) -> None:
    node = AwayNode(head, hidden, Path("/proc/nothing/lies/here"), tmp_path / "log")
    try:
        with pytest.raises(LunaError, match=r"the node \S+ does not see the home .*could not write /proc/nothing"):
            begin(hidden / "refused")
    finally:
        node.kill()
    with Stores.open(Home(hidden / "refused" / "home")) as stores:
        assert stores.journal.open_runs() == []


def test_files_go_through_a_store_where_one_is_named(
    away: AwayNode, taken: None, hidden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, store = Home(hidden / "through-a-store").create(), tmp_path / "store"
    home.settings_file.write_text(f'{ONE_THREAD}[cluster]\nstore = "{store.as_uri()}"\n')
    lines = raise_away(home, away, monkeypatch, 1)
    assert any(f"files go through the store {store.as_uri()}" in line for line in lines)
    assert is_reproduced(home, 0)
    assert verify(home) == []
    base = {sha256_file(file) for file in prepare_base(load_settings(home.settings_file).base, home).path.iterdir()}
    assert base <= {file.name for file in store.iterdir()}
    assert not (home.root / ARRIVALS).exists()
    assert [file for file in (store / ARRIVALS).rglob("*") if file.is_file()] == []


def test_workers_of_one_group_train_together_where_only_one_sees_the_home(away: AwayNode, hidden: Path) -> None:
    import ray

    from tests.trainers.builders import LORA, make_job, tiny_base

    class Busy:
        def is_there(self) -> bool:
            return True

    def update(run: str) -> dict[Role, str]:
        job = make_job(home, steps=6, run=run, threads=1, checkpoint_every_steps=2)
        setup = Setup.of(tiny_base(home), Settings(train=job.train, lora=LORA), Reach.of(home, Settings()))
        outcome = train_in_group(Placement(ROLES, 0, workers=2), setup, job, lambda _: None, threading.Event())
        assert outcome.engine.workers == ((0, 2),)
        assert {path.name for path in Path(job.run_dir).glob("checkpoint-*")} == {"checkpoint-00000004"}
        return {role: one.adapter_sha for role, one in outcome.roles.items()}

    home = Home(hidden / "group").create()
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    busy: Any = ray.remote(num_cpus=2, label_selector=here)(Busy).remote()
    assert ray.get(busy.is_there.remote(), timeout=60)
    apart = update("apart")  # for each node has one CPU
    assert all((home.adapter_dir(sha) / "adapter_model.safetensors").exists() for sha in apart.values())
    ray.kill(busy)
    away.kill()
    assert update("beside") == apart
