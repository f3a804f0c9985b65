"""Less memory for the same training: states computed again, and a base in four bits."""

from __future__ import annotations

import pytest
import torch

import trainers.fused.run as run_module
from ledger.errors import LunaError
from ledger.roles import ROLES
from tests.trainers.builders import CPU, LORA, make_home, make_job, quietly, sums, tastes, tiny_base
from trainers.config import LoraSettings, TrainSettings
from trainers.data import tokenise
from trainers.engines import open_engine
from trainers.fused.engine import FusedEngine
from trainers.fused.graph import GraphStep, bytes_a_token, step_for
from trainers.fused.step import TrioStep
from trainers.lean.adapter_bank import AdapterBank
from trainers.lean.lanes import Lanes
from trainers.lean.model import LeanModel
from trainers.lean.ops import FusedLinear, linear
from trainers.lean.packing import Group
from trainers.models.adapters import initial_adapter
from trainers.models.frozen import load_base

SETTINGS = TrainSettings(dtype="float32")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_home(tmp_path_factory.mktemp("less-memory"))


@pytest.fixture(scope="module")
def engine(home):
    return FusedEngine(tiny_base(home), SETTINGS, LORA, CPU)


@pytest.fixture(scope="module")
def loaded(home):
    return load_base(tiny_base(home).path, torch.float32, CPU)


# -- gradient checkpointing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("step", [TrioStep, GraphStep])
def test_states_that_are_computed_again_give_equal_bytes(home, monkeypatch, step, threads):
    monkeypatch.setattr(run_module, "step_for", lambda *_: step)
    engine = FusedEngine(tiny_base(home), SETTINGS.model_copy(update={"threads": threads}), LORA, CPU)
    pairs = [pair for role in ROLES for pair in tastes(role, 12)]
    run = f"{step.__name__}-{threads}"
    kept = quietly(engine, make_job(home, steps=3, run=f"kept-{run}", pairs=pairs))
    again = quietly(engine, make_job(home, steps=3, run=f"again-{run}", pairs=pairs, gradient_checkpointing=True))
    assert again == kept


def saved_bytes(model: LeanModel, tokenizer) -> int:
    """Of what autograd keeps between the forward and the backward of one step."""
    bank = AdapterBank(model.module_shapes, 3, LORA, torch.float32, CPU)
    for slot, role in enumerate(ROLES):
        bank.load_state_dict(slot, initial_adapter(model.module_shapes, LORA.rank, 1, role))
    step = TrioStep(model, bank, Lanes(1, CPU))
    groups = [Group(slot, [tokenise(tokenizer, e) for e in sums(role, 8)]) for slot, role in enumerate(ROLES)]
    batches, kept = step.pack([groups]), []

    def keep(tensor):
        kept.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step.gradients(batches)
    return sum(kept)


def test_a_step_keeps_at_most_a_third_of_its_states(loaded):
    hf_model, tokenizer = loaded
    model = LeanModel(hf_model)
    assert saved_bytes(model.recomputing(), tokenizer) <= saved_bytes(model, tokenizer) / 3


def test_a_run_may_go_on_with_its_states_kept_or_not(home, engine):
    whole = quietly(engine, make_job(home, steps=4, run="setting-whole"))
    from trainers.job import Paused

    count = iter(range(100))
    with pytest.raises(Paused):
        engine.train(make_job(home, steps=4, run="setting"), lambda _: None, lambda: next(count) == 2)
    assert quietly(engine, make_job(home, steps=4, run="setting", gradient_checkpointing=True)) == whole


def test_a_gpu_cuts_a_step_in_fewer_parts_where_states_are_not_kept(loaded):
    model = LeanModel(loaded[0])
    assert bytes_a_token(model.recomputing(), 8) < bytes_a_token(model, 8) / 2


# -- four bits --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nf4():
    pytest.importorskip("bitsandbytes")
    from trainers.lean import nf4

    return nf4


@pytest.mark.parametrize("biased", [False, True])
def test_products_in_four_bits_are_those_of_the_widened_weight(nf4, biased):
    torch.manual_seed(3)
    weight, bias = torch.randn(96, 64) / 8, torch.randn(96) if biased else None
    held = nf4.Nf4(CPU)(weight, bias)
    wide = FusedLinear(held.weight.clone(), bias)
    assert held.packed.nbytes == weight.numel() // 2
    assert 0.05 < (wide.weight - weight).norm() / weight.norm() < 0.12  # the rounding of NormalFloat
    found = []
    for layer in (held, wide):
        x = torch.arange(7 * 64).view(7, 64).float().sin().requires_grad_()
        y = linear(x, layer, None, (), None)
        y.sum().backward()
        found.append((y, x.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_a_training_in_four_bits_learns_and_is_that_of_the_widened_base(nf4, home):
    settings = SETTINGS.model_copy(update={"quantize": "nf4"})
    engine = open_engine(tiny_base(home), settings, LORA, CPU)
    assert isinstance(engine, FusedEngine)
    assert engine.info.versions["bitsandbytes"] == nf4.version()
    outcome = engine.train(make_job(home, steps=40, run="nf4", lr=5e-3), lambda _: None, lambda: False)
    for result in outcome.roles.values():
        assert result.loss_end < result.loss_start / 2
    model = engine.lean.model
    assert step_for(model, LORA.rank) is TrioStep
    for layer in model.layers:
        layer.groups[:] = [FusedLinear(group.weight.clone(), group.bias) for group in layer.groups]
    wide = quietly(engine, make_job(home, steps=40, run="widened", lr=5e-3))
    assert wide == {role: result.adapter_sha for role, result in outcome.roles.items()}


def test_two_lanes_in_four_bits_give_equal_bytes(nf4, home):
    settings = SETTINGS.model_copy(update={"quantize": "nf4", "threads": 2})
    engine = FusedEngine(tiny_base(home), settings, LORA, CPU)
    assert quietly(engine, make_job(home, steps=3, run="nf4-a")) == quietly(
        engine, make_job(home, steps=3, run="nf4-b")
    )


def test_four_bits_without_bitsandbytes_is_told_with_what_to_do(home, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(LunaError, match=r"bitsandbytes.*make setup.*quantize"):
        open_engine(tiny_base(home), SETTINGS.model_copy(update={"quantize": "nf4"}), LORA, CPU)


@pytest.mark.parametrize(
    ("asked", "told"),
    [({"quantize": "nf4"}, 'quantize = "nf4"'), ({"gradient_checkpointing": True}, "gradient_checkpointing = true")],
)
def test_the_other_engine_refuses_what_it_would_leave_out(home, asked, told):
    with pytest.raises(LunaError, match=f"{told}.*needs the fused engine"):
        open_engine(tiny_base(home), SETTINGS.model_copy(update={"engine": "trl", **asked}), LoraSettings(), CPU)
