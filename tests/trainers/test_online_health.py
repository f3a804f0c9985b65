"""The online health gate in a run of two channels: what it holds back, takes back, and remembers."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from curriculum.reward import DIMENSIONS, RewardOutput
from curriculum.reward.scores import freeze_scores
from ledger.roles import ROLES
from tests.trainers.builders import CPU, LORA, make_home, make_job, sums, tastes, tiny_base
from trainers.config import TrainSettings
from trainers.fused.engine import FusedEngine
from trainers.health.online import scored_examples
from trainers.health.settings import HealthSettings
from trainers.job import Paused
from trainers.models.adapters import WEIGHTS

pytestmark = pytest.mark.slow

SETTINGS = TrainSettings(dtype="float32")
EXAMPLES = [example for role in ROLES for example in sums(role, 40)]
PAIRS = [pair for role in ROLES for pair in tastes(role, 10)]

NEVER = {"skip_below": 0, "roll_back_below": 0, "freeze_below": 0}
SKIP = {"skip_below": 2, "roll_back_below": 0, "freeze_below": 0}
ROLL_BACK = {"skip_below": 2, "roll_back_below": 2, "freeze_below": 0}
FREEZE = {"skip_below": 2, "roll_back_below": 2, "freeze_below": 2}
"""Bounds that leave only one answer, since DCS + GVS of a real gradient lies between 0 and 2."""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_home(tmp_path_factory.mktemp("online"))


@pytest.fixture(scope="module")
def engine(home):
    return FusedEngine(tiny_base(home), SETTINGS, LORA, CPU)


def scores(pull):
    """Rewards of every example: `pull(i)` is the number that its seven dimensions are made of."""
    found = {}
    for i, example in enumerate(EXAMPLES):
        values = dict(zip(DIMENSIONS, pull(i), strict=True))
        found[example.id] = RewardOutput(**values, reward_intensity=1.0, safety_score=1.0)
    return found


def together(i):
    return [(1 if i % 3 else -1) * (0.5 + 0.05 * d) for d in range(7)]


def job_of(home, run, bounds, pull=together, every=1, steps=4):
    job = make_job(home, steps=steps, run=run, examples=EXAMPLES, pairs=PAIRS)
    return dataclasses.replace(
        job,
        rewards_file=str(home.data_file(freeze_scores(scores(pull), home))),
        health=HealthSettings(**bounds, online_every=every, online_rows=8, micro_batches=4),
    )


def trained(engine, job):
    outcome = engine.train(job, lambda _: None, lambda: False).roles
    return {role: result.adapter_sha for role, result in outcome.items()}, outcome["logical"].skipped_updates


def test_a_gate_that_lets_all_through_leaves_the_bytes_as_they_are(home, engine):
    gated, held = trained(engine, job_of(home, "never", NEVER))
    free, _ = trained(engine, dataclasses.replace(job_of(home, "free", NEVER), rewards_file=None))
    assert (gated, held) == (free, {})


def test_skipped_updates_change_nothing(home, engine):
    once, _ = trained(engine, job_of(home, "skip", SKIP))
    frozen, held = trained(engine, job_of(home, "freeze", FREEZE))
    assert once == frozen, "the first step is never measured; every later one was held back either way"
    assert held == {"freeze": 3}
    more, _ = trained(engine, dataclasses.replace(job_of(home, "all", NEVER), rewards_file=None))
    assert more != once


def test_taking_the_only_update_back_leads_to_where_the_run_began(home, engine):
    back, held = trained(engine, job_of(home, "back", ROLL_BACK))
    assert held == {"roll_back": 3}
    for sha in back.values():
        tensors = load_file(home.adapter_dir(sha) / WEIGHTS)
        assert not any(value.any() for name, value in tensors.items() if "lora_B" in name)


def test_between_two_measurements_updates_go_on_and_a_freeze_holds(home, engine):
    _, held = trained(engine, job_of(home, "skip2", SKIP, every=3, steps=8))
    assert held == {"skip": 2}, "steps 3 and 6"
    _, held = trained(engine, job_of(home, "freeze2", FREEZE, every=3, steps=8))
    assert held == {"freeze": 5}, "from step 3 on"


def test_dimensions_set_against_each_other_show_in_the_curve(home, engine):
    def against(i):
        return [(1 if i % 3 else -1) * (0.5 + 0.05 * d) * (1 if d % 2 else -1) for d in range(7)]

    agreeing, opposed = (
        partials(engine, job_of(home, name, NEVER, pull)) for name, pull in (("one", together), ("two", against))
    )
    assert all(0 < value <= 2 for value in agreeing + opposed)
    assert max(opposed) < min(agreeing)


def partials(engine, job):
    trained(engine, job)
    events = EventAccumulator(job.run_dir + "/tensorboard")
    events.Reload()
    points = events.Scalars("train/logical/health_partial")
    assert [point.step for point in points] == [2, 3, 4], "every step but the first, counted from 1"
    return [point.value for point in points]


@pytest.mark.parametrize("bounds", [ROLL_BACK, FREEZE])
def test_a_gated_run_stopped_and_resumed_in_a_fresh_engine_equals_an_unbroken_one(home, engine, bounds):
    name = f"cut-{bounds['freeze_below']}"
    whole = trained(engine, job_of(home, f"{name}-whole", bounds, every=2, steps=7))
    job, count = job_of(home, name, bounds, every=2, steps=7), iter(range(100))
    with pytest.raises(Paused, match="step 4 of 7"):
        engine.train(job, lambda _: None, lambda: next(count) == 4)
    assert trained(FusedEngine(engine.base, SETTINGS, LORA, CPU), job) == whole


def test_without_enough_scored_examples_that_differ_nothing_is_asked():
    same = {example.id: [0.5] * 9 for example in EXAMPLES}
    assert scored_examples(EXAMPLES, same, 8) is None
    assert scored_examples(EXAMPLES, {EXAMPLES[0].id: [0.1] * 9}, 8) is None
    varied = {example.id: [i / 200] * 9 for i, example in enumerate(EXAMPLES)}
    chosen, rewards = scored_examples(EXAMPLES, varied, 8)
    assert len(chosen) == 8
    assert rewards.shape == (8, 7)
    assert torch.allclose(rewards[:, 0], torch.tensor([varied[e.id][0] for e in chosen], dtype=torch.float64))
