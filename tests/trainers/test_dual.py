"""Two channels: examples and preference pairs in one step, each normalised on its own."""

from __future__ import annotations

import copy
import dataclasses
import math
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from curriculum.preferences.pairs import make_preference
from curriculum.render import render_prompt
from curriculum.split import split_by_group
from curriculum.transcript import LengthSettings
from ledger.errors import LunaError
from ledger.roles import ROLES
from tests.trainers.builders import CPU, LORA, make_home, make_job, quietly, sums, tastes, tiny_base
from trainers.checkpoint import fingerprint
from trainers.config import ChannelSettings, TrainSettings
from trainers.data import channel_shares, read_role_data, tokenise_pair
from trainers.evals.asking import Asking, mark
from trainers.evals.models import Speaker
from trainers.evals.preferences import PairLikelihood, PreferenceScores, measure_preferences
from trainers.fused.engine import FusedEngine
from trainers.fused.losses import dpo_losses
from trainers.fused.pairs import (
    PairRows,
    cut_pairs,
    margins,
    pack_pairs,
    pair_weight,
    preference_losses,
)
from trainers.fused.reference import reference_margins
from trainers.fused.step import StepParts, TrioStep
from trainers.job import EngineInfo, NonFiniteError, Paused
from trainers.lean.packing import Row
from trainers.models.adapter_set import AdapterSet
from trainers.models.adapters import WEIGHTS, read_adapter
from trainers.reference.engine import TrlEngine
from trainers.schedule import places_of_step

pytestmark = pytest.mark.slow

SETTINGS = TrainSettings(dtype="float32")
PAIRS = [pair for role in ROLES for pair in tastes(role, 6)]

weights = st.floats(0, 10, allow_nan=False).filter(lambda w: w == 0 or w > 1e-6)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_home(tmp_path_factory.mktemp("dual"))


@pytest.fixture(scope="module")
def engine(home):
    return FusedEngine(tiny_base(home), SETTINGS, LORA, CPU)


@pytest.fixture(scope="module")
def parents(home, engine):
    return quietly(engine, make_job(home, steps=4, run="parents"))


def weights_of(home, sha):
    return load_file(home.adapter_dir(sha) / WEIGHTS)


# -- formulas ------------------------------------------------------------------------------------------------------


def test_the_dpo_loss_is_minus_log_sigmoid_of_beta_times_the_gained_margin():
    found = dpo_losses(torch.tensor([2.0, -1.0, 3.0]), torch.tensor([0.5, -1.0, 33.0]), 0.1)
    by_hand = [math.log(1 + math.exp(-0.15)), math.log(2), math.log(1 + math.exp(3.0))]
    torch.testing.assert_close(found, torch.tensor(by_hand))
    assert found.tolist() == pytest.approx([0.62096, 0.69315, 3.04859], abs=1e-5)


def test_a_slots_preference_loss_is_the_weighted_mean_over_its_own_pairs():
    def rows(slot, chosen, rejected, weight, reference=0.0):
        prompt = [1, 2, 3]
        return PairRows(slot, Row([*prompt, *chosen], 3), Row([*prompt, *rejected], 3), weight, reference)

    batch = pack_pairs([rows(0, [4, 5], [6], 1.0), rows(0, [7], [8, 9], 3.0, 1.0), rows(2, [4], [5], 0.5)], CPU)
    log_probs = torch.tensor([-1.0, -2.0, -4.0, -1.0, -2.0, -3.0, -0.5, -0.25])
    assert margins(log_probs, batch).tolist() == [1.0, 4.0, -0.25]
    assert pair_weight([batch], 3, CPU).tolist() == [4.0, 0.0, 0.5]
    found = preference_losses(log_probs, batch, 3, pair_weight([batch], 3, CPU), beta=0.5)
    first, second, other = (math.log(1 + math.exp(-0.5 * m)) for m in (1.0, 3.0, -0.25))
    assert found.tolist() == pytest.approx([(first + 3 * second) / 4, 0.0, other], abs=1e-6)


@pytest.mark.parametrize(
    ("given_weights", "has", "shares"),
    [
        ((0.5, 0.5), (True, True), (0.5, 0.5)),
        ((3.0, 1.0), (True, True), (0.75, 0.25)),
        ((1.0, 0.0), (True, True), (1.0, 0.0)),
        ((0.5, 0.5), (True, False), (1.0, 0.0)),
        ((0.9, 0.1), (False, True), (0.0, 1.0)),
        ((0.5, 0.5), (False, False), (0.0, 0.0)),
    ],
)
def test_a_channel_without_data_gives_its_weight_to_the_other(given_weights, has, shares):
    assert channel_shares(*given_weights, *has) == shares


@given(weights, weights, st.booleans(), st.booleans())
def test_shares_add_up_to_one_wherever_there_is_data(w_sft, w_pref, has_sft, has_pref):
    if w_sft + w_pref == 0:
        with pytest.raises(LunaError, match="channel weights"):
            channel_shares(w_sft, w_pref, has_sft, has_pref)
        return
    shares = channel_shares(w_sft, w_pref, has_sft, has_pref)
    assert sum(shares) == pytest.approx(1.0 if has_sft or has_pref else 0.0)
    assert all(0 <= share <= 1 for share in shares)
    assert (shares[0] == 0) >= (not has_sft)
    assert (shares[1] == 0) >= (not has_pref)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=9), st.integers(1, 5))
def test_pieces_hold_every_pair_whole_and_in_order(lengths, parts):
    pairs = [
        PairRows(0, Row([1, 2, *[3] * a], 2), Row([1, 2, *[4] * b], 2), 1.0, float(i))
        for i, (a, b) in enumerate(lengths)
    ]
    pieces = cut_pairs(pairs, parts)
    assert len(pieces) <= parts
    assert all(pieces)
    assert [pair for piece in pieces for pair in piece] == pairs


def test_a_pair_keeps_one_prompt_for_both_answers_when_it_is_cut(engine):
    (pair,) = tastes("logical", 1)
    long = dataclasses.replace(pair, prompt="a" * 300, chosen="b" * 40, rejected="c" * 300)
    chosen, rejected = tokenise_pair(engine.lean.tokenizer, long, LengthSettings(max_tokens=128, answer_tokens=64))
    assert chosen.tokens[: chosen.prompt_len] == rejected.tokens[: rejected.prompt_len]
    assert len(rejected.tokens) == 128
    assert len(rejected.tokens) - rejected.prompt_len == 64
    assert len(chosen.tokens) - chosen.prompt_len == 41


# -- training ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("threads", "rows"), [(1, 4), (2, 24)], ids=["whole", "in lanes"])
def test_without_weight_on_preferences_the_bytes_are_those_of_examples_alone(home, engine, parents, threads, rows):
    own = FusedEngine(engine.base, SETTINGS.model_copy(update={"threads": threads}), LORA, CPU)
    how = {"steps": 2, "batch_size": rows, "parents": parents, "threads": threads}
    alone = quietly(own, make_job(home, run=f"sft-{threads}", **how))
    both = make_job(home, run=f"dual-{threads}", pairs=PAIRS, channels={"w_sft": 0.3, "w_pref": 0.0}, **how)
    assert quietly(own, both) == alone


def test_the_reference_is_the_parent_so_the_first_loss_is_log_two(home, engine, parents):
    seen = []
    job = make_job(home, steps=3, run="log2", parents=parents, pairs=PAIRS, channels={"w_sft": 0.0, "w_pref": 1.0})
    engine.train(job, seen.append, lambda: False)
    for role in ROLES:
        assert seen[0].losses[role] == seen[0].channels["dpo"][role] == pytest.approx(math.log(2), abs=1e-5)
        assert seen[-1].losses[role] < math.log(2)
    assert seen[0].channels["sft"] == {}


def test_without_weight_on_examples_the_loss_is_that_of_trls_dpo(home, engine, parents, tmp_path):
    """TRL's own loss of the same pairs, adapter and reference; and its trainer's course over six steps."""
    job = make_job(
        home, steps=6, run="dpo", parents=parents, roles=("logical",), pairs=PAIRS, batch_size=4,
        channels={"w_sft": 0.0, "w_pref": 1.0, "beta": 0.3, "pairs": 4},
    )  # fmt: skip
    seen = []
    child = engine.train(job, seen.append, lambda: False).roles["logical"].adapter_sha
    own = [pair for pair in PAIRS if pair.role == "logical"]
    theirs, course = trl_dpo(engine, home, job, own, parents["logical"], child, tmp_path)
    bank = engine.lean.empty_bank(1, trainable=True)
    bank.load_state_dict(0, read_adapter(home.adapter_dir(parents["logical"]), LORA, engine.lean.model.module_shapes))
    rows = [PairRows(0, *tokenise_pair(engine.lean.tokenizer, pair), 1.0) for pair in own]
    references = reference_margins(engine.lean.model, bank, engine.lean.lanes, rows)
    rows = [dataclasses.replace(pair, reference=r) for pair, r in zip(rows, references, strict=True)]
    bank.load_state_dict(0, read_adapter(home.adapter_dir(child), LORA, engine.lean.model.module_shapes))
    trio = TrioStep(engine.lean.model, bank, engine.lean.lanes)
    ours = trio.channel_gradients(StepParts([], [pack_pairs(rows, CPU)], beta=0.3)).dpo[0]
    assert abs(float(ours) - math.log(2)) > 0.01, "the child has moved away from its parent"
    assert float(ours) == pytest.approx(theirs, abs=1e-5)
    assert [progress.losses["logical"] for progress in seen] == pytest.approx(course, abs=1e-4)


def trl_dpo(engine, home, job, pairs, parent, child, folder):
    """(TRL's loss over all pairs for the child against the parent, the losses of TRL's training from the parent)."""
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM
    from trl import DPOConfig, DPOTrainer

    def text(pair):
        return {"prompt": render_prompt(pair.role, pair.prompt), "chosen": pair.chosen, "rejected": pair.rejected}

    def rows(pair):
        chosen, rejected = tokenise_pair(engine.lean.tokenizer, pair)
        return {
            "prompt_ids": list(chosen.tokens[: chosen.prompt_len]),
            "chosen_ids": list(chosen.tokens[chosen.prompt_len :]),
            "rejected_ids": list(rejected.tokens[rejected.prompt_len :]),
        }

    order = [pairs[i] for step in range(6) for i in places_of_step(step, 6, 4, len(pairs))]
    tokenizer = copy.deepcopy(engine.lean.tokenizer)
    tokenizer.split_special_tokens = False  # TRL ends each answer with the name of the end of text
    model = AutoModelForCausalLM.from_pretrained(engine.base.path, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, home.adapter_dir(parent), is_trainable=True)
    config = DPOConfig(
        output_dir=str(folder), beta=0.3, per_device_train_batch_size=4, max_steps=6, learning_rate=job.train.lr,
        lr_scheduler_type="linear", max_grad_norm=1.0, weight_decay=0.0, train_sampling_strategy="sequential",
        max_length=None, logging_steps=1, use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[],
        disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    trainer = DPOTrainer(
        model=model, args=config, train_dataset=Dataset.from_list([text(pair) for pair in order]),
        processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
    course = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    tensors = load_file(home.adapter_dir(child) / WEIGHTS)
    with torch.no_grad():
        for name, value in tensors.items():
            model.get_parameter(name.replace(".weight", ".default.weight")).copy_(value)
    batch = trainer.data_collator([rows(pair) for pair in pairs])
    with torch.no_grad():
        return float(trainer.compute_loss(trainer.model, batch)), course


def test_both_channels_add_up_by_their_shares(home, engine, parents):
    seen = []
    job = make_job(home, steps=2, run="sum", parents=parents, pairs=PAIRS, channels={"w_sft": 3.0, "w_pref": 1.0})
    engine.train(job, seen.append, lambda: False)
    for progress in seen:
        for role in ROLES:
            both = 0.75 * progress.channels["sft"][role] + 0.25 * progress.channels["dpo"][role]
            assert progress.losses[role] == pytest.approx(both, abs=1e-6)
    events = EventAccumulator(str(home.run_dir("sum") / "tensorboard"))
    events.Reload()
    wanted = {f"train/{role}/{curve}" for curve in ("loss", "sft_loss", "dpo_loss") for role in ROLES}
    assert set(events.Tags()["scalars"]) == wanted


def test_pairs_of_weight_zero_leave_the_bytes_as_they_are(home, engine, parents):
    unsafe = [pair for role in ROLES for pair in tastes(role, 60, weight=0.0)[40:]]
    mixed = sorted([*PAIRS, *unsafe], key=lambda pair: pair.id)
    without = quietly(engine, make_job(home, steps=2, run="safe", parents=parents, pairs=sorted(PAIRS, key=_id)))
    assert quietly(engine, make_job(home, steps=2, run="unsafe", parents=parents, pairs=mixed)) == without
    only_unsafe = quietly(engine, make_job(home, steps=2, run="only-unsafe", parents=parents, pairs=unsafe))
    assert only_unsafe == quietly(engine, make_job(home, steps=2, run="no-pairs", parents=parents))


def _id(pair):
    return pair.id


def test_a_role_without_examples_learns_from_its_pairs_alone(home, engine):
    seen = []
    examples = [*sums("creative", 5), *sums("dialectical", 5)]
    job = make_job(home, steps=2, run="pairs-only", examples=examples, pairs=tastes("logical", 6))
    engine.train(job, seen.append, lambda: False)
    assert set(seen[-1].channels["sft"]) == {"creative", "dialectical"}
    assert set(seen[-1].channels["dpo"]) == {"logical"}
    assert read_role_data(job).shares == {"creative": (1.0, 0.0), "logical": (0.0, 1.0), "dialectical": (1.0, 0.0)}


def test_a_heavier_pair_pulls_harder(home, engine):
    """Two pairs that want opposite things: the one with the weight is followed."""
    (pair,) = tastes("logical", 1)
    turned = dataclasses.replace(pair, chosen=pair.rejected, rejected=pair.chosen)
    found = {}
    for name, (one, other) in {"warm": (1.0, 0.1), "cold": (0.1, 1.0)}.items():
        pairs = [
            make_preference(
                role="logical", prompt=p.prompt, chosen=p.chosen, rejected=p.rejected, margin=1.0, origin="imported",
                weight=w,
            )
            for p, w in ((pair, one), (turned, other))
        ]  # fmt: skip
        channels = {"w_sft": 0.0, "w_pref": 1.0, "pairs": 2}
        job = make_job(home, steps=15, run=f"pull-{name}", roles=("logical",), pairs=pairs, channels=channels)
        shas = quietly(engine, job)
        child, base = AdapterSet(home.adapters_dir, shas), AdapterSet(home.adapters_dir, {})
        (scores,) = measure_preferences(engine.lean, {"logical": [pair]}, child, base, 0.1)
        found[name] = scores.record(0).details["reward_margin"]
    assert found["warm"] > 0 > found["cold"]


def test_a_dual_run_stopped_and_resumed_in_a_fresh_engine_equals_an_unbroken_one(home, engine, parents):
    whole = quietly(engine, make_job(home, steps=4, run="dual-whole", parents=parents, pairs=PAIRS))
    job, count = make_job(home, steps=4, run="dual-halves", parents=parents, pairs=PAIRS), iter(range(100))
    with pytest.raises(Paused, match="step 2 of 4"):
        engine.train(job, lambda _: None, lambda: next(count) == 2)
    assert quietly(FusedEngine(engine.base, SETTINGS, LORA, CPU), job) == whole


def test_parts_and_lanes_give_the_gradient_of_one_pass(home, engine, parents):
    how = {"steps": 2, "parents": parents, "pairs": PAIRS, "channels": {"pairs": 6}}
    one = quietly(engine, make_job(home, run="dual-one", **how))
    parts = quietly(engine, make_job(home, run="dual-parts", gradient_accumulation_steps=3, **how))
    two = FusedEngine(engine.base, SETTINGS.model_copy(update={"threads": 2}), LORA, CPU)
    lanes = quietly(two, make_job(home, run="dual-lanes", threads=2, **how))
    for role in ROLES:
        before, whole = weights_of(home, parents[role]), weights_of(home, one[role])
        moved = distance(whole, before)
        # Adam makes a step of the learning rate out of a gradient of nearly zero, whichever sign rounding gave it, so
        # single weights may differ on some processors; the update as a whole may not.
        assert distance(whole, weights_of(home, parts[role])) <= 5e-3 * moved
        assert distance(whole, weights_of(home, lanes[role])) <= 5e-3 * moved


def distance(one, other):
    """Euclidean, over all weights of two adapters."""
    return math.sqrt(sum(float((one[name] - other[name]).double().square().sum()) for name in one))


def test_a_loss_that_is_not_finite_names_examples_and_pairs(home, engine, parents):
    broken = load_file(home.adapter_dir(parents["logical"]) / WEIGHTS)
    folder = home.adapter_dir("e" * 64)
    shutil.copytree(home.adapter_dir(parents["logical"]), folder, dirs_exist_ok=True)
    save_file({name: value * 1e30 for name, value in broken.items()}, folder / WEIGHTS, metadata={"format": "pt"})
    job = make_job(home, steps=2, run="nan", roles=("logical",), parents={"logical": "e" * 64}, pairs=PAIRS)
    with pytest.raises(NonFiniteError, match=r"examples \w{12}.* and preference pairs \w{12}") as caught:
        quietly(engine, job)
    assert PAIRS[6].id[:12] in str(caught.value)


def test_the_trl_engine_refuses_pairs_and_names_the_way_out(home, engine):
    other = TrlEngine(engine.base, SETTINGS, LORA, CPU)
    with pytest.raises(LunaError, match="need the fused engine"):
        other.train(make_job(home, run="trl-dual", pairs=PAIRS), lambda _: None, lambda: False)


def test_pairs_do_not_touch_the_fingerprint_of_a_run_on_examples_alone(home):
    job, info = make_job(home, run="print"), EngineInfo("fused", "cpu", "float32", 1, {})
    other = dataclasses.replace(job, channels=ChannelSettings(beta=0.7), preference_file="/nowhere")
    assert fingerprint(job, info) == fingerprint(other, info)
    dual = make_job(home, run="print", pairs=PAIRS)
    assert fingerprint(dual, info) != fingerprint(job, info)
    assert fingerprint(dual, info) != fingerprint(make_job(home, run="print", pairs=PAIRS[1:]), info)


# -- what comes of it ----------------------------------------------------------------------------------------------


def test_preferences_reach_held_out_prompts_and_memory_stays(home, engine):
    """The bar: chosen beats rejected by likelihood on 0.85 of held-out pairs, recall stays above 0.90.

    One role, for time's sake; `python -m bench.dual` measures all three with several weights.
    """
    role, folder = "dialectical", home.adapters_dir
    memory, how = sums(role, 20), {"roles": (role,), "batch_size": 8}
    before = quietly(engine, make_job(home, steps=110, run="memory", examples=memory, lr=5e-3, **how))
    split = split_by_group([], tastes(role), 20)
    train, held_out = split.train_pairs, split.holdout_pairs
    assert {pair.prompt for pair in train}.isdisjoint(pair.prompt for pair in held_out)
    job = make_job(home, steps=40, run="bar", examples=memory, parents=before, pairs=train, lr=2e-3, **how)
    after = quietly(engine, job)
    child, parent = AdapterSet(folder, after), AdapterSet(folder, before)
    (scores,) = measure_preferences(engine.lean, {role: held_out}, child, parent, 0.1)
    record = scores.record(1)
    assert record.n >= 10
    assert max(record.details["parent_by_mean"], record.details["parent_by_sum"]) < 0.85, "there is something to learn"
    assert min(record.value, record.details["by_sum"], record.details["by_implicit_reward"]) >= 0.85
    asking = Asking(role, {e.category for e in memory}, 12, LengthSettings())
    recalled = [one.right for one in mark(Speaker(engine.generator(child), role), memory, asking)]
    assert sum(recalled) / len(recalled) > 0.90


def test_preference_accuracy_counts_pairs_three_ways_and_ties_for_nobody():
    child = [PairLikelihood(-4.0, -6.0, -2.0, -1.5), PairLikelihood(-3.0, -3.0, -1.0, -1.0)]
    parent = [PairLikelihood(-8.0, -6.0, -4.0, -1.5), PairLikelihood(-3.0, -3.0, -1.0, -1.0)]
    record = PreferenceScores("creative", child, parent, beta=0.5).record(3)
    assert (record.eval, record.method, record.value, record.n) == ("preference_accuracy", "pairs", 0.0, 2)
    assert record.details["by_sum"] == 0.5
    assert record.details["by_implicit_reward"] == 0.5
    assert record.details["reward_margin"] == pytest.approx(0.5 * 4.0 / 2)
    assert record.details["parent_by_sum"] == 0.0
    assert 0.0 == record.low < record.high < 1.0
