"""Training under paths of another place, with real files and a real engine; the home gets the same bytes.

In place of Ray the depot is asked directly; `test_away.py` has it between two nodes.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.settings import ClusterSettings, Settings
from cluster.store import depot as depot_module
from cluster.store import mirror as mirror_module
from cluster.store.depot import ARRIVALS, Depot
from cluster.store.mirror import Mirror
from cluster.store.reach import HomeNotSeenError, Reach, Setup, why_unreachable
from ledger.errors import LunaError
from ledger.home import Home
from tests.trainers.builders import CPU, LORA, make_home, make_job, tiny_base
from trainers.fused.engine import FusedEngine
from trainers.job import Paused, TrioJob, TrioProgress
from trainers.models.adapter_set import AdapterSet
from trainers.models.frozen import Base

pytestmark = pytest.mark.slow

STEPS: dict[str, Any] = {"steps": 8, "threads": 1, "checkpoint_every_steps": 2}


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (depot_module, mirror_module):
        monkeypatch.setattr(module, "asked", lambda method, *arguments: method(*arguments))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return make_home(tmp_path)


through_both = pytest.mark.parametrize("reach", ["Ray", "a store"], indirect=True)


@pytest.fixture
def reach(request: pytest.FixtureRequest, home: Home, tmp_path: Path) -> Reach:
    store = str(tmp_path / "store") if getattr(request, "param", "Ray") == "a store" else ""
    return Reach(home.root, "another", ClusterSettings(store=store), Depot(str(home.root), store))


@pytest.fixture
def node(reach: Reach, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Mirror]:
    """A process on a node with a cache of its own."""

    def on(name: str) -> Mirror:
        monkeypatch.setenv("LUNA_CACHE", str(tmp_path / name))
        return Mirror(reach)

    return on


def engine_on(mirror: Mirror, home: Home, job: TrioJob) -> FusedEngine:
    base = mirror.opened(Setup.of(tiny_base(home), Settings()).base)
    assert not base.path.is_relative_to(home.root)
    return FusedEngine(base, job.train, LORA, CPU)


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def checkpoints(job: TrioJob) -> list[str]:
    return sorted(found.name for found in Path(job.run_dir).glob("checkpoint-*"))


def train(mirror: Mirror, engine: FusedEngine, job: TrioJob, stop_at: int = 99) -> Any:
    """Train away; the home's checkpoints after each step are kept."""
    seen: list[TrioProgress] = []

    def note(progress: TrioProgress) -> None:
        seen.append(progress)
        mirror.send_new_checkpoint()

    return mirror.through("train", (job,), lambda here: engine.train(here, note, lambda: len(seen) >= stop_at))


@through_both
def test_a_training_away_leaves_what_one_at_home_does(reach: Reach, home: Home, node: Callable[[str], Mirror]) -> None:
    job = make_job(home, **STEPS)
    at_home = FusedEngine(tiny_base(home), job.train, LORA, CPU).train(job, lambda _: None, lambda: False)
    adapters = files(home.adapters_dir)
    kept = {name for name in files(Path(job.run_dir)) if "tfevents" not in name}
    shutil.rmtree(home.adapters_dir)
    shutil.rmtree(job.run_dir)
    mirror = node("one")
    away = train(mirror, engine_on(mirror, home, job), job)
    assert away.roles == at_home.roles
    assert files(home.adapters_dir) == adapters, "its config too, which names the base by the home's path"
    found = set(files(Path(job.run_dir)))
    assert {name for name in found if "tfevents" not in name} == kept
    assert any("tfevents" in name for name in found), "its curves as well"
    assert [name for name in files(home.root) if ARRIVALS in name] == []


@through_both
def test_another_node_goes_on_from_the_checkpoint(reach: Reach, home: Home, node: Callable[[str], Mirror]) -> None:
    job = make_job(home, **STEPS)
    whole = FusedEngine(tiny_base(home), job.train, LORA, CPU).train(job, lambda _: None, lambda: False)
    shutil.rmtree(job.run_dir)
    first = node("one")
    with pytest.raises(Paused, match="stopped at step 5"):
        train(first, engine_on(first, home, job), job, stop_at=5)
    assert checkpoints(job) == ["checkpoint-00000005"], "the older ones are gone there too"
    second, seen = node("two"), list[int]()
    engine = engine_on(second, home, job)
    away = second.through(
        "train", (job,), lambda here: engine.train(here, lambda p: seen.append(p.step), lambda: False)
    )
    assert seen[0] == 6
    assert away.roles == whole.roles


def test_what_was_sent_before_a_node_is_lost_is_enough(
    home: Home, node: Callable[[str], Mirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lost(BaseException):
        pass

    job, mirror, steps = make_job(home, **STEPS), node("one"), list[int]()
    engine = engine_on(mirror, home, job)

    def note(progress: TrioProgress) -> None:
        mirror.send_new_checkpoint()
        steps.append(progress.step)
        if progress.step == 6:
            monkeypatch.setattr(mirror, "send_back", lambda: None)  # nothing more is heard of it
            raise Lost

    with pytest.raises(Lost):
        mirror.through("train", (job,), lambda here: engine.train(here, note, lambda: False))
    assert checkpoints(job) == ["checkpoint-00000004"], "sent with the step after it"


def test_a_node_that_comes_back_with_an_older_checkpoint_takes_the_homes(
    home: Home, node: Callable[[str], Mirror]
) -> None:
    job = make_job(home, **STEPS)
    first, second = node("one"), node("two")
    engines = {one: engine_on(one, home, job) for one in (first, second)}
    for mirror, stop_at in ((first, 3), (second, 2)):  # to step 3, then two further
        with pytest.raises(Paused):
            train(mirror, engines[mirror], job, stop_at)
    assert checkpoints(job) == ["checkpoint-00000005"]
    seen: list[int] = []
    engine = engines[first]
    first.through("train", (job,), lambda here: engine.train(here, lambda p: seen.append(p.step), lambda: False))
    assert seen == [6, 7, 8]


def test_a_child_is_trained_from_a_parent_that_was_trained_elsewhere_and_blended(
    home: Home, node: Callable[[str], Mirror]
) -> None:
    job = make_job(home, **STEPS)
    at_home = FusedEngine(tiny_base(home), job.train, LORA, CPU)
    parents = {role: one.adapter_sha for role, one in at_home.train(job, lambda _: None, lambda: False).roles.items()}
    child = make_job(home, parents=parents, run="child", seed=8, **STEPS)
    expected = at_home.train(child, lambda _: None, lambda: False)
    children = AdapterSet(home.adapters_dir, {role: one.adapter_sha for role, one in expected.roles.items()})
    blended = at_home.blended(AdapterSet(home.adapters_dir, parents), children, 0.5, home.root / "at-home")
    for sha in children.shas.values():
        shutil.rmtree(home.adapter_dir(sha))
    shutil.rmtree(child.run_dir)
    mirror = node("one")
    engine = engine_on(mirror, home, child)
    assert train(mirror, engine, child).roles == expected.roles
    arguments = (AdapterSet(home.adapters_dir, parents), children, 0.5, home.root / "away")
    answer = mirror.through("blend", arguments, engine.blended)
    assert answer == dataclasses.replace(blended, folder=home.root / "away")
    assert files(home.root / "away") == files(home.root / "at-home")


def test_what_has_nothing_new_is_not_sent(home: Home, node: Callable[[str], Mirror], reach: Reach) -> None:
    job, mirror = make_job(home, **STEPS), node("one")
    engine = engine_on(mirror, home, job)
    roles = train(mirror, engine, job).roles
    adapters = AdapterSet(home.adapters_dir, {role: one.adapter_sha for role, one in roles.items()})
    reach.depot.lay = None  # would fail
    taken, offer = list[str](), reach.depot.offer

    def noted(paths: list[str]) -> dict[str, str]:
        taken.extend(paths)
        found: dict[str, str] = offer(paths)
        return found

    reach.depot.offer = noted
    assert mirror.through("ask", (adapters,), lambda here: here.folder).is_relative_to(home.root)
    assert sorted(taken) == sorted(str(adapters.path(role).relative_to(home.root)) for role in roles)


def test_a_path_outside_the_home_is_refused_with_the_node(home: Home, node: Callable[[str], Mirror]) -> None:
    base = Base("tiny", "a" * 64, Path("/elsewhere/base"))
    with pytest.raises(LunaError, match=f"the node .* does not see the home {home.root}.*/elsewhere/base"):
        node("one").through("open", (base,), lambda here: None)


def test_a_node_that_was_not_told_of_the_depot_says_what_it_needs(reach: Reach) -> None:
    with pytest.raises(HomeNotSeenError):
        Mirror(dataclasses.replace(reach, depot=None))


def test_a_node_without_a_usable_cache_is_named_with_the_path(
    reach: Reach, node: Callable[[str], Mirror], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        LunaError, match=f"on the node .*could not write {tmp_path}/file/cache/mirrors: Not a directory"
    ):
        node("file/cache")
    assert f"could not write {tmp_path}/file/cache" in why_unreachable(reach, "", 1)
    monkeypatch.setenv("LUNA_CACHE", str(tmp_path / "cache"))
    assert why_unreachable(reach, "", 1) == ""
    assert re.search(r"cache has room for \d+ MiB, the base alone takes \d+", why_unreachable(reach, "", 1 << 60))


def test_a_home_is_seen_by_its_mark_and_a_copy_of_it_is_another(home: Home, tmp_path: Path) -> None:
    reach = Reach.of(home, Settings())
    assert reach.sees_home()
    assert Reach.of(home, Settings()) == reach
    shutil.copytree(home.root, tmp_path / "copy")
    assert not dataclasses.replace(reach, root=tmp_path / "nowhere").sees_home()
    assert not dataclasses.replace(reach, mark="of a later process").sees_home()


def test_what_ended_processes_left_is_removed(node: Callable[[str], Mirror], tmp_path: Path) -> None:
    living = node("one")
    (tmp_path / "one" / "mirrors" / "ended").mkdir()
    (tmp_path / "one" / "mirrors" / "ended.lock").touch()
    node("one")
    left = {found.name for found in (tmp_path / "one" / "mirrors").iterdir()}
    assert len(left) == 4
    assert living._root.is_dir()
    assert "ended" not in left


def test_a_file_that_is_no_part_of_the_home_is_neither_offered_nor_laid(home: Home) -> None:
    depot = Depot(str(home.root))
    for path in ("../outside", "/etc/passwd"):
        with pytest.raises(LunaError, match="no path within the home"):
            depot.offer([path])


def test_what_the_home_could_not_lay_is_sent_again(
    home: Home, node: Callable[[str], Mirror], reach: Reach, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise LunaError("no space left")

    mirror = node("one")

    def write(into: Path) -> None:
        into.mkdir(parents=True, exist_ok=True)
        (into / "file").write_text("written")

    with monkeypatch.context() as patched:
        patched.setattr(reach.depot, "lay", full)
        with pytest.raises(LunaError, match="no space left"):
            mirror.through("blend", (home.root / "made",), write)
    mirror.through("blend", (home.root / "made",), lambda into: None)
    assert files(home.root / "made") == {"file": b"written"}
