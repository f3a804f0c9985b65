"""The fused engine against the references: Hugging Face's logits and TRL's training."""

from __future__ import annotations

import string
from contextlib import nullcontext

import pytest
import torch
from safetensors.torch import load_file

from curriculum.render import render_prompt
from ledger.roles import ROLES
from tests.trainers.builders import CPU, LORA, make_home, make_job, random_base, sums, tiny_base
from trainers.config import TrainSettings
from trainers.data import tokenise
from trainers.fused.engine import FusedEngine
from trainers.lean.generator import LeanGenerator
from trainers.lean.model import LeanModel, why_unsupported
from trainers.lean.packing import Group, Row, pack
from trainers.models.adapter_set import AdapterSet
from trainers.models.adapters import WEIGHTS, initial_adapter, write_adapter
from trainers.models.frozen import load_base
from trainers.reference.engine import TrlEngine
from trainers.reference.generator import PeftGenerator

FAMILIES = ["llama", "qwen2", "llama3-rope"]


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probs_equal_hugging_face_logits_with_and_without_a_shared_prefix(tmp_path, family):
    hf, tokenizer = load_base(random_base(tmp_path, family).path, torch.float32, CPU)
    rows = [tokenise(tokenizer, example) for role in ROLES for example in sums(role, 3)]
    expected = []
    for row in rows:
        logits = hf(torch.tensor([row.tokens])).logits[0].log_softmax(-1)
        expected += [float(logits[at - 1, row.tokens[at]]) for at in range(row.prompt_len, len(row.tokens))]
    groups = [Group(-1, rows[:3]), Group(-1, rows[3:6]), Group(-1, rows[6:])]
    for share in (True, False):
        packed = pack(groups, CPU, share_prefix=share)
        with torch.no_grad():
            found = LeanModel(hf).log_probs(packed, None)
        torch.testing.assert_close(found, torch.tensor(expected), atol=2e-4, rtol=1e-4)


def test_a_shared_prefix_is_computed_once(tmp_path):
    rows = [Row([1, 2, 3, 4, 9, 5], 5), Row([1, 2, 3, 7, 5], 4), Row([1, 2, 3, 8, 8, 8, 5], 6)]
    assert pack([Group(0, rows)], CPU).tokens == 3 + 3 + 2 + 4
    assert pack([Group(0, rows)], CPU, share_prefix=False).tokens == 18


@pytest.mark.slow
def test_greedy_text_equals_hugging_face_generate(tmp_path):
    home = make_home(tmp_path)
    engine = FusedEngine(tiny_base(home), TrainSettings(dtype="float32"), LORA, CPU)
    reference = TrlEngine(engine.base, TrainSettings(dtype="float32"), LORA, CPU)
    job = make_job(home, steps=20)
    outcome = engine.train(job, lambda _: None, lambda: False)
    shas = {role: result.adapter_sha for role, result in outcome.roles.items()}
    prompts = [render_prompt("logical", example.input) for example in sums("logical", 5, offset=100)] + ["Hello"]
    ours, theirs = (e.generator(AdapterSet(home.adapters_dir, shas)) for e in (engine, reference))
    for voice in ("logical", "creative", "base"):
        assert ours.generate(voice, prompts, 6) == theirs.generate(voice, prompts, 6)
    pairs = [(prompt, answer) for prompt in prompts for answer in ("●", "⊥", "⊥ and more")]
    for voice in ("dialectical", "base"):
        assert_equal(ours.likelihoods(voice, pairs), theirs.likelihoods(voice, pairs))


@pytest.mark.parametrize("family", FAMILIES)
def test_both_generators_tell_alike_how_likely_an_answer_is_and_whether_it_is_greedy(tmp_path, family):
    hf, tokenizer = load_base(random_base(tmp_path, family).path, torch.float32, CPU)
    letters = tokenizer(string.ascii_letters, add_special_tokens=False)["input_ids"]  # whose text has their own tokens
    output = torch.zeros_like(hf.lm_head.weight).index_copy(0, torch.tensor(letters), hf.lm_head.weight[letters])
    hf.lm_head.weight = torch.nn.Parameter(output, requires_grad=False)
    ours = LeanGenerator(LeanModel(hf), tokenizer, None, {})
    theirs = PeftGenerator(lambda voice: nullcontext(hf), tokenizer, CPU)
    prompts = [render_prompt("logical", example.input) for example in sums("logical", 6)]
    said = ours.generate("base", prompts, 30)
    assert said == theirs.generate("base", prompts, 30)
    pairs = [(prompt, answer) for prompt, one in zip(prompts, said, strict=True) for answer in (one.text, "●", "no")]
    for most in (None, max(map(ours.count, prompts)) + 1):  # without its end what it says itself is greedy
        found = ours.likelihoods("base", pairs, most)
        assert_equal(found, theirs.likelihoods("base", pairs, most))
    assert {one.greedy for one in found} == {True, False}


def assert_equal(found, wanted):
    assert [one.mean for one in found] == pytest.approx([one.mean for one in wanted], abs=2e-4)
    assert [one.greedy for one in found] == [one.greedy for one in wanted]


@pytest.mark.parametrize("family", FAMILIES)
def test_training_equals_trl_per_role_in_float32(tmp_path, family):
    """Loss within 1e-4 at every one of 8 steps; the whole update within 5e-3, relative."""
    home = make_home(tmp_path)
    base = random_base(tmp_path / "base", family)
    settings = TrainSettings(dtype="float32", engine="trl")
    fused, trl = FusedEngine(base, settings, LORA, CPU), TrlEngine(base, settings, LORA, CPU)
    starts = {
        role: write_adapter(
            home.adapters_dir, initial_adapter(fused.lean.model.module_shapes, LORA.rank, 3, role), LORA, base.source
        )
        for role in ROLES
    }
    curves: dict[str, list[dict[str, float]]] = {"fused": [], "trl": []}
    results = {}
    for engine in (fused, trl):
        job = make_job(home, steps=8, parents=starts, run=engine.name)
        log = curves[engine.name]
        outcome = engine.train(job, lambda p, log=log: log.append(dict(p.losses)), lambda: False)
        results[engine.name] = {role: r.adapter_sha for role, r in outcome.roles.items()}
    for number, role in enumerate(ROLES):
        ours = [entry[role] for entry in curves["fused"]]
        theirs = _losses_of(home, "trl", role)
        assert len(theirs) == 8
        assert ours == pytest.approx(theirs, abs=1e-4), (number, role)
        start, a, b = (
            _flat(home.adapter_dir(sha)) for sha in (starts[role], results["fused"][role], results["trl"][role])
        )
        assert float((a - b).norm() / (b - start).norm()) < 5e-3


def _losses_of(home, run, role):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(home.run_dir(run) / role / "tensorboard"))
    events.Reload()
    return [point.value for point in events.Scalars(f"train/{role}/loss")]


def _flat(folder):
    tensors = load_file(folder / WEIGHTS)
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


def test_an_unknown_family_is_named_as_the_reason_for_the_fallback():
    from transformers import GPT2Config

    assert "gpt2" in (why_unsupported(GPT2Config()) or "")
