"""The fused engine on a GPU: the same numbers as Hugging Face, the same bytes twice, the same bytes after a pause.

Needs torch, transformers, peft, accelerate, datasets, pydantic and pytest; neither Ray nor TRL.
"""

from __future__ import annotations

import dataclasses
import math

import pytest

pytest.importorskip("pydantic")
torch = pytest.importorskip("torch")

from curriculum.parquet import freeze  # noqa: E402
from curriculum.render import render_prompt  # noqa: E402
from ledger.roles import ROLES  # noqa: E402
from tests.trainers.builders import LORA, make_home, make_job, random_base, sums, tastes, tiny_base  # noqa: E402
from trainers.config import TrainSettings  # noqa: E402
from trainers.data import tokenise  # noqa: E402
from trainers.fused.engine import FusedEngine  # noqa: E402
from trainers.fused.graph import GraphStep, step_for  # noqa: E402
from trainers.fused.step import StepParts, TrioStep  # noqa: E402
from trainers.generator import prompt_ids  # noqa: E402
from trainers.job import NonFiniteError, Paused  # noqa: E402
from trainers.lean.adapter_bank import AdapterBank  # noqa: E402
from trainers.lean.generator import LeanGenerator  # noqa: E402
from trainers.lean.lanes import Lanes  # noqa: E402
from trainers.lean.model import LeanModel  # noqa: E402
from trainers.lean.packing import Group, pack  # noqa: E402
from trainers.models.adapters import initial_adapter  # noqa: E402
from trainers.models.frozen import load_base  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here"),
]

GPU = torch.device("cuda", 0)
BF16 = TrainSettings(dtype="bfloat16")


@pytest.fixture(autouse=True)
def _full_float32_products():
    """A reference in float32 means float32 products; some builds round them to TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_home(tmp_path_factory.mktemp("gpu"))


@pytest.fixture(scope="module")
def engine(home):
    return FusedEngine(tiny_base(home), BF16, LORA, GPU)


def train(engine, job):
    """(SHA of each role's adapter, the losses of every step)."""
    losses = []
    outcome = engine.train(job, lambda progress: losses.append(dict(progress.losses)), lambda: False)
    return {role: result.adapter_sha for role, result in outcome.roles.items()}, losses


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("share", [True, False], ids=["shared prefix", "whole rows"])
def test_log_probs_equal_hugging_face_logits_in_float32(tmp_path, family, share):
    hf, tokenizer = load_base(random_base(tmp_path, family).path, torch.float32, GPU)
    rows = [tokenise(tokenizer, example) for role in ROLES for example in sums(role, 3)]
    expected = []
    with torch.no_grad():
        for row in rows:
            logits = hf(torch.tensor([list(row.tokens)], device=GPU)).logits[0].log_softmax(-1)
            expected += [float(logits[at - 1, row.tokens[at]]) for at in range(row.prompt_len, len(row.tokens))]
        groups = [Group(-1, rows[start : start + 3]) for start in (0, 3, 6)]
        found = LeanModel(hf).log_probs(pack(groups, GPU, share_prefix=share), None)
    torch.testing.assert_close(found.cpu(), torch.tensor(expected), atol=2e-4, rtol=1e-4)


def test_greedy_text_equals_hugging_face_generate_in_float32(tmp_path):
    hf, tokenizer = load_base(random_base(tmp_path, "qwen2").path, torch.float32, GPU)
    prompts = [render_prompt("logical", example.input) for example in sums("logical", 5)] + ["Hello"]
    expected = []
    for prompt in prompts:  # one at a time: no padding in the reference
        ids = torch.tensor([prompt_ids(tokenizer, prompt)], device=GPU)
        out = hf.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=12,
            do_sample=False,
            pad_token_id=tokenizer.eos_token_id,
        )
        expected.append(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))
    ours = LeanGenerator(LeanModel(hf), tokenizer, None, {}, rows_at_once=4)
    assert [one.text for one in ours.generate("base", prompts, 12)] == expected
    assert any(expected), "the reference said something"


def test_two_bfloat16_steps_give_finite_losses_and_equal_bytes_twice(home, engine):
    first, losses = train(engine, make_job(home, steps=2, run="once", dtype="bfloat16"))
    assert engine.info.dtype == "bfloat16"
    assert engine.info.device == "cuda"
    assert len(losses) == 2
    assert all(math.isfinite(loss) for step in losses for loss in step.values())
    fresh = FusedEngine(engine.base, BF16, LORA, GPU)
    again, _ = train(fresh, make_job(home, steps=2, run="twice", dtype="bfloat16"))
    assert again == first


def test_training_on_the_gpu_lowers_the_loss_of_every_role(home, engine):
    _, losses = train(engine, make_job(home, steps=60, run="learn", dtype="bfloat16", lr=5e-3))
    for role in ROLES:
        assert sum(step[role] for step in losses[-5:]) < sum(step[role] for step in losses[:5]), role


def test_a_paused_run_resumed_in_a_fresh_engine_equals_an_unbroken_one(home, engine):
    whole, _ = train(engine, make_job(home, steps=8, run="whole", dtype="bfloat16"))
    job = make_job(home, steps=8, run="halves", dtype="bfloat16")
    seen = []
    with pytest.raises(Paused, match="step 4 of 8"):
        engine.train(job, lambda progress: seen.append(progress.step), lambda: len(seen) == 4)
    resumed, _ = train(FusedEngine(engine.base, BF16, LORA, GPU), job)
    assert resumed == whole


def test_a_run_that_is_held_to_its_parent_gives_equal_bytes_twice_and_after_a_pause(home, engine):
    parents, _ = train(engine, make_job(home, steps=4, run="kl-parents", dtype="bfloat16"))
    new = str(home.data_file(freeze([e for role in ROLES for e in sums(role, 40)[::2]], home)))

    def job(run):
        made = make_job(home, run=run, steps=6, parents=parents, dtype="bfloat16", kl_weight=1.0, lr=1e-2)
        return dataclasses.replace(made, delta_file=new)

    whole, losses = train(engine, job("kl-once"))
    assert all(math.isfinite(loss) for step in losses for loss in step.values())
    assert train(FusedEngine(engine.base, BF16, LORA, GPU), job("kl-twice"))[0] == whole
    count = iter(range(100))
    with pytest.raises(Paused, match="step 3 of 6"):
        engine.train(job("kl-halves"), lambda _: None, lambda: next(count) == 3)
    assert train(FusedEngine(engine.base, BF16, LORA, GPU), job("kl-halves"))[0] == whole


def test_two_channels_give_equal_bytes_twice_and_after_a_pause(home, engine):
    pairs = [pair for role in ROLES for pair in tastes(role, 6)]
    how = {"steps": 6, "dtype": "bfloat16", "pairs": pairs}
    whole, losses = train(engine, make_job(home, run="dual-once", **how))
    assert all(math.isfinite(loss) for step in losses for loss in step.values())
    assert train(FusedEngine(engine.base, BF16, LORA, GPU), make_job(home, run="dual-twice", **how))[0] == whole
    job, count = make_job(home, run="dual-halves", **how), iter(range(100))
    with pytest.raises(Paused, match="step 3 of 6"):
        engine.train(job, lambda _: None, lambda: next(count) == 3)
    assert train(FusedEngine(engine.base, BF16, LORA, GPU), job)[0] == whole


def stepped(engine, kind, dtype, steps=3, graphs=True):
    """(masters, losses and gradients of the first step) of a few steps on the same rows."""
    hf, tokenizer = load_base(engine.base.path, dtype, GPU)
    model = LeanModel(hf)
    bank = AdapterBank(model.module_shapes, 3, LORA, dtype, GPU)
    for slot, role in enumerate(ROLES):
        bank.load_state_dict(slot, initial_adapter(model.module_shapes, LORA.rank, 1, role))
    step, first = kind(model, bank, Lanes(1, GPU)), None
    if not graphs:
        step.without_graphs()
    for number in range(steps):
        rows = [[tokenise(tokenizer, e) for e in sums(role, 5, offset=40 * number)] for role in ROLES]
        found = step.channel_gradients(StepParts(step.pack([[Group(slot, own) for slot, own in enumerate(rows)]])))
        first = first or (found.on_host().total.clone(), bank.grad.cpu().clone())
        step.move([1e-3, None, 1e-2], 1.0, found.norms)
    return bank.master.cpu().clone(), *first


def test_this_gpu_steps_by_graphs(engine):
    assert step_for(engine.lean.model, LORA.rank) is GraphStep
    assert engine.info.graphs


def test_graphs_give_the_lean_forwards_losses_and_gradients_in_float32(engine):
    _, losses, grad = stepped(engine, GraphStep, torch.float32, steps=1)
    _, wanted_losses, wanted = stepped(engine, TrioStep, torch.float32, steps=1)
    torch.testing.assert_close(losses, wanted_losses, rtol=1e-4, atol=1e-5)
    assert (grad - wanted).norm() <= 1e-4 * wanted.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_replayed_graphs_give_the_bytes_of_single_launches(engine, dtype):
    masters, *_ = stepped(engine, GraphStep, dtype, steps=6)
    assert torch.equal(masters, stepped(engine, GraphStep, dtype, steps=6, graphs=False)[0])
    assert torch.equal(masters, stepped(engine, GraphStep, dtype, steps=6)[0])


def test_a_loss_that_is_not_finite_is_named_and_changes_nothing(home, engine):
    job = make_job(home, steps=4, run="broken", dtype="bfloat16")
    run = engine._begin(job)
    run.advance()
    before = {name: value.clone() for name, value in run.trio.state_dict().items()}
    norm = engine.lean.model.final_norm.clone()
    try:
        engine.lean.model.final_norm.fill_(float("nan"))
        with pytest.raises(NonFiniteError, match=r"the loss of creative is nan .* at step 2"):
            run.advance()
    finally:
        engine.lean.model.final_norm.copy_(norm)
    assert all(torch.equal(value, before[name]) for name, value in run.trio.state_dict().items())


def test_memory_that_runs_out_is_known_as_such():
    from trainers.runtime import is_out_of_memory

    with pytest.raises(torch.OutOfMemoryError) as caught:
        torch.empty(1 << 50, device="cuda")
    assert is_out_of_memory(caught.value)
