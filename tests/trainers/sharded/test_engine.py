"""The sharded engine of one process, as a user meets it."""

from __future__ import annotations

import dataclasses
import os

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from curriculum.render import render_prompt
from ledger.errors import LunaError
from ledger.files import sha256_file
from tests.trainers.builders import CPU, LORA, make_home, make_job, quietly, random_base, sums, tastes
from tests.trainers.sharded.groups import under
from trainers.config import ShardedSettings, TrainSettings
from trainers.engines import open_engine
from trainers.fused.engine import FusedEngine
from trainers.health.settings import HealthSettings
from trainers.job import NonFiniteError
from trainers.models.adapter_set import AdapterSet
from trainers.models.adapters import WEIGHTS, initial_adapter, write_adapter
from trainers.reference.engine import TrlEngine
from trainers.sharded.engine import ShardedEngine

pytestmark = pytest.mark.slow

STRATEGIES = ("ddp", "fsdp2", "zero2", "zero3")
ROLES = ("logical", "creative")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_home(tmp_path_factory.mktemp("sharded"))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return random_base(tmp_path_factory.mktemp("base"), "qwen2")


@pytest.fixture(scope="module")
def fused(home, base):
    return FusedEngine(base, TrainSettings(dtype="float32", threads=1), LORA, CPU)


@pytest.fixture(scope="module")
def parent(home, base, fused):
    start = initial_adapter(fused.lean.model.module_shapes, LORA.rank, 3, "logical")
    torch.manual_seed(4)
    return write_adapter(
        home.adapters_dir, {name: value + 0.02 * torch.randn_like(value) for name, value in start.items()}, LORA, "x"
    )


def opened(base, job):
    engine = open_engine(base, job.train, LORA, CPU)
    assert isinstance(engine, ShardedEngine)
    return engine


def test_roles_follow_one_another_from_the_fused_engines_own_start(home, base, fused):
    job, steps = make_job(home, roles=ROLES, steps={"logical": 4, "creative": 3}, run="fused"), []
    wanted = {role: [] for role in ROLES}

    def note(progress):
        for role in ROLES:
            if progress.step <= progress.role_totals[role]:
                wanted[role].append(progress.losses[role])

    fused.train(job, note, lambda: False)
    ours, environment = under(job, "fsdp2", "two-roles"), dict(os.environ)
    engine = opened(base, ours)
    outcome = engine.train(ours, steps.append, lambda: False)
    assert [one.losses["logical"] for one in steps[:4]] == pytest.approx(wanted["logical"], abs=1e-4)
    assert [one.losses["creative"] for one in steps[4:]] == pytest.approx(wanted["creative"], abs=1e-4)
    assert [sum(one.role_steps.values()) for one in steps] == list(range(1, 8))
    assert steps[-1].step == steps[-1].steps == 4
    assert steps[-1].seconds_left == 0
    assert dict(os.environ) == environment, "what a launcher and the libraries set is gone"
    again = engine.train(ours, steps.append, lambda: False)
    assert again.roles == outcome.roles
    assert len(steps) == 7, "what was trained to its end is not trained again"


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_role_that_has_nothing_to_learn_keeps_its_parents_bytes(home, base, parent, strategy, dtype):
    job = make_job(home, roles=["logical"], parents={"logical": parent}, steps=2, least_loss=1e9, run="least")
    job = under(job, strategy, f"least-{strategy}-{dtype}", dtype=dtype)
    (outcome,) = opened(base, job).train(job, lambda _: None, lambda: False).roles.values()
    assert outcome.adapter_sha == parent
    assert outcome.skipped_updates == {"learned": 2}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_bfloat16_products_train_and_states_are_computed_again(home, base, strategy):
    job = make_job(home, roles=["logical"], steps=12, lr=1e-2, run="bf16")
    curves = []
    for again in (False, True):
        run = f"bf16-{strategy}-{again}"
        one = under(job, strategy, run, dtype="bfloat16", gradient_checkpointing=again)
        outcome = opened(base, one).train(one, lambda _: None, lambda: False)
        assert outcome.engine.dtype == "bfloat16"
        curves.append(outcome.roles["logical"])
    assert curves[0].loss_end < curves[0].loss_start - 0.5
    assert curves[1].adapter_sha == curves[0].adapter_sha


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_loss_that_is_no_number_stops_and_names_the_batch(home, base, parent, strategy):
    folder = home.adapters_dir / ("e" * 64)
    folder.mkdir(exist_ok=True)
    broken = {name: value * 1e30 for name, value in load_file(home.adapters_dir / parent / WEIGHTS).items()}
    save_file(broken, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / "adapter_config.json").write_bytes((home.adapters_dir / parent / "adapter_config.json").read_bytes())
    pairs = tastes("logical", 8)
    job = make_job(home, roles=["logical"], parents={"logical": folder.name}, steps=2, pairs=pairs, run="nan")
    job = under(job, strategy, f"nan-{strategy}")
    with pytest.raises(NonFiniteError, match=r"examples \w{12}.* and preference pairs \w{12}"):
        quietly(opened(base, job), job)


def test_it_answers_and_blends_as_the_trl_engine_does(home, base, parent):
    engine, other = (
        open_engine(base, TrainSettings(engine=name, dtype="float32"), LORA, CPU) for name in ("sharded", "trl")
    )
    assert isinstance(other, TrlEngine)
    adapters = AdapterSet(home.adapters_dir, {"logical": parent})
    prompts = [render_prompt("logical", example.input) for example in sums("logical", 3)]
    ours, theirs = engine.generator(adapters), other.generator(adapters)
    for voice in ("logical", "base", "logical"):
        assert ours.generate(voice, prompts, 6) == theirs.generate(voice, prompts, 6)
    with pytest.raises(LunaError, match="no adapter of 'creative'"):
        ours.generate("creative", prompts, 6)
    blends = [one.blended(adapters, adapters, 0.5, home.root / one.name).shas for one in (engine, other)]
    assert blends[0] == blends[1]
    assert sha256_file(home.root / "sharded" / blends[0]["logical"] / WEIGHTS) == blends[0]["logical"]


def test_what_it_has_not_is_refused_with_a_way_out(home, base, parent, tmp_path):
    with pytest.raises(LunaError, match="needs the fused engine"):
        open_engine(base, TrainSettings(engine="sharded", quantize="nf4"), LORA, CPU)
    with pytest.raises(ValidationError, match="ddp keeps them whole; use zero3"):
        ShardedSettings(strategy="ddp", offload_param=True)
    job = under(make_job(home, roles=["logical"], steps=2, pairs=tastes("logical", 8)), "fsdp2", "refused")
    engine = opened(base, job)
    scored = dataclasses.replace(job, rewards_file=job.train_file, health=HealthSettings(online_every=5))
    with pytest.raises(LunaError, match="online_every = 0"):
        quietly(engine, scored)
    foreign = make_home(tmp_path)
    other = FusedEngine(random_base(tmp_path / "other", "llama3-rope"), TrainSettings(threads=1), LORA, CPU)
    shapes = [[(out + 2, own) for out, own in layer] for layer in other.lean.model.module_shapes]
    sha = write_adapter(foreign.adapters_dir, initial_adapter(shapes, LORA.rank, 1, "logical"), LORA, "x")
    lost = dataclasses.replace(job, parents={"logical": sha}, adapters_dir=str(foreign.adapters_dir))
    with pytest.raises(LunaError, match="does not fit this base"):
        quietly(engine, lost)
    uneven = make_job(home, steps=2, lr={"creative": 1e-3, "logical": 2e-3, "dialectical": 1e-3})
    with pytest.raises(LunaError, match="one learning rate"):
        engine.train_whole(uneven, tmp_path, lambda _: None, lambda: False)


def test_micro_batches_that_memory_asks_for_are_those_of_the_settings(home, base):
    """What a run's plan asks for, and what is trained again from the record, are the same bytes."""
    asked = dataclasses.replace(
        under(make_job(home, roles=ROLES[:1], steps=3), "fsdp2", "asked"), micro_batches=((0, 2),)
    )
    named = under(make_job(home, roles=ROLES[:1], steps=3, gradient_accumulation_steps=2), "fsdp2", "named")
    whole = under(make_job(home, roles=ROLES[:1], steps=3), "fsdp2", "in-one")
    found = [quietly(opened(base, job), job) for job in (asked, named, whole)]
    assert found[0] == found[1] != found[2]
