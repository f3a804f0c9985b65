"""What holds a role to its parent on replayed rows, and steps that nothing is learned from."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from curriculum.parquet import freeze
from ledger.errors import LunaError
from ledger.roles import ROLES
from tests.trainers.builders import CPU, LORA, make_home, make_job, quietly, sums, tiny_base
from trainers.config import TrainSettings
from trainers.data import tokenise
from trainers.fused.engine import FusedEngine
from trainers.fused.graph import GraphStep
from trainers.fused.losses import kl_divergences
from trainers.fused.reference import expectations
from trainers.fused.step import StepParts, TrioStep
from trainers.job import Paused
from trainers.lean.adapter_bank import AdapterBank
from trainers.lean.lanes import Lanes
from trainers.lean.logprobs import likeliest_tokens, listed_log_probs, token_log_probs
from trainers.lean.model import LeanModel
from trainers.lean.packing import Group, cut, pack
from trainers.models.adapters import WEIGHTS, initial_adapter
from trainers.models.frozen import load_base
from trainers.reference.engine import TrlEngine
from trainers.schedule import learning_rate

SETTINGS = TrainSettings(dtype="float32", threads=1)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_home(tmp_path_factory.mktemp("kl"))


@pytest.fixture(scope="module")
def engine(home):
    return FusedEngine(tiny_base(home), SETTINGS, LORA, CPU)


@pytest.fixture(scope="module")
def parents(home, engine):
    return quietly(engine, make_job(home, steps=4, run="parents"))


def replaying(home, parents, run, steps=4, **train):
    """A job of which every other example is replayed."""
    examples = [example for role in ROLES for example in sums(role, 16)]
    job = make_job(home, steps=steps, run=run, parents=parents, examples=examples, threads=1, **train)
    return dataclasses.replace(job, delta_file=str(home.data_file(freeze(examples[::2], home))))


# -- the functions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("vocabulary", "count"), [(7, 6), (2048, 20), (5000, 20)])
def test_listed_log_probabilities_and_gradients_equal_those_of_all_logits_at_once(vocabulary, count):
    torch.manual_seed(vocabulary)
    hidden, output = torch.randn(9, 16, requires_grad=True), torch.randn(vocabulary, 16)
    targets = torch.tensor([0, 1, 2, 3, 4, 5, 6, vocabulary - 1, vocabulary // 2])
    listed = likeliest_tokens(hidden, output, count)
    whole = F.log_softmax(F.linear(hidden, output), -1)
    assert torch.equal(listed, whole.topk(count).indices)
    others = torch.ones_like(whole).scatter(1, listed, 0.0).bool()
    rest = torch.where(others, whole, float("-inf")).logsumexp(-1, keepdim=True)
    wanted = torch.cat((whole.gather(1, targets[:, None]), whole.gather(1, listed), rest), 1)
    found, scale = listed_log_probs(hidden, output, targets, listed), torch.randn(9, count + 2)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    gradients = [torch.autograd.grad((scale * one).sum(), hidden, retain_graph=True)[0] for one in (found, wanted)]
    torch.testing.assert_close(*gradients, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(found[:, 0], token_log_probs(hidden, output, targets), atol=1e-5, rtol=1e-5)


def test_what_is_left_for_the_others_survives_a_sure_model():
    hidden, output = torch.tensor([[40.0, 0.0]], requires_grad=True), torch.zeros(3000, 2)
    output[7, 0], output[2500, 1] = 1.0, 1.0
    found = listed_log_probs(hidden, output, torch.tensor([7]), torch.tensor([[7]]))
    assert found[0, 2].item() == pytest.approx(float(torch.tensor(2999.0).log()) - 40.0, abs=1e-4)
    found[0, 2].backward()
    assert hidden.grad[0].tolist() == pytest.approx([-1.0, 1 / 2999], abs=1e-5)


def log_distributions(events, rows):
    return st.lists(st.lists(st.floats(-60, 60), min_size=events, max_size=events), min_size=rows, max_size=rows).map(
        lambda logits: torch.tensor(logits, dtype=torch.float32).log_softmax(1)
    )


@given(log_distributions(5, 3), log_distributions(5, 3))
def test_a_divergence_is_never_negative_and_zero_of_equal_distributions(child, parent):
    found = kl_divergences(child, parent)
    assert (found >= 0).all()
    assert kl_divergences(parent, parent).tolist() == [0.0] * 3
    plain = F.kl_div(child.double(), parent.double(), log_target=True, reduction="none").sum(1)
    torch.testing.assert_close(found.double(), plain, atol=1e-4, rtol=1e-4)


# -- a step --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(home):
    hf, tokenizer = load_base(tiny_base(home).path, torch.float32, CPU)
    return LeanModel(hf), tokenizer


def bank_of(model, noise):
    bank = AdapterBank(model.module_shapes, 3, LORA, torch.float32, CPU)
    for slot, role in enumerate(ROLES):
        bank.load_state_dict(slot, initial_adapter(model.module_shapes, LORA.rank, 1, role))
    torch.manual_seed(3)
    bank.master.add_(torch.randn_like(bank.master) * noise)
    bank.round_to_compute()
    return bank


@pytest.fixture(scope="module")
def groups(model):
    """Rows of three slots, those of odd places with what the parent expects of them."""
    lean, tokenizer = model
    rows = [
        (slot, dataclasses.replace(tokenise(tokenizer, example), weight=0.5 + place / 2))
        for slot, role in enumerate(ROLES)
        for place, example in enumerate(sums(role, 2 + slot, offset=90 * slot))
    ]
    expected = expectations(lean, bank_of(lean, 0.01), Lanes(1, CPU), rows, 20)
    held = [
        (slot, dataclasses.replace(row, parent=parent if i % 2 else None))
        for i, ((slot, row), parent) in enumerate(zip(rows, expected, strict=True))
    ]
    return [Group(slot, [row for own, row in held if own == slot]) for slot in range(3)]


SHARES = torch.tensor([[1.0] * 3, [0.0] * 3, [0.7] * 3])


def plain_losses(model, bank, group):
    """SFT and KL of one group by autograd over all logits, row by row."""
    sft = kl = torch.zeros(())
    tokens = held = 0.0
    for row in group.rows:
        hidden = model.scored(pack([Group(group.slot, [row])], CPU), bank)
        log_probs = F.log_softmax(hidden @ model.output.t(), -1)
        answer = torch.tensor(row.tokens[row.prompt_len :])
        sft = sft - row.weight * log_probs.gather(1, answer[:, None]).sum()
        tokens += row.weight * len(answer)
        if row.parent is not None:
            own = log_probs.gather(1, row.parent.ids)
            own = torch.cat((own, torch.log1p(-own.exp().sum(1, keepdim=True))), 1)
            kl = kl + row.weight * F.kl_div(own, row.parent.log_probs, log_target=True, reduction="sum")
            held += row.weight * len(answer)
    return sft / tokens, kl / held if held else kl


def test_a_step_gives_the_losses_and_the_gradient_of_plain_autograd(model, groups):
    lean, _ = model
    bank = bank_of(lean, 0.03)
    step = TrioStep(lean, bank, Lanes(1, CPU))
    found = step.channel_gradients(StepParts(step.pack([groups]), shares=SHARES))
    ours = bank.grad.clone()
    bank.grad.zero_()
    with torch.enable_grad():
        wanted = [plain_losses(lean, bank, group) for group in groups]
        sum(sft + 0.7 * kl for sft, kl in wanted).backward()
    torch.testing.assert_close(found.sft, torch.stack([sft for sft, _ in wanted]).detach(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.kl, torch.stack([kl for _, kl in wanted]).detach(), atol=1e-5, rtol=1e-3)
    assert (found.kl > 1e-4).all()
    torch.testing.assert_close(found.total, found.sft + 0.7 * found.kl)
    torch.testing.assert_close(ours, bank.grad, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_parts_lanes_and_the_graph_path_give_the_step_of_one_pass(model, groups, lanes):
    lean, _ = model
    bank = bank_of(lean, 0.03)
    whole = TrioStep(lean, bank, Lanes(1, CPU))
    wanted, gradient = whole.channel_gradients(StepParts(whole.pack([groups]), shares=SHARES)), bank.grad.clone()
    pieces = cut(groups, 2 * lanes)
    for kind in (TrioStep, GraphStep):
        step = kind(lean, bank, Lanes(lanes, CPU))
        parts = StepParts(step.pack(pieces), kl=step.kl_parts(pieces), shares=SHARES, lanes=lanes)
        found = step.channel_gradients(parts)
        for ours, theirs in ((found.total, wanted.total), (found.sft, wanted.sft), (found.kl, wanted.kl)):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(bank.grad, gradient, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("kind", [TrioStep, GraphStep])
def test_a_learned_slot_is_left_alone_with_its_moments_and_the_others_move(model, groups, kind):
    lean, _ = model
    bank = bank_of(lean, 0.03)
    step = kind(lean, bank, Lanes(1, CPU), weight_decay=0.1)
    for _ in range(2):
        found = step.channel_gradients(StepParts(step.pack([groups])))
        step.move([1e-2] * 3, 1.0, found.norms)
    before = {name: value.clone() for name, value in step.state_dict().items()}
    bank.grad[1].zero_()
    found = step.channel_gradients(StepParts(step.pack([groups])))
    step.move([1e-2] * 3, 1.0, found.norms, torch.tensor([False, True, False]))
    after = step.state_dict()
    assert torch.equal(after["master"][1], before["master"][1])
    assert all(torch.equal(after[name], before[name]) for name in after if name.startswith("1."))
    assert not torch.equal(after["master"][0], before["master"][0])
    assert bank.master.isfinite().all()


# -- a run ---------------------------------------------------------------------------------------------------------


def test_the_first_step_finds_the_parent_itself_and_later_ones_what_was_lost(home, engine, parents):
    seen = []
    engine.train(replaying(home, parents, "first", kl_weight=1.0, lr=2e-2), seen.append, lambda: False)
    for role in ROLES:
        assert seen[0].channels["kl"][role] == pytest.approx(0.0, abs=1e-6)
        assert seen[0].losses[role] == pytest.approx(seen[0].channels["sft"][role], abs=1e-6)
        assert seen[-1].channels["kl"][role] > 1e-4
        whole = seen[-1].channels["sft"][role] + seen[-1].channels["kl"][role]
        assert seen[-1].losses[role] == pytest.approx(whole, abs=1e-5)


def test_a_heavier_weight_keeps_a_child_nearer_to_its_parent(home, engine, parents):
    def moved(weight):
        seen = []
        job = replaying(home, parents, f"near-{weight}", 12, kl_weight=weight, lr=2e-2)
        engine.train(job, seen.append, lambda: False)
        return sum(seen[-1].channels["kl"].values())

    assert moved(20.0) < moved(1e-6) / 2


@pytest.mark.parametrize(
    "other", [{"kl_weight": 1.0}, {"kl_weight": 1.0, "kl_top": 2}, {"warmup_steps": 2}, {"least_loss": 100.0}]
)
def test_each_setting_changes_what_is_learned(home, engine, parents, other):
    plain = {"kl_weight": 1.0} if "kl_top" in other else {}
    name = "-".join(f"{key}={value}" for key, value in other.items())
    one, two = (
        quietly(engine, replaying(home, parents, run, **how)) for run, how in ((f"a{name}", plain), (f"b{name}", other))
    )
    assert all(one[role] != two[role] for role in ROLES)


def test_without_weight_the_file_of_new_examples_changes_nothing(home, engine, parents):
    job = replaying(home, parents, "off", kl_weight=0.0)
    alone = quietly(engine, dataclasses.replace(job, delta_file=None, run_dir=str(home.run_dir("off-alone"))))
    assert quietly(engine, job) == alone


@pytest.mark.parametrize("threads", [1, 2])
def test_a_run_that_is_held_to_its_parent_resumes_to_equal_bytes(home, engine, parents, threads):
    how = {"kl_weight": 1.0, "lr": 2e-2, "batch_size": 24 if threads == 2 else 4}
    settings = SETTINGS.model_copy(update={"threads": threads})

    def job(run):
        return replaying(home, parents, f"{run}-{threads}", 4, **how)

    whole = quietly(FusedEngine(engine.base, settings, LORA, CPU), job("whole"))
    count = iter(range(100))
    with pytest.raises(Paused, match="step 2 of 4"):
        FusedEngine(engine.base, settings, LORA, CPU).train(job("halves"), lambda _: None, lambda: next(count) == 2)
    assert quietly(FusedEngine(engine.base, settings, LORA, CPU), job("halves")) == whole


def test_steps_at_or_below_the_least_loss_move_nothing_and_are_counted(home, engine, parents):
    job = replaying(home, parents, "learned", least_loss=100.0)
    outcome = engine.train(job, lambda _: None, lambda: False)
    for role, found in outcome.roles.items():
        assert found.skipped_updates == {"learned": 4}
        before, after = (load_file(home.adapter_dir(sha) / WEIGHTS) for sha in (parents[role], found.adapter_sha))
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_short_run_rises_for_half_of_its_steps_at_most():
    assert [learning_rate(step, 4, 1.0, 10) for step in range(4)] == [0.0, 0.5, 1.0, 0.5]
    assert learning_rate(0, 1, 1.0, 10) == 1.0
    assert [learning_rate(step, 100, 1.0, 10) for step in (0, 5, 10)] == [0.0, 0.5, 1.0]


def test_the_trl_engine_refuses_what_it_cannot_do_and_names_the_way_out(home, engine):
    job = make_job(home, run="trl", least_loss=0.1)
    with pytest.raises(LunaError, match="least_loss needs the fused engine"):
        TrlEngine(engine.base, SETTINGS, LORA, CPU).train(job, lambda _: None, lambda: False)
