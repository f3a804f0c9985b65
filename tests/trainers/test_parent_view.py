"""What a parent makes of examples, by a real model."""

from __future__ import annotations

import pytest

from curriculum.render import render_prompt
from curriculum.transcript import LengthSettings
from tests.trainers.builders import CPU, LORA, make_home, make_job, sums, tiny_base
from trainers.config import TrainSettings
from trainers.fused.engine import FusedEngine
from trainers.models.adapter_set import AdapterSet
from trainers.parent_view import parent_views


def test_a_view_is_the_likelihood_of_the_recorded_answer_and_what_the_parent_says_to_its_end(tmp_path):
    home = make_home(tmp_path)
    engine = FusedEngine(tiny_base(home), TrainSettings(dtype="float32", threads=1), LORA, CPU)
    job = make_job(home, steps=30, run="parent", roles=("logical", "creative"), lr=1e-2)
    outcome = engine.train(job, lambda _: None, lambda: False)
    adapters = AdapterSet(home.adapters_dir, {role: found.adapter_sha for role, found in outcome.roles.items()})
    generator, lengths = engine.generator(adapters), LengthSettings(max_tokens=512, answer_tokens=8)
    examples = [*sums("logical", 6), *sums("creative", 6, offset=500)]
    found = parent_views(generator, examples[::-1], True, lengths)
    assert found.keys() == {example.id for example in examples}
    for example in examples:
        prompt = render_prompt(example.role, example.input)
        (likely,) = generator.likelihoods(example.role, [(prompt, example.output)])
        (answer,) = generator.generate(example.role, [prompt], 8)
        assert found[example.id].nats == pytest.approx(likely.mean, abs=1e-4)
        assert found[example.id].own == (answer.text if answer.ended else "")
    assert any(view.own for view in found.values())
    assert all(view.own == "" for view in parent_views(generator, examples, False, lengths).values())
