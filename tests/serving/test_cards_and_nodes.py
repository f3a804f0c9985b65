"""Whose card is whose, and who reads luna.db, on a real Ray of two nodes (check C7) and on one with a single card.

GPUs are logical ones: who holds one computes on the CPU.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from cluster.client.coordinator import coordinator_for
from curriculum.parquet import write_examples
from ledger.errors import LunaError
from ledger.home import Home
from ledger.roles import ROLES
from ledger.store import Ledger
from tests.cluster.builders import even_numbers
from tests.cluster.test_generations import LENIENT
from tests.serving.builders import free_port

pytestmark = [pytest.mark.ray, pytest.mark.slow]

NOTES = "LUNA_TEST_NOTES"
WATCH = f"""
import os, sys

def note(event, arguments):
    if event in ("sqlite3.connect", "open") and arguments and "luna.db" in str(arguments[0]):
        descriptor = os.open(os.environ["{NOTES}"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, f"{{event}} {{arguments[0]}} {{sys.orig_argv[:3]}}\\n".encode())
        os.close(descriptor)

if "{NOTES}" in os.environ:
    sys.addaudithook(note)
"""
"""Lets every Python process of a node note when it opens a ledger: a reader has it open for a moment only."""


@contextmanager
def ray_of(gpus: tuple[int, ...], folder: Path) -> Iterator[Any]:
    """A cluster with a node for each number of GPUs, the head first; the others note who opens a ledger."""
    import ray
    from ray.cluster_utils import Cluster

    from cluster.ray_head import connect, environment

    ray.shutdown()  # of another test's
    watch = folder / "watch"
    watch.mkdir()
    (watch / "sitecustomize.py").write_text(WATCH)
    path = os.pathsep.join([str(watch), *filter(None, [os.environ.get("PYTHONPATH")])])
    with pytest.MonkeyPatch.context() as patched:
        here = {"RAY_TMPDIR": f"/tmp/luna-cards-{os.getpid()}", "LUNA_SIMULATED_GPUS": "1", "PYTHONPATH": path}
        for name, value in {**environment(), **here}.items():
            patched.setenv(name, value)
        head, *others = gpus
        args = {"num_cpus": 4, "num_gpus": head, "include_dashboard": False}
        made = Cluster(initialize_head=True, head_node_args=args)
        try:
            for own in others:
                made.add_node(num_cpus=2, num_gpus=own, env_vars={NOTES: str(folder / "notes")})
            patched.setenv("RAY_ADDRESS", made.address)
            connect()
            yield made
        finally:
            from serving import app

            if ray.is_initialized():
                app.stop()
            ray.shutdown()
            made.shutdown()


def make_home(folder: Path, **serving: Any) -> Home:
    from jobs.home import make_home as make

    home = Home(folder / "home").create()
    set_serving(home, **serving)
    make(home, "tiny", None)
    return home


def set_serving(home: Home, **serving: Any) -> None:
    lines = {"engine": '"transformers"', "port": free_port(), "evaluate_candidates": "false", **serving}
    home.settings_file.write_text(LENIENT + "[serving]\n" + "".join(f"{key} = {lines[key]}\n" for key in lines))


def raise_one(home: Home, start: int) -> Any:
    from jobs.generation.run import raise_generation

    return raise_generation(home, None, (write_examples(home.inbox_dir, even_numbers(start, 150)),), {})["verdict"]


def serve(home: Home) -> str:
    from cluster.server.start import start

    state = start(home, coordinator_for)
    assert state["problems"] == {}
    url: str = state["url"]
    return url


def actors(part: str) -> dict[str, tuple[str, tuple[str, ...], float]]:
    """(node, ids of its GPUs there, what it holds of them) of every actor that lives and has this in its name."""
    import ray

    def mine(_: Any) -> tuple[str, tuple[str, ...], float]:
        context = ray.get_runtime_context()
        gpus = context.get_assigned_resources().get("GPU", 0.0)
        return context.get_node_id(), tuple(context.get_accelerator_ids()["GPU"]), gpus

    named = [one for one in ray.util.list_named_actors(all_namespaces=True) if part in one["name"]]
    handles = {one["name"]: ray.get_actor(one["name"], namespace=one["namespace"]) for one in named}
    return {name: ray.get(handle.__ray_call__.remote(mine), timeout=60) for name, handle in handles.items()}


class OpenFiles:
    """Which processes of a node have a file open, looked at all the time."""

    def __init__(self, node: Any, file: Path) -> None:
        self._raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        self._file, self._over = str(file), threading.Event()
        self.found: set[str] = set()
        self.looks = 0
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> OpenFiles:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.05):
            self.looks += 1
            for process in [self._raylet, *self._raylet.children(recursive=True)]:
                for link in self._links(process.pid):
                    with suppress(OSError):  # closed meanwhile
                        if (to := str(link.readlink())).startswith(self._file):
                            self.found.add(f"{process.pid} {to}")

    @staticmethod
    def _links(pid: int) -> list[Path]:
        with suppress(OSError):  # it has ended
            return list(Path(f"/proc/{pid}/fd").iterdir())
        return []


def test_engines_have_other_cards_than_trainers_and_only_the_heads_node_opens_the_ledger(tmp_path: Path) -> None:
    from cluster.server.client import deploy, serving

    with ray_of((3, 3), tmp_path) as cluster:
        head, (second,) = cluster.head_node.node_id, cluster.worker_nodes
        home = make_home(tmp_path, replicas=2)
        with OpenFiles(second, home.db) as looked:
            assert raise_one(home, 0) == "accepted"
            url = serve(home)
            told = httpx.post(f"{url}/generate", json={"message": "7 even?", "role": "logical"}, timeout=60).json()
            assert httpx.get(f"{url}/conversations/{told['conversation']}").json()[0]["answer"] == told["answer"]
            assert raise_one(home, 1000) == "accepted"
            deploy(home, 0)
            states = serving(home).broadcast("state").results(timeout_s=60)
        engines, trainers = actors("luna-engine"), actors("luna-trainer-")
        keepers = {**actors("#gateway#"), **actors("#reward#"), **actors("luna-coordinator")}
    assert [(own["current"], own["previous"], own["gpus"]) for own in states] == [(0, 1, 1.0)] * 2

    assert {node for node, _, _ in engines.values()} == {head, second.node_id}, "one is on each node"
    assert [gpus for _, _, gpus in engines.values()] == [1.0, 1.0]
    assert [gpus for _, _, gpus in trainers.values()] == [1.0] * len(ROLES)
    cards = [(node, card) for found in (engines, trainers) for node, ids, _ in found.values() for card in ids]
    assert len(cards) == len(set(cards)) == len(engines) + len(trainers)

    assert {node for node, _, _ in keepers.values()} == {head}
    assert [gpus for _, _, gpus in keepers.values()] == [0.0] * 3
    assert looked.looks > 20
    assert looked.found == set()
    assert not (tmp_path / "notes").exists(), (tmp_path / "notes").read_text()


def test_who_opens_a_ledger_on_the_second_node_is_noticed(tmp_path: Path) -> None:
    """What the test before relies on."""
    with ray_of((0, 0), tmp_path) as cluster:
        import ray

        home, (second,) = make_home(tmp_path), cluster.worker_nodes

        @ray.remote(num_cpus=0, label_selector={"ray.io/node-id": second.node_id})
        def read(root: str) -> str:
            import time

            with Ledger.open(Home(Path(root))) as ledger:
                time.sleep(1)
                return ledger.current_lineage()

        with OpenFiles(second, home.db) as looked:
            assert ray.get(read.remote(str(home.root))) == "main"
    assert looked.found
    assert "sqlite3.connect" in (tmp_path / "notes").read_text()


def test_on_the_only_card_the_engine_has_its_share_and_the_trainer_the_rest(tmp_path: Path) -> None:
    from serving import app

    with ray_of((1,), tmp_path):
        home = make_home(tmp_path, replicas=2, gpu_memory_utilization=0.5)
        assert raise_one(home, 0) == "accepted"
        assert [gpus for _, _, gpus in actors("luna-trainer-").values()] == [1.0], "it has nobody beside it"
        with pytest.raises(LunaError, match=r"What fits: replicas = 1 or gpu_memory_utilization below 0\.5"):
            serve(home)
        assert app.running() is None

        set_serving(home, gpu_memory_utilization=0.3)
        serve(home)
        assert [gpus for _, _, gpus in actors("luna-engine").values()] == [0.3]
        held: list[float] = []
        over = threading.Event()

        def look() -> None:
            while not over.wait(0.5):
                try:
                    held.extend(gpus for _, _, gpus in actors("luna-trainer-").values())
                except Exception:  # one that ends while it is asked
                    continue

        looking = threading.Thread(target=look)
        looking.start()
        try:
            assert raise_one(home, 1000) == "accepted"
        finally:
            over.set()
            looking.join()
        assert set(held) == {0.7}
        from cluster.server.client import state

        assert (state(home)["current"], state(home)["previous"]) == (1, 0)
