"""Training as a user meets it: resumed, repeated, interrupted, and given bad input."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from curriculum.example import make_example, unique
from curriculum.parquet import freeze
from ledger.errors import LunaError
from ledger.roles import BASE, ROLES
from tests.trainers.builders import CPU, LORA, make_home, make_job, quietly, random_base, sums, tiny_base
from trainers.checkpoint import fingerprint, load_checkpoint
from trainers.config import FrozenModelSettings, LoraSettings, TrainSettings
from trainers.engines import open_engine
from trainers.fused.engine import FusedEngine
from trainers.fused.run import FusedRun
from trainers.fused.step import TrioStep
from trainers.job import NonFiniteError, Paused
from trainers.models.adapter_set import AdapterSet
from trainers.models.adapters import CONFIG, WEIGHTS, lora_of, read_adapter
from trainers.models.frozen import prepare_base
from trainers.reference.engine import TrlEngine
from trainers.schedule import places_of_step

SETTINGS = TrainSettings(dtype="float32")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_home(tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="module")
def engine(home):
    return FusedEngine(tiny_base(home), SETTINGS, LORA, CPU)


def test_two_runs_of_one_record_give_equal_bytes(home, engine):
    first = quietly(engine, make_job(home, run="once"))
    again = quietly(FusedEngine(engine.base, SETTINGS, LORA, CPU), make_job(home, run="twice"))
    assert first == again


def test_another_seed_gives_other_bytes(home, engine):
    assert quietly(engine, make_job(home, run="seed7")) != quietly(engine, make_job(home, run="seed8", seed=8))


def test_a_paused_run_resumed_in_a_new_process_state_equals_an_unbroken_one(home, engine):
    whole = quietly(engine, make_job(home, steps=8, run="whole"))
    job = make_job(home, steps=8, run="halves")
    seen = []
    with pytest.raises(Paused, match="step 4 of 8"):
        engine.train(job, lambda p: seen.append(p.step), lambda: len(seen) == 4)
    fresh = FusedEngine(engine.base, SETTINGS, LORA, CPU)
    outcome = fresh.train(job, lambda p: seen.append(p.step), lambda: False)
    assert seen == [1, 2, 3, 4, 5, 6, 7, 8]
    assert {role: result.adapter_sha for role, result in outcome.roles.items()} == whole


def test_a_run_that_dies_between_checkpoints_resumes_from_the_last_one(home, engine):
    whole = quietly(engine, make_job(home, steps=8, run="unbroken"))

    class PowerCut(Exception):
        pass

    def cut(progress):
        if progress.step == 5:
            raise PowerCut

    job = make_job(home, steps=8, run="cut", checkpoint_every_steps=3)
    with pytest.raises(PowerCut):
        engine.train(job, cut, lambda: False)
    steps = []
    outcome = engine.train(job, lambda p: steps.append(p.step), lambda: False)
    assert steps == [4, 5, 6, 7, 8]
    assert {role: result.adapter_sha for role, result in outcome.roles.items()} == whole


def test_a_checkpoint_of_another_job_is_refused(home, engine):
    job = make_job(home, steps=8, run="foreign")
    count = iter(range(100))
    with pytest.raises(Paused):
        engine.train(job, lambda _: None, lambda: next(count) == 2)
    with pytest.raises(LunaError, match="another training job"):
        quietly(engine, make_job(home, steps=8, run="foreign", lr=1e-3))


def test_accumulation_gives_the_same_gradient_as_one_pass(home, engine):
    one = quietly(engine, make_job(home, steps=3, run="one-pass"))
    parts = quietly(engine, make_job(home, steps=3, run="parts", gradient_accumulation_steps=2))
    for role in ROLES:
        a, b = (load_file(home.adapter_dir(shas[role]) / WEIGHTS) for shas in (one, parts))
        for name in a:
            torch.testing.assert_close(a[name], b[name], atol=2e-4, rtol=0)


def test_training_one_role_alone_learns_the_same_as_in_the_trio(home, engine):
    trio = quietly(engine, make_job(home, steps=4, run="trio"))
    alone = quietly(engine, make_job(home, steps=4, run="alone", roles=("logical",)))
    a, b = (load_file(home.adapter_dir(sha) / WEIGHTS) for sha in (trio["logical"], alone["logical"]))
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=2e-4, rtol=0)


def test_a_role_with_fewer_steps_stops_earlier_and_learns_what_it_would_alone(home, engine):
    steps = {"creative": 3, "logical": 6, "dialectical": 3}
    seen = []
    outcome = engine.train(make_job(home, steps=steps, run="uneven"), seen.append, lambda: False)
    assert {role: result.steps for role, result in outcome.roles.items()} == steps
    assert [p.role_steps["creative"] for p in seen] == [1, 2, 3, 3, 3, 3]
    assert (seen[-1].step, seen[-1].steps, seen[-1].role_steps) == (6, 6, steps)
    alone = quietly(engine, make_job(home, steps=3, run="uneven-alone", roles=("creative",)))
    a, b = (
        load_file(home.adapter_dir(s) / WEIGHTS) for s in (outcome.roles["creative"].adapter_sha, alone["creative"])
    )
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=2e-4, rtol=0)


def test_uneven_steps_stopped_and_resumed_give_the_bytes_of_an_unbroken_run(home, engine):
    steps = {"creative": 2, "logical": 6, "dialectical": 4}
    whole = quietly(engine, make_job(home, steps=steps, run="uneven-whole"))
    job, count = make_job(home, steps=steps, run="uneven-halves"), iter(range(100))
    with pytest.raises(Paused, match="step 3 of 6"):
        engine.train(job, lambda _: None, lambda: next(count) == 3)
    assert quietly(FusedEngine(engine.base, SETTINGS, LORA, CPU), job) == whole


@pytest.mark.parametrize("rows", [2, pytest.param(24, marks=pytest.mark.slow)])
def test_training_in_lanes_gives_equal_bytes_twice_and_when_resumed(home, engine, monkeypatch, rows):
    """Of six rows a step, some 185 tokens, and of many."""
    used, gradients = [], TrioStep.channel_gradients

    def seen(self, parts):
        used.append(parts.lanes)
        return gradients(self, parts)

    monkeypatch.setattr(TrioStep, "channel_gradients", seen)
    two = FusedEngine(engine.base, SETTINGS.model_copy(update={"threads": 2}), LORA, CPU)
    jobs = [
        make_job(home, steps=4, batch_size=rows, threads=2, run=f"lanes-{rows}-{run}")
        for run in ("once", "twice", "halves")
    ]
    whole = quietly(two, jobs[0])
    assert quietly(two, jobs[1]) == whole
    steps = []
    with pytest.raises(Paused, match="step 2 of 4"):
        two.train(jobs[2], lambda p: steps.append(p.step), lambda: len(steps) == 2)
    assert quietly(two, jobs[2]) == whole
    assert set(used) == {2}, "every step went in two lanes"


@pytest.mark.slow
def test_what_was_trained_is_known_afterwards(home, engine):
    job = make_job(home, steps=150, run="learn", lr=5e-3, batch_size=8)
    shas = quietly(engine, job)
    generator = engine.generator(AdapterSet(home.adapters_dir, shas))
    from curriculum.transcript import LengthSettings
    from trainers.evals.asking import Asking, mark
    from trainers.evals.models import Speaker

    items, asking = sums("logical", 40), Asking("logical", {"agl/comparison"}, 12, LengthSettings())
    found = [one.right for one in mark(Speaker(generator, "logical"), items, asking)]
    assert sum(found) / len(found) > 0.8
    assert not any(one.right for one in mark(Speaker(generator, BASE), items, asking))


def test_examples_of_weight_zero_leave_the_bytes_as_they_are(home, engine):
    rows = [e for role in ROLES for e in sums(role, 11)]
    poison = [
        make_example(
            role=role, stage="fundamentals", category="x", kind="pure", input=f"poison {i}", output="⊥⊥⊥", source="t",
            weight=0.0,
        )
        for role in ROLES
        for i in range(3)
    ]  # fmt: skip
    mixed = [*poison[:2], *rows[:7], *poison[2:5], *rows[7:], *poison[5:]]
    with_them = quietly(engine, make_job(home, steps=6, run="w0", examples=mixed))
    assert with_them == quietly(engine, make_job(home, steps=6, run="w1", examples=rows))


def test_a_role_with_nothing_but_examples_of_weight_zero_is_refused_by_name(home, engine):
    unsafe = [dataclasses.replace(example, weight=0.0) for example in sums("logical", 3)]
    job = make_job(home, run="nothing", examples=[*sums("creative", 3), *unsafe, *sums("dialectical", 3)])
    with pytest.raises(LunaError, match="weight above 0 for logical"):
        quietly(engine, job)


def test_a_loss_that_is_not_finite_stops_before_the_optimizer_and_names_the_batch(home, engine):
    start = quietly(engine, make_job(home, steps=1, run="before-nan"))
    broken = load_file(home.adapter_dir(start["logical"]) / WEIGHTS)
    huge = {name: value * 1e30 for name, value in broken.items()}
    folder = home.adapter_dir("f" * 64)
    shutil.copytree(home.adapter_dir(start["logical"]), folder, dirs_exist_ok=True)
    save_file(huge, folder / WEIGHTS, metadata={"format": "pt"})
    job = make_job(home, steps=2, run="nan", roles=("logical",), parents={"logical": "f" * 64})
    ids = [sums("logical", 40)[i].id[:12] for i in places_of_step(0, 2, 4, 40)]
    with pytest.raises(NonFiniteError, match="step 1") as caught:
        quietly(engine, job)
    assert all(named in str(caught.value) for named in ids)
    assert not list(home.run_dir("nan").glob("checkpoint-*"))


def test_a_step_takes_the_next_rows_of_the_file_and_the_last_step_what_is_left(home, engine):
    rows = [e for role in ROLES for e in sums(role, 10)]
    seen = []
    job = make_job(home, steps=3, run="slices")
    job = dataclasses.replace(job, train_file=str(home.data_file(freeze(rows, home))))
    original, taken = FusedRun._row, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FusedRun, "_row", lambda run, example: taken.append(example) or original(run, example))
        outcome = engine.train(job, seen.append, lambda: False)
    assert [e.id for role in ROLES for e in unique(taken) if e.role == role] == [e.id for e in rows]
    assert {result.examples for result in outcome.roles.values()} == {10}


@pytest.mark.parametrize("count", [8, 13])
def test_a_file_with_other_rows_than_the_planned_steps_take_is_refused(home, engine, count):
    rows = [e for role in ROLES for e in sums(role, count)]
    job = make_job(home, steps=3, run=f"other-{count}")
    job = dataclasses.replace(job, train_file=str(home.data_file(freeze(rows, home))))
    with pytest.raises(LunaError, match=f"{count} rows for creative.* 3 steps are planned"):
        quietly(engine, job)


def test_seconds_and_losses_of_a_paused_run_are_of_all_its_parts(home, engine):
    whole = engine.train(make_job(home, steps=8, run="told"), lambda _: None, lambda: False)
    job, seen = make_job(home, steps=8, run="told-in-two"), []
    with pytest.raises(Paused):
        engine.train(job, seen.append, lambda: len(seen) == 6)
    _, record = load_checkpoint(Path(job.run_dir), fingerprint(job, engine.info))
    second = engine.train(job, seen.append, lambda: False)
    assert second.seconds > record["seconds"] > 0
    for role in ROLES:
        ours, theirs = second.roles[role], whole.roles[role]
        assert (ours.loss_start, ours.loss_end) == (theirs.loss_start, theirs.loss_end)


def test_long_examples_keep_header_question_end_and_room_for_an_answer(home, engine):
    from curriculum.render import role_header
    from curriculum.transcript import LengthSettings
    from trainers.data import tokenise

    example = make_example(
        role="logical",
        stage="manual",
        category="m",
        kind="hybrid",
        input="a" * 900 + " END",
        output="b" * 900,
        source="t",
    )
    row = tokenise(engine.lean.tokenizer, example, LengthSettings(max_tokens=200, answer_tokens=100))
    assert len(row.tokens) == 200
    assert row.prompt_len <= 100
    text = engine.lean.tokenizer.decode(row.tokens[: row.prompt_len])
    assert text.startswith(role_header("logical")[:20])
    assert text.endswith("END\n\n[ANTITHESIS]\n")


# -- bad input -----------------------------------------------------------------------------------------------------


def trained(home, engine):
    return quietly(engine, make_job(home, steps=1, run="good"))["logical"]


def copy_of(home, sha, name):
    folder = home.adapter_dir(name * 64)
    shutil.copytree(home.adapter_dir(sha), folder, dirs_exist_ok=True)
    return folder


def test_an_unknown_base_is_named_with_the_ways_out(tmp_path):
    with pytest.raises(LunaError, match=r"no-such/base.*tiny.*package"):
        prepare_base(FrozenModelSettings(source="no-such/base"), make_home(tmp_path))
    with pytest.raises(LunaError, match="is not installed"):
        prepare_base(FrozenModelSettings(source="package:no-such-package"), make_home(tmp_path))


def test_preparing_a_base_twice_does_the_work_once(tmp_path, caplog):
    home = make_home(tmp_path)
    with caplog.at_level("INFO", logger="trainers.models.frozen"):
        first = prepare_base(FrozenModelSettings(source="tiny"), home)
        assert prepare_base(FrozenModelSettings(source="tiny"), home) == first
    assert len(caplog.records) == 1


def test_a_local_base_that_was_trained_on_in_place_is_prepared_anew(tmp_path):
    home, folder = make_home(tmp_path), tmp_path / "mine"
    random_base(folder, "llama")
    settings = FrozenModelSettings(source=str(folder))
    first = prepare_base(settings, home)
    assert prepare_base(settings, home) == first
    weights = load_file(folder / "model.safetensors")
    save_file({name: value + 0.5 for name, value in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    second = prepare_base(settings, home)
    assert second.sha != first.sha
    assert first.path.is_dir(), "lineages over the old one go on"


def test_a_voice_without_an_adapter_is_an_error_and_not_the_bare_base(home, engine):
    adapters = AdapterSet(home.adapters_dir, {"logical": trained(home, engine)})
    for generator in (engine.generator(adapters), TrlEngine(engine.base, SETTINGS, LORA, CPU).generator(adapters)):
        with pytest.raises(LunaError, match="no adapter of 'creative' here; those there are: logical"):
            generator.generate("creative", ["hello"], 2)
        assert len(generator.generate(BASE, ["hello"], 2)) == 1


def test_memory_that_runs_out_is_told_with_what_to_do():
    from cluster.trainer_actor import TrainerActor

    with pytest.raises(LunaError, match=r"memory ran out .*raise \[train\] gradient_accumulation_steps"):
        TrainerActor()._compute(lambda: torch.empty(1 << 50))
    with pytest.raises(ValueError, match="another"):
        TrainerActor()._compute(lambda: int("another"))


def test_trl_refuses_a_batch_that_cannot_be_cut_evenly(home, engine):
    uneven = SETTINGS.model_copy(update={"batch_size": 3, "gradient_accumulation_steps": 2})
    job = dataclasses.replace(make_job(home, run="uneven"), train=uneven)
    with pytest.raises(LunaError, match=r"batch_size 3 of .* cannot be cut into gradient_accumulation_steps 2"):
        TrlEngine(engine.base, uneven, LORA, CPU).train(job, lambda _: None, lambda: False)


def test_a_generation_is_asked_with_the_scale_that_its_adapter_has(home, engine):
    assert lora_of(home.adapter_dir(trained(home, engine))) == LORA


def test_a_missing_adapter_is_named(home, engine):
    job = make_job(home, run="missing", parents={**dict.fromkeys(ROLES), "logical": "a" * 64})
    with pytest.raises(LunaError, match=f"no adapter at .*{'a' * 64}"):
        quietly(engine, job)


def test_a_truncated_adapter_is_named(home, engine):
    folder = copy_of(home, trained(home, engine), "b")
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:1000])
    with pytest.raises(LunaError, match="broken"):
        read_adapter(folder, LORA, engine.lean.model.module_shapes)


def test_an_adapter_with_values_that_are_not_finite_is_named(home, engine):
    folder = copy_of(home, trained(home, engine), "c")
    tensors = load_file(folder / WEIGHTS)
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(LunaError, match="not finite"):
        read_adapter(folder, LORA, engine.lean.model.module_shapes)


@pytest.mark.parametrize(
    ("other", "complaint"),
    [
        ({"rank": 4}, r"rank 8, the settings say rank 4.*set \[lora\] rank = 8"),
        ({"alpha": 64.0}, r"alpha 16.*, the settings say alpha 64.*set \[lora\] alpha = 16"),
    ],
)
def test_an_adapter_of_another_shape_or_scale_is_named_with_what_to_do(home, engine, other, complaint):
    """Another alpha would train from a parent whose update is scaled to another one than what is served."""
    folder = home.adapter_dir(trained(home, engine))
    with pytest.raises(LunaError, match=complaint):
        read_adapter(folder, LORA.model_copy(update=other), engine.lean.model.module_shapes)


def test_an_adapter_of_another_base_is_named(home, engine, tmp_path):
    other = FusedEngine(random_base(tmp_path, "llama"), SETTINGS, LORA, CPU)
    with pytest.raises(LunaError, match="another model"):
        read_adapter(home.adapter_dir(trained(home, engine)), LORA, other.lean.model.module_shapes)


def test_a_role_without_data_is_named(home, engine):
    job = make_job(home, run="empty", examples=sums("logical", 4))
    with pytest.raises(LunaError, match="creative, dialectical"):
        quietly(engine, job)


# -- other engines and plain PEFT ------------------------------------------------------------------------------------


def test_a_trained_adapter_loads_with_plain_peft_and_gives_the_same_answers(home, engine):
    from peft import AutoPeftModelForCausalLM, PeftModel
    from transformers import AutoModelForCausalLM

    sha = quietly(engine, make_job(home, steps=20, run="peft"))["logical"]
    model = AutoModelForCausalLM.from_pretrained(engine.base.path)
    peft = PeftModel.from_pretrained(model, home.adapter_dir(sha))
    prompt = "[LOGICAL CONSCIOUSNESS]\n3 + 4 even?"
    ids = torch.tensor([engine.lean.tokenizer(prompt)["input_ids"]])
    out = peft.generate(
        input_ids=ids, max_new_tokens=6, do_sample=False, pad_token_id=engine.lean.tokenizer.eos_token_id
    )
    theirs = engine.lean.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
    ours = engine.generator(AdapterSet(home.adapters_dir, {"logical": sha})).generate("logical", [prompt], 6)[0].text
    assert ours == theirs
    auto = AutoPeftModelForCausalLM.from_pretrained(home.adapter_dir(sha))  # which finds the base by itself
    assert torch.equal(auto(ids).logits, peft(ids).logits)


@pytest.mark.slow
def test_another_decoder_falls_back_to_trl_and_resumes(tmp_path, caplog):
    from transformers import GPT2Config, GPT2LMHeadModel

    from trainers.models.frozen import Base
    from trainers.models.tiny import byte_tokenizer

    tokenizer = byte_tokenizer()
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, eos_token_id=256, bos_token_id=256)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    base = Base("gpt2", "0" * 64, tmp_path / "gpt2")
    with caplog.at_level("INFO", logger="trainers"):
        engine = open_engine(base, SETTINGS, LORA, CPU)
    assert isinstance(engine, TrlEngine)
    assert "gpt2" in caplog.text
    with pytest.raises(LunaError, match="gpt2"):
        open_engine(base, TrainSettings(engine="fused"), LORA, CPU)

    home = make_home(tmp_path)
    whole = quietly(engine, make_job(home, steps=4, run="whole"))
    job = make_job(home, steps=4, run="halves")
    seen: list[int] = []
    with pytest.raises(Paused, match="logical"):
        engine.train(job, lambda p: seen.append(p.role_steps["logical"]), lambda: bool(seen) and seen[-1] == 2)
    (whole_one,) = (home.root / "runs" / "halves" / "logical").glob("*/checkpoint-*")
    half = whole_one.with_name("checkpoint-4")  # as a kill in the middle of saving leaves it
    half.mkdir()
    (half / CONFIG).write_bytes((whole_one / CONFIG).read_bytes())
    before = json.loads((home.root / "runs" / "halves" / "creative" / "role.json").read_text())["seconds"]
    before += float((whole_one / "whole").read_text())
    outcome = engine.train(job, lambda _: None, lambda: False)
    assert outcome.seconds > before > 0, "creative and half of logical were trained before the pause"
    assert {role: result.adapter_sha for role, result in outcome.roles.items()} == whole
    adapters = AdapterSet(home.adapters_dir, whole)
    assert engine.blended(adapters, adapters, 0.5, tmp_path / "blend").shas == whole
    assert len(engine.generator(adapters).generate("logical", ["Hello", "You"], 3)) == 2


def test_a_blend_halfway_is_the_mean_of_parent_and_child(home, engine, tmp_path):
    start = quietly(engine, make_job(home, steps=1, run="ip"))
    child = quietly(engine, make_job(home, steps=3, run="ic", parents=start))
    parents, children = (AdapterSet(home.adapters_dir, shas) for shas in (start, child))
    blend = engine.blended(parents, children, 0.5, tmp_path).path("logical")
    a, b = (load_file(home.adapter_dir(shas["logical"]) / WEIGHTS) for shas in (start, child))
    mean = load_file(blend / WEIGHTS)
    for name in a:
        torch.testing.assert_close(mean[name], (a[name] + b[name]) / 2)


def test_a_blend_of_a_first_generation_is_its_update_made_smaller(home, engine, tmp_path):
    child = AdapterSet(home.adapters_dir, quietly(engine, make_job(home, steps=2, run="first")))
    blend = engine.blended(AdapterSet(home.adapters_dir, {}), child, 0.25, tmp_path).path("logical")
    whole, part = load_file(child.path("logical") / WEIGHTS), load_file(blend / WEIGHTS)
    for name in whole:
        torch.testing.assert_close(part[name], whole[name] * (0.25 if "lora_B" in name else 1.0))


def test_each_role_learns_at_its_own_rate(home, engine):
    same = quietly(engine, make_job(home, steps=3, run="same", lr=2e-3))
    rates = {"creative": 2e-3, "logical": 2e-4, "dialectical": 2e-3}
    own = quietly(engine, make_job(home, steps=3, run="own", lr=rates))
    assert {role for role in same if own[role] != same[role]} == {"logical"}


def test_settings_refuse_rows_that_leave_a_role_out():
    with pytest.raises(ValueError, match="give a number for each"):
        TrainSettings(batch_size={"logical": 8})
    assert LoraSettings().rank == 16
