"""A run keeps its groups: through a coordinator's end, on other devices, on nodes that are lost, in less memory.

The coordinator's part is played by this process, except where nodes are lost; Ray, the trainers and what they train are
real. A node's GPU is a logical one: its trainer computes on the CPU.
"""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cluster import trainer_actor, trainer_pool
from cluster.generation import Watcher
from cluster.placement import Groups, Placement, place_roles
from cluster.request import RunSpec
from cluster.settings import load_settings
from cluster.steps.records import Trained
from cluster.steps.training import training_notes
from cluster.trainer_actor import TrainerActor
from cluster.trainer_pool import TrainerPool
from curriculum.parquet import write_examples
from ledger.home import Home
from ledger.roles import ROLES, Role
from ledger.store import Ledger, Stores
from ledger.verification.ledger import verify
from tests.cluster.builders import even_numbers
from tests.cluster.test_generations import LENIENT, make_home
from tests.cluster.test_walk import a_run, nothing_is_served, walk  # noqa: F401
from trainers.config import ShardedSettings
from trainers.job import TrioProgress
from trainers.models.frozen import Base, prepare_base

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ONE_THREAD = LENIENT.replace("steps = 12\n", "steps = 12\nthreads = 1\n")
PAIR, ALONE = Placement(("creative", "logical"), 0), Placement(("dialectical",), 0)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A head with one GPU, beside a cluster that a user runs on this machine; tests may add nodes."""
    import ray
    from ray.cluster_utils import Cluster

    from cluster.ray_head import connect, environment

    ray.shutdown()  # of another test's
    with pytest.MonkeyPatch.context() as patched:
        for name, value in {**environment(), "RAY_TMPDIR": f"/tmp/luna-nodes-{os.getpid()}"}.items():
            patched.setenv(name, value)
        patched.setenv("LUNA_SIMULATED_GPUS", "1")
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 3, "num_gpus": 1, "include_dashboard": False})
        patched.setenv("RAY_ADDRESS", made.address)
        connect()
        yield made
        ray.shutdown()
        made.shutdown()


@pytest.fixture
def home(nodes: Any, tmp_path: Path) -> Home:
    made = Home(tmp_path / "home").create()
    made.settings_file.write_text(ONE_THREAD)
    return made


@pytest.fixture
def base(home: Home) -> Base:
    return prepare_base(load_settings(home.settings_file).base, home)


@pytest.fixture
def stores(home: Home, base: Base) -> Iterator[Stores]:
    with Stores.create(home) as opened:
        opened.ledger.create_lineage("main", base.sha)
        yield opened


@pytest.fixture
def a_pool() -> Iterator[Callable[[], TrainerPool]]:
    made: list[TrainerPool] = []

    def new() -> TrainerPool:
        made.append(TrainerPool())
        return made[-1]

    yield new
    for pool in made:
        pool.release()


def watching(on_progress: Callable[[TrioProgress], None] = lambda progress: None) -> Watcher:
    return Watcher(lambda step: None, on_progress, threading.Event())


def place_as(monkeypatch: pytest.MonkeyPatch, *groups: Placement) -> None:
    monkeypatch.setattr(trainer_pool, "place_roles", lambda gpus: groups)


def trained(stores: Stores, spec: RunSpec) -> Trained:
    return Trained.model_validate(stores.journal.step_result(spec.run_id, "train"))


def is_reproduced(home: Home, gen_id: int) -> bool:
    from jobs.generation.reproduce import reproduce

    return all(recorded == found for recorded, found in reproduce(home, gen_id).values())


def trainers(state: str = "ALIVE") -> dict[str, tuple[str, int]]:
    """(node, pid) of each trainer of this cluster by its name without its number."""
    import ray

    found = [one for one in ray._private.state.actors().values() if one["ActorClassName"] == "TrainerActor"]
    named = {one["Name"].rpartition("-")[0]: one for one in found if one["State"] == state}
    return {name: (one["Address"]["NodeID"], one["Pid"]) for name, one in named.items()}


def test_after_the_coordinators_end_a_run_keeps_its_groups_and_repeats_none_that_has_finished(
    home: Home,
    base: Base,
    stores: Stores,
    a_pool: Callable[[], TrainerPool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Killed(BaseException):
        pass

    def kill_when_one_has_finished(progress: TrioProgress) -> None:
        if (notes := training_notes(stores.journal, spec.run_id)) and notes.done:
            raise Killed

    place_as(monkeypatch, PAIR, ALONE)
    steps: dict[Role, int] = {"creative": 4, "logical": 4, "dialectical": 24}
    spec = a_run(home, stores, base, 0, train={"steps": steps})
    dead = a_pool()
    with pytest.raises(Killed):
        walk(spec, stores, dead, watching(kill_when_one_has_finished), [])
    dead.release()  # trainers end with the process that started them
    before = training_notes(stores.journal, spec.run_id)
    assert before is not None
    assert set(before.done) == {PAIR.name}
    place_as(monkeypatch, *place_roles(0))
    assert walk(spec, stores, a_pool(), watching(), []).verdict == "accepted"
    rows = {row.role: row.placement for row in stores.ledger.generation(0)}
    assert rows == {"creative": PAIR.name, "logical": PAIR.name, "dialectical": ALONE.name}
    assert trained(stores, spec).roles["creative"].seconds == before.done[PAIR.name].seconds, "it was not repeated"
    assert is_reproduced(home, 0)
    assert verify(home) == []


def test_memory_that_runs_out_is_in_the_log_and_the_journal_and_in_what_is_shown_and_reproduced(
    home: Home,
    base: Base,
    stores: Stores,
    a_pool: Callable[[], TrainerPool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import ray

    from jobs.generation.show import print_generation

    class Crowded(TrainerActor):
        """From the sixth pass of a training on there is memory for sixteen rows of the step's 24 alone."""

        def open(self, *arguments: Any) -> bool:
            import torch

            from trainers.lean.model import LeanModel

            whole, passes = LeanModel.log_probs, []

            def log_probs(model: Any, batch: Any, bank: Any, *others: Any) -> Any:
                if torch.is_grad_enabled():
                    passes.append(len(batch.row_slots))
                    if len(passes) > 5 and passes[-1] > 16:
                        torch.empty(1 << 50)
                return whole(model, batch, bank, *others)

            setattr(LeanModel, "log_probs", log_probs)  # noqa: B010
            return super().open(*arguments)

    def start(group: Placement) -> Any:
        return ray.remote(Crowded).options(num_cpus=1, max_concurrency=4).remote(group.name)

    monkeypatch.setattr(trainer_actor, "start_trainer", start)
    lines: list[str] = []
    spec = a_run(home, stores, base, 0)
    assert walk(spec, stores, a_pool(), watching(), lines).verdict == "accepted"
    # At the sixth step; and, since that goes on from the checkpoint of step 4, at the fifth.
    assert [line.partition(" (")[0] for line in lines if "memory ran out" in line] == [
        "creative+logical+dialectical: memory ran out at step 6",
        "creative+logical+dialectical: memory ran out at step 5",
    ]
    notes = training_notes(stores.journal, spec.run_id)
    assert notes is not None
    assert notes.micro_batches == {"creative+logical+dialectical": ((4, 2),)}
    assert {one.micro_batches for one in trained(stores, spec).roles.values()} == {((4, 2),)}
    shown = io.StringIO()
    print_generation(home, 0, Console(file=shown, width=200))
    assert "micro-batches, as memory asked" in shown.getvalue()
    assert "2 from step 5" in shown.getvalue()
    assert is_reproduced(home, 0)
    assert verify(home) == []


def test_a_trainer_that_shares_its_card_leaves_it_when_the_generation_is_deployed(
    home: Home, base: Base, stores: Stores, a_pool: Callable[[], TrainerPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    place_as(monkeypatch, Placement(ROLES, 0.5))
    seen: list[dict[str, Any]] = []
    walk(a_run(home, stores, base, 0), stores, a_pool(), watching(lambda progress: seen.append(trainers())), [])
    assert set(seen[0]) == {"luna-trainer-creative+logical+dialectical"}
    deadline = time.monotonic() + 20
    while trainers() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not trainers()


def begin(folder: Path) -> tuple[Home, Any]:
    """A home, and its coordinator with a generation of 80 steps in work."""
    from cluster.client.coordinator import ask, coordinator_for
    from cluster.request import GenerationRequest, PinnedBase

    folder.mkdir()
    home = make_home(folder, ONE_THREAD.replace("steps = 12\n", "steps = 80\n"))
    settings = load_settings(home.settings_file)
    base, sha = prepare_base(settings.base, home), write_examples(home.inbox_dir, even_numbers(0, 150))
    coordinator = coordinator_for(home)
    request = GenerationRequest(settings=settings, base=PinnedBase(source=base.source, sha=base.sha), data=(sha,))
    ask(coordinator, "submit", request)
    return home, coordinator


def wait_for(coordinator: Any, reached: Callable[[Any], bool], timeout_s: float) -> Any:
    from cluster.client.coordinator import ask

    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if reached(state := ask(coordinator, "state")):
            return state
        assert state.running, state.ended
        time.sleep(0.05)
    raise AssertionError(f"it did not come so far within {timeout_s} s: {state}")


def adapters(home: Home) -> dict[str, str]:
    with Ledger.open(home) as ledger:
        return {row.role: row.child_sha for row in ledger.generation(0)}


def test_a_lost_node_costs_neither_bytes_nor_the_other_trainers(nodes: Any, tmp_path: Path) -> None:
    """First undisturbed on three nodes, equal to what one machine makes of the record; then one node is lost."""
    for _ in range(2):
        nodes.add_node(num_cpus=1, num_gpus=1)
    home, coordinator = begin(tmp_path / "undisturbed")
    wait_for(coordinator, lambda state: state.ended and state.ended.state == "done", 200)
    unbroken, warm = adapters(home), trainers()
    assert set(warm) == {f"luna-trainer-{role}" for role in ROLES}
    assert len({node for node, _ in warm.values()}) == 3
    with Ledger.open(home) as ledger:
        assert {row.role: row.placement for row in ledger.generation(0)} == {role: role for role in ROLES}
    assert is_reproduced(home, 0)

    home, coordinator = begin(tmp_path / "disturbed")
    wait_for(coordinator, lambda state: state.progress and state.progress.step >= 20, 120)
    before = trainers()
    name, lost = next((name, node) for name, (node, _) in before.items() if node != nodes.head_node.node_id)
    nodes.remove_node(next(node for node in nodes.worker_nodes if node.node_id == lost), allow_graceful=False)
    start = time.monotonic()
    state = wait_for(coordinator, lambda state: state.ended and state.ended.state == "done", 200)
    assert time.monotonic() - start <= 60
    assert trainers() == {name: at for name, at in before.items() if at[0] != lost}, "the others were not disturbed"
    assert any("a trainer died; starting it again from its last checkpoint" in line for line in state.lines)
    role = name.removeprefix("luna-trainer-")
    assert any(f"{role} found no device of its own; it takes turns" in line for line in state.lines)
    assert adapters(home) == unbroken
    assert verify(home) == []


def test_the_coordinator_stays_on_its_callers_node_and_another_takes_over_when_that_is_gone(
    nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from cluster.client import coordinator as module
    from cluster.client.coordinator import ask, coordinator_for, find_coordinator

    home, node = make_home(tmp_path, ONE_THREAD), nodes.add_node(num_cpus=1)

    @ray.remote(num_cpus=0, label_selector={"ray.io/node-id": node.node_id})
    def command(root: str) -> str:
        return str(ask(coordinator_for(Home(Path(root))), "home"))

    def node_of(actor: Any) -> str:
        return str(ray._private.state.actors(actor._actor_id.hex())["Address"]["NodeID"])

    if (before := find_coordinator()) is not None:
        module._end(before)
    assert ray.get(command.remote(str(home.root)), timeout=120) == str(home.root.resolve())
    assert node_of(find_coordinator()) == node.node_id
    nodes.remove_node(node)
    monkeypatch.setattr(module, "_ANSWER_S", 10)
    assert node_of(coordinator_for(home)) == ray.get_runtime_context().get_node_id()


def test_a_base_that_the_plan_laid_out_in_shards_is_trained_resumed_and_reproduced_so(
    home: Home, base: Base, stores: Stores, a_pool: Callable[[], TrainerPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings leave the engine open; what was chosen when the run began is kept when the plan is another one."""

    class Killed(BaseException):
        pass

    def kill(progress: TrioProgress) -> None:
        raise Killed

    name = "+".join(ROLES)
    chosen = Groups(place_roles(0), {name: ((0, 2),)}, ShardedSettings(strategy="fsdp2"))
    spec = a_run(home, stores, base, 0)
    with monkeypatch.context() as patched:
        patched.setattr(TrainerPool, "_groups_now", lambda *_: chosen)
        dead = a_pool()
        with pytest.raises(Killed):
            walk(spec, stores, dead, watching(kill), [])
        dead.release()
    walk(spec, stores, a_pool(), watching(), [])
    made = trained(stores, spec).roles.values()
    assert {(one.engine.engine, one.micro_batches) for one in made} == {("sharded", ((0, 2),))}
    assert is_reproduced(home, 0)
