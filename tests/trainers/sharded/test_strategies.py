"""The sharded engine over two processes against one: of the fused engine, or of a plain loop for the whole base."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from curriculum.parquet import freeze, read_examples
from ledger.verification.weights import weights_sha
from tests.trainers.builders import CPU, LORA, make_home, make_job, random_base, sums, tastes, tiny_base
from tests.trainers.sharded.groups import Task, train_here, train_together, under
from trainers.data import tokenise
from trainers.fused.engine import FusedEngine
from trainers.models.adapters import CONFIG, WEIGHTS, initial_adapter, write_adapter
from trainers.models.frozen import load_base
from trainers.schedule import learning_rate, slice_of_step

pytestmark = pytest.mark.slow

STRATEGIES = ("ddp", "fsdp2", "zero2", "zero3")
STEPS = 8


@dataclasses.dataclass(frozen=True)
class Trained:
    """What one process saw, and by task each of two."""

    adapters: Path
    parent: str
    fused: str
    losses: list[float]
    base: Path
    whole: dict[str, torch.Tensor]
    whole_losses: list[float]
    told: dict[Any, Any]

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
    job, losses = all_channels(home, parent), []
    done = fused.train(job, lambda p: losses.append(p.losses["logical"]), lambda: False).roles["logical"].adapter_sha

    tiny = tiny_base(home)
    rows = make_job(home, roles=["logical", "creative"], steps=STEPS, batch_size=3, lr=1e-3, threads=1)
    tasks = {strategy: Task(base, under(job, strategy, strategy)) for strategy in STRATEGIES}
    tasks["offload"] = Task(base, under(job, "zero3", "offload", offload_param=True))
    tasks["paused"] = Task(base, under(job, "zero3", "paused"), stop_after=3)
    tasks["resumed"] = Task(base, under(job, "zero3", "paused"))
    tasks["left behind"] = Task(base, under(job, "fsdp2", "alone"), stop_after=3)
    for strategy in ("fsdp2", "zero3"):
        tasks["whole", strategy] = Task(tiny, under(rows, strategy, f"whole-{strategy}"), folder / strategy)
    by_rank = train_together(folder, list(tasks.values()))
    told = dict(zip(tasks, zip(*by_rank, strict=True), strict=True))
    told["alone"] = (train_here(Task(base, under(job, "fsdp2", "alone"))),)
    return Trained(home.adapters_dir, parent, done, losses, tiny.path, *plain_loop(tiny, rows), told)


def all_channels(home, parent):
    """Examples of which some are replayed and held to the parent, and pairs.

    Of five rows and three pairs a step the second of two processes takes one less: it passes one that weighs nothing.
    """
    rows = sums("logical", 36)
    job = make_job(
        home,
        roles=["logical"],
        parents={"logical": parent},
        examples=rows,
        pairs=tastes("logical", 21),
        channels={"pairs": 3},
        kl_weight=0.5,
        steps=STEPS,
        batch_size=5,
        gradient_accumulation_steps=2,
        threads=1,
        checkpoint_every_steps=3,
        run="fused",
    )
    return dataclasses.replace(job, delta_file=str(home.data_file(freeze(rows[::2], home))))


def plain_loop(base, job):
    """(weights, losses) of a base trained whole by transformers' own loss and torch's optimizer."""
    model, tokenizer = load_base(base.path, torch.float32, CPU)
    model.requires_grad_(True)
    examples, size = read_examples(job.train_file), job.train.batch_size
    optimizer, losses = torch.optim.AdamW(model.parameters(), weight_decay=0.0), []
    for step in range(STEPS):
        rows = [
            tokenise(tokenizer, example)
            for role in job.roles
            for example in slice_of_step([e for e in examples if e.role == role], step, size)
        ]
        width = max(len(row.tokens) for row in rows)
        ids = torch.tensor([[*row.tokens, *[0] * (width - len(row.tokens))] for row in rows])
        labels = torch.full_like(ids, -100)
        for number, row in enumerate(rows):
            labels[number, row.prompt_len : len(row.tokens)] = ids[number, row.prompt_len : len(row.tokens)]
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = learning_rate(step, STEPS, job.train.lr, 0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return {name: value.detach() for name, value in model.named_parameters()}, losses


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_train_as_the_fused_engine_does_alone(trained, strategy):
    """Loss within 1e-4 at every one of 8 steps; the whole update within 5e-3, relative."""
    lead, other = trained.told[strategy]
    assert not lead.error
    assert len(lead.loss) == STEPS
    assert lead.loss == pytest.approx(trained.losses, abs=1e-4)
    assert set(lead.channels[-1]) == {"sft", "dpo", "kl"}
    assert other.losses == [], "the leading process alone reports"
    assert lead.outcome.roles == other.outcome.roles
    assert lead.outcome.engine.workers == ((0, 2),)
    assert_near(trained, lead.outcome.roles["logical"].adapter_sha)


def assert_near(trained, sha):
    ours, wanted = trained.update(sha), trained.update(trained.fused)
    assert float((ours - wanted).norm() / wanted.norm()) <= 5e-3


@pytest.mark.parametrize(
    ("strategy", "optimizer", "model", "state", "weights"),
    [
        ("ddp", "LeavingAdamW", "DistributedDataParallel", 1.0, 1.0),
        ("fsdp2", "LeavingAdamW", "FSDPPeftModelForCausalLM", 0.5, 0.5),
        ("zero2", "DeepSpeedZeroOptimizer", "DeepSpeedEngine", 0.5, 1.0),
        ("zero3", "DeepSpeedZeroOptimizer_Stage3", "DeepSpeedEngine", 0.5, 0.5),
        (("whole", "fsdp2"), "LeavingAdamW", "FSDPLlamaForCausalLM", 0.5, 0.5),
        (("whole", "zero3"), "DeepSpeedZeroOptimizer_Stage3", "DeepSpeedEngine", 0.5, 0.5),
    ],
)
def test_each_process_holds_its_part_of_what_the_strategy_parts(trained, strategy, optimizer, model, state, weights):
    for told in trained.told[strategy]:
        assert told.optimizers == [optimizer, "LeavingAdamW"]
        assert told.model == model
        assert told.state_share == pytest.approx(state, abs=0.05)
        assert told.weight_share == pytest.approx(weights, abs=0.05)


def test_weights_that_wait_in_memory_are_the_same_numbers(trained):
    assert trained.told["offload"][0].outcome.roles == trained.told["zero3"][0].outcome.roles


def test_a_pause_that_any_process_asks_for_leaves_the_same_bytes(trained):
    for told in trained.told["paused"]:
        assert told.error.startswith("Paused: training of logical stopped at step 3 of 8")
    resumed = trained.told["resumed"][0]
    assert len(resumed.loss) == STEPS - 3
    assert resumed.outcome.roles == trained.told["zero3"][0].outcome.roles


def test_one_process_goes_on_with_what_two_have_begun(trained):
    (alone,) = trained.told["alone"]
    assert len(alone.loss) == STEPS - 3
    assert alone.outcome.engine.workers == ((0, 2), (3, 1))
    assert alone.loss == pytest.approx(trained.losses[3:], abs=1e-4)
    assert_near(trained, alone.outcome.roles["logical"].adapter_sha)


def test_the_adapters_are_files_like_the_fused_engines(trained):
    ours, theirs = (
        trained.adapters / sha for sha in (trained.told["zero3"][0].outcome.roles["logical"].adapter_sha, trained.fused)
    )
    assert (ours / CONFIG).read_text() == (theirs / CONFIG).read_text()
    shapes = [{name: value.shape for name, value in load_file(one / WEIGHTS).items()} for one in (ours, theirs)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("strategy", ["fsdp2", "zero3"])
def test_the_whole_base_trains_as_in_a_plain_loop_and_loads_as_a_base(trained, strategy):
    lead, other = trained.told["whole", strategy]
    assert not lead.error
    assert list(lead.outcome.losses) == pytest.approx(trained.whole_losses, abs=1e-4)
    assert lead.outcome.base == other.outcome.base
    found = lead.outcome.base
    assert found.path.name == found.sha == weights_sha(found.path)
    (model, tokenizer), (before, _) = (load_base(path, "auto", CPU) for path in (found.path, trained.base))
    assert tokenizer.eos_token == "<|end|>"
    start = dict(before.named_parameters())
    ours, wanted = (
        torch.cat([(values[name] - start[name]).flatten() for name in start])
        for values in (dict(model.named_parameters()), trained.whole)
    )
    assert float((ours - wanted).norm() / wanted.norm()) <= 5e-3
