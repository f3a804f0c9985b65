"""The sharded engine over two processes against the fused engine in one, under every strategy."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from curriculum.parquet import freeze
from tests.trainers.builders import CPU, LORA, make_home, make_job, random_base, sums, tastes
from tests.trainers.sharded.groups import Task, train_here, train_together, under
from trainers.fused.engine import FusedEngine
from trainers.models.adapters import CONFIG, WEIGHTS, initial_adapter, write_adapter

STRATEGIES = ("ddp", "fsdp2", "zero2", "zero3")
STEPS = 8


@dataclasses.dataclass(frozen=True)
class Trained:
    """What one process of the fused engine and each of two of the sharded one saw, by name of the task."""

    adapters: Path
    parent: str
    fused: dict
    losses: dict
    told: dict

    def update(self, sha):
        """What a training moved, in one vector."""
        ours, before = (load_file(self.adapters / one / WEIGHTS) for one in (sha, self.parent))
        return torch.cat([(ours[name] - before[name]).flatten() for name in sorted(ours)])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    home, base = make_home(folder), random_base(folder / "base", "llama")
    fused = FusedEngine(base, make_job(home, roles=["logical"], threads=1).train, LORA, CPU)
    start = initial_adapter(fused.lean.model.module_shapes, LORA.rank, 3, "logical")
    torch.manual_seed(4)
    start = {name: value + 0.02 * torch.randn_like(value) for name, value in start.items()}
    parent = write_adapter(home.adapters_dir, start, LORA, base.loadable)
    jobs = {
        "examples": make_job(home, **common(parent), run="fused-examples"),
        "channels": all_channels(home, **common(parent), run="fused-channels"),
    }
    done, losses = {}, {}
    for name, job in jobs.items():
        losses[name] = []
        outcome = fused.train(job, lambda p, log=losses[name]: log.append(p.losses["logical"]), lambda: False)
        done[name] = outcome.roles["logical"].adapter_sha
    tasks = {
        (strategy, name): Task(under(job, strategy, f"{strategy}-{name}"))
        for strategy in STRATEGIES
        for name, job in jobs.items()
    }
    tasks["offload"] = Task(under(jobs["examples"], "zero3", "offload", offload_param=True))
    for strategy in ("fsdp2", "zero3"):
        tasks["paused", strategy] = Task(under(jobs["channels"], strategy, f"{strategy}-paused"), stop_after=3)
        tasks["resumed", strategy] = Task(under(jobs["channels"], strategy, f"{strategy}-paused"))
    tasks["left behind"] = Task(under(jobs["channels"], "fsdp2", "alone"), stop_after=3)
    by_rank = train_together(folder, base, list(tasks.values()))
    told = dict(zip(tasks, zip(*by_rank, strict=True), strict=True))
    told["alone"] = (train_here(base, Task(under(jobs["channels"], "fsdp2", "alone"))),)
    return Trained(home.adapters_dir, parent, done, losses, told)


def common(parent):
    """Five rows a step for two processes, and a last step of one row: each pads once what the other has more."""
    rows = sums("logical", 5 * (STEPS - 1) + 1)
    return {
        "roles": ["logical"],
        "parents": {"logical": parent},
        "examples": rows,
        "steps": STEPS,
        "batch_size": 5,
        "gradient_accumulation_steps": 2,
        "threads": 1,
        "checkpoint_every_steps": 3,
    }


def all_channels(home, **more):
    """Examples of which some are replayed and held to the parent, and pairs."""
    job = make_job(home, pairs=tastes("logical", 21), kl_weight=0.5, channels={"pairs": 3}, **more)
    return dataclasses.replace(job, delta_file=str(home.data_file(freeze(more["examples"][::2], home))))


@pytest.mark.parametrize("name", ["examples", "channels"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_train_as_the_fused_engine_does_alone(trained, strategy, name):
    """Loss within 1e-4 at every one of 8 steps; the whole update within 5e-3, relative."""
    lead, other = trained.told[strategy, name]
    assert not lead.error
    assert len(lead.loss) == STEPS
    assert lead.loss == pytest.approx(trained.losses[name], abs=1e-4)
    assert other.losses == [], "the leading process alone reports"
    assert lead.outcome.roles == other.outcome.roles
    ours, wanted = (trained.update(sha) for sha in (lead.outcome.roles["logical"].adapter_sha, trained.fused[name]))
    assert float((ours - wanted).norm() / wanted.norm()) <= 5e-3


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_channels_are_told_apart(trained, strategy):
    lead = trained.told[strategy, "channels"][0]
    assert set(lead.channels[-1]) == {"sft", "dpo", "kl"}
    assert trained.told[strategy, "examples"][0].channels[-1] == {}


@pytest.mark.parametrize(
    ("strategy", "optimizer", "model", "state", "weights"),
    [
        ("ddp", "LeavingAdamW", "DistributedDataParallel", 1.0, 1.0),
        ("fsdp2", "LeavingAdamW", "FSDPPeftModelForCausalLM", 0.5, 0.5),
        ("zero2", "DeepSpeedZeroOptimizer", "DeepSpeedEngine", 0.5, 1.0),
        ("zero3", "DeepSpeedZeroOptimizer_Stage3", "DeepSpeedEngine", 0.5, 0.5),
    ],
)
def test_each_process_holds_its_part_of_what_the_strategy_parts(trained, strategy, optimizer, model, state, weights):
    for told in trained.told[strategy, "examples"]:
        assert told.optimizers == [optimizer, "LeavingAdamW"]
        assert told.model == model
        assert told.state_share == pytest.approx(state, abs=0.05)
        assert told.weight_share == pytest.approx(weights, abs=0.05)


def test_parts_that_wait_in_memory_are_the_same_numbers(trained):
    shas = {trained.told[task][0].outcome.roles["logical"].adapter_sha for task in ("offload", ("zero3", "examples"))}
    assert len(shas) == 1


@pytest.mark.parametrize("strategy", ["fsdp2", "zero3"])
def test_a_pause_that_any_process_asks_for_leaves_the_same_bytes(trained, strategy):
    for told in trained.told["paused", strategy]:
        assert told.error.startswith("Paused: training of logical stopped at step 3 of 8")
    undisturbed, resumed = (trained.told[name][0] for name in ((strategy, "channels"), ("resumed", strategy)))
    assert len(resumed.loss) == STEPS - 3
    assert resumed.outcome.roles == undisturbed.outcome.roles


def test_one_process_goes_on_with_what_two_have_begun(trained):
    (alone,) = trained.told["alone"]
    assert len(alone.loss) == STEPS - 3
    assert alone.outcome.engine.workers == ((0, 2), (3, 1))
    assert alone.loss == pytest.approx(trained.losses["channels"][3:], abs=1e-4)
    ours, wanted = (
        trained.update(sha) for sha in (alone.outcome.roles["logical"].adapter_sha, trained.fused["channels"])
    )
    assert float((ours - wanted).norm() / wanted.norm()) <= 5e-3


def test_the_adapters_are_files_like_the_fused_engines(trained):
    ours, theirs = (
        trained.adapters / sha
        for sha in (trained.told["zero3", "examples"][0].outcome.roles["logical"].adapter_sha, trained.fused["examples"])
    )
    assert (ours / CONFIG).read_text() == (theirs / CONFIG).read_text()
    assert {n: t.shape for n, t in load_file(ours / WEIGHTS).items()} == {
        n: t.shape for n, t in load_file(theirs / WEIGHTS).items()
    }
