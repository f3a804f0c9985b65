"""Several processes that share the rows of each step learn what one learns, and hold the same state."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from curriculum.parquet import freeze
from ledger.roles import ROLES
from tests.trainers.builders import CPU, LORA, make_home, make_job, sums, tastes, tiny_base
from tests.trainers.groups import ONE_THREAD, Task, train_alone, train_together
from trainers.engines import open_engine
from trainers.fused.graph import GraphStep
from trainers.fused.step import StepParts
from trainers.lean.packing import Group
from trainers.models.adapters import WEIGHTS, initial_adapter
from trainers.parallel import World

pytestmark = pytest.mark.slow


def held_job(home, **more):
    """Examples of which the first are new and the others replayed, and pairs: all three channels."""
    examples = [e for role in ROLES for e in sums(role, 32)]
    pairs = [p for role in ROLES for p in tastes(role, 24)]
    job = make_job(home, examples=examples, pairs=pairs, kl_weight=0.5, channels={"pairs": 3}, **more)
    delta = [e for role in ROLES for e in sums(role, 16)]
    return dataclasses.replace(job, delta_file=str(home.data_file(freeze(delta, home))))


UNEVEN = {"creative": 3, "logical": 5, "dialectical": 4}


def jobs(home, run):
    """By name what both a group and one process train."""
    common = {"threads": 1, "checkpoint_every_steps": 3}
    rows = [e for role in ROLES for e in sums(role, 2 * UNEVEN[role] - 1)]
    return {
        "examples": make_job(home, steps=8, run=f"examples-{run}", **common),
        "all channels": held_job(home, steps=8, run=f"all-{run}", **common),
        "few rows": make_job(home, steps=UNEVEN, examples=rows, batch_size=2, run=f"few-{run}", **common),
        "parts": make_job(
            home, steps=4, run=f"parts-{run}", gradient_accumulation_steps=2, gradient_checkpointing=True, **common
        ),
    }


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_home(tmp_path_factory.mktemp("parallel"))


@pytest.fixture(scope="module")
def trained(home, tmp_path_factory):
    """By name (what one process saw, what each of two saw), and the group's further tasks."""
    base = tiny_base(home)
    ours = jobs(home, "two")
    further = {
        "stopped": Task(make_job(home, steps=6, run="stopped", threads=1), stop_after=2),
        "disturbed": Task(make_job(home, steps=2, run="disturbed", threads=1), disturb=True),
        "missing": Task(make_job(home, steps=2, run="missing", threads=1, parents=dict.fromkeys(ROLES, "0" * 64))),
    }
    tasks = [*(Task(job) for job in ours.values()), *further.values()]
    by_rank = train_together(tmp_path_factory.mktemp("meeting"), base, tasks)
    both = dict(zip([*ours, *further], zip(*by_rank, strict=True), strict=True))
    alone = {name: train_alone(base, job) for name, job in jobs(home, "one").items()}
    return alone, both


def update(home, outcome):
    """All numbers of all roles' adapters, less those that they began with."""
    shapes = open_engine(tiny_base(home), ONE_THREAD, LORA, CPU).lean.model.module_shapes
    parts = []
    for role, result in outcome.roles.items():
        begun = initial_adapter(shapes, LORA.rank, 7, role)
        stored = load_file(home.adapter_dir(result.adapter_sha) / WEIGHTS)
        for name, value in begun.items():
            parts.append((stored[f"base_model.model.model.{name}.weight"] - value).reshape(-1))
    return torch.cat(parts)


@pytest.mark.parametrize("name", ["examples", "all channels", "few rows", "parts"])
def test_two_workers_learn_what_one_learns(home, trained, name):
    alone, (lead, other) = trained[0][name], trained[1][name]
    assert (alone.error, lead.error, other.error) == ("", "", "")
    assert len(lead.losses) == len(alone.losses)
    for ours, theirs in zip(lead.losses, alone.losses, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
    one, two = update(home, alone.outcome), update(home, lead.outcome)
    assert (one - two).norm() / one.norm() <= 5e-3


@pytest.mark.parametrize("name", ["examples", "all channels", "few rows", "parts", "stopped"])
def test_every_workers_state_is_the_same_and_the_leading_one_tells(trained, name):
    lead, other = trained[1][name]
    assert lead.states == other.states != []
    assert lead.losses
    assert other.losses == []
    if lead.outcome is not None:
        assert other.outcome.roles == lead.outcome.roles


def test_how_many_trained_stands_in_the_record(trained):
    assert trained[0]["examples"].outcome.engine.workers == ((0, 1),)
    assert trained[1]["examples"][0].outcome.engine.workers == ((0, 2),)


def test_one_worker_goes_on_with_what_two_have_begun(home, trained):
    """Asked to stop in one process, both stop at the same step."""
    assert [told.error for told in trained[1]["stopped"]] == [
        "Paused: training stopped at step 2 of 6; the next run goes on there."
    ] * 2
    base = tiny_base(home)
    rest = train_alone(base, make_job(home, steps=6, run="stopped", threads=1))
    whole = train_alone(base, make_job(home, steps=6, run="unbroken", threads=1))
    assert len(rest.losses) == 4
    assert rest.outcome.engine.workers == ((0, 2), (2, 1))
    one, two = update(home, whole.outcome), update(home, rest.outcome)
    assert (one - two).norm() / one.norm() <= 5e-3


def test_workers_whose_adapters_differ_publish_nothing(trained):
    for told in trained[1]["disturbed"]:
        assert "do not have the same adapters at step 2" in told.error


def test_what_one_worker_cannot_read_is_told_by_all(trained):
    assert [("0" * 64 in told.error) for told in trained[1]["missing"]] == [True, True]


@given(st.lists(st.integers(), max_size=20), st.integers(1, 5), st.integers(0, 4))
def test_every_item_is_in_one_share(items, size, first):
    shares = [World(rank, size).share(items, first) for rank in range(size)]
    assert sorted(item for share in shares for item in share) == sorted(items)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    if items:
        assert items[0] in shares[first % size]
