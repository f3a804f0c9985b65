"""Which paths a call names: all that lie under the home, and nothing that only looks like one."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.store.paths import Named, from_to, moved, named, named_by
from cluster.trainer_actor import TrainerActor
from curriculum.example import make_example
from ledger.roles import ROLES
from trainers.config import LoraSettings, TrainSettings
from trainers.evals.exam import Compared, RolePlan
from trainers.health.probe import HealthPlan
from trainers.job import TrioJob
from trainers.models.adapter_set import AdapterSet
from trainers.models.frozen import Base

HOME, HERE = Path("/srv/of/luna"), Path("/var/cache/luna/mirrors/1")
there, back = from_to(HOME, HERE), from_to(HERE, HOME)

paths = st.lists(st.text("abc.", min_size=1).filter(lambda part: part not in (".", "..")), min_size=1, max_size=3).map(
    lambda parts: HOME.joinpath(*parts)
)
shas = st.text("0123456789abcdef", min_size=4, max_size=4)
adapter_sets = st.builds(AdapterSet, paths, st.dictionaries(st.sampled_from(ROLES), shas))
bases = st.builds(Base, st.just("tiny"), shas, paths, st.text(max_size=3))
compared = st.builds(
    Compared, adapter_sets, st.none() | adapter_sets, st.dictionaries(st.integers(0, 3), adapter_sets, max_size=2)
)
health_plans = st.builds(HealthPlan, st.sampled_from(ROLES), paths, st.none() | paths, st.integers(0, 9))
files = paths.map(str)
jobs = st.builds(
    TrioJob,
    roles=st.just(ROLES),
    parents=st.fixed_dictionaries({role: st.none() | shas for role in ROLES}),
    train_file=files,
    role_steps=st.just(dict.fromkeys(ROLES, 3)),
    adapters_dir=files,
    run_dir=files,
    seed=st.integers(0, 9),
    train=st.just(TrainSettings()),
    lora=st.just(LoraSettings()),
    preference_file=st.none() | files,
    rewards_file=st.none() | files,
    delta_file=st.none() | files,
)
values = st.one_of(adapter_sets, bases, compared, health_plans, jobs, st.lists(health_plans, max_size=3), st.integers())


def texts(value: Any) -> Iterator[str]:
    """Every text and path in a value, however deep."""
    if isinstance(value, str | Path):
        yield str(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from texts(getattr(value, field.name))
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from texts(key)
            yield from texts(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from texts(one)


@given(values)
def test_a_moved_value_names_nothing_of_the_home_and_comes_back_as_it_was(value: Any) -> None:
    away = moved(value, there)
    assert [text for text in texts(away) if text.startswith(str(HOME))] == []
    assert moved(away, back) == value


@given(values)
def test_what_is_named_moves_with_the_value(value: Any) -> None:
    before, after = named(value), named(moved(value, there))
    assert after == Named(*(tuple(map(there, getattr(before, use))) for use in ("read", "state", "added")))


@given(values)
def test_a_path_of_another_place_is_not_moved_silently(value: Any) -> None:
    if any(text.startswith(str(HOME)) for text in texts(value)):
        with pytest.raises(ValueError, match="is not in the subpath"):
            moved(value, from_to(Path("/somewhere/else"), HERE))


def test_a_job_names_what_an_engine_opens() -> None:
    job = TrioJob(
        roles=ROLES,
        parents={"creative": "aa", "logical": None, "dialectical": "bb"},
        train_file="/h/data/rows",
        role_steps={},
        adapters_dir="/h/models/adapters",
        run_dir="/h/runs/r/g",
        seed=1,
        train=TrainSettings(),
        lora=LoraSettings(),
        delta_file="/h/data/delta",
    )
    read = ("data/rows", "data/delta", "models/adapters/aa", "models/adapters/bb")
    found = named_by("train", (job,))
    assert found.read == tuple(Path("/h") / path for path in read)
    assert (found.state, found.added) == ((Path("/h/runs/r/g"),), (Path("/h/models/adapters"),))


def test_bare_paths_are_what_the_method_makes_of_them() -> None:
    health = named_by("health", ([], Path("/h/reward"), 3, Path("/h/curves"), None))
    assert (health.read, health.added) == ((Path("/h/reward"),), (Path("/h/curves"),))
    blend = named_by("blend", (AdapterSet(HOME, {}), AdapterSet(HOME, {"logical": "a"}), 0.5, Path("/h/blend")))
    assert (blend.read, blend.added) == ((HOME / "a",), (Path("/h/blend"),))


def test_an_example_that_quotes_a_path_is_left_alone() -> None:
    quoted = make_example(
        role="logical", stage="fundamentals", category="agl/comparison", kind="pure",
        input=f"what lies in {HOME}?", output=str(HOME), source="test",
    )  # fmt: skip
    plan = RolePlan("logical", [quoted])
    assert moved([plan], there) == [plan]
    assert moved([quoted], there)[0] is quoted


def test_every_bare_path_that_a_method_takes_is_known() -> None:
    """A method that takes a path, and is not listed in `named_by`, would not get what lies there."""
    bare = {
        method: [name for name, one in inspect.signature(function).parameters.items() if one.annotation == "Path"]
        for method, function in inspect.getmembers(TrainerActor, inspect.isfunction)
    }
    assert {method: names for method, names in bare.items() if names} == {
        "blend": ["into"],
        "health": ["reward_model", "curves_dir"],
    }
