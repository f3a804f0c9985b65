"""Reward health measured on a real tiny model: a healthy run passes, a sick one is found out."""

from __future__ import annotations

import random

import pytest
import torch

from curriculum.example import make_example
from curriculum.reward import DIMENSIONS, RANGES, VALUES, RewardOutput, TeacherLabel
from ledger.rules.gates import health_problem
from tests.trainers.builders import CPU, LORA, make_home, make_job, tiny_base, tiny_encoder
from trainers.config import RewardSettings, TrainSettings
from trainers.data import tokenise
from trainers.fused.engine import FusedEngine
from trainers.fused.step import TrioStep
from trainers.health.gate import GateState, gate_step
from trainers.health.gradients import Sketch, row_gradients
from trainers.health.index import dimensional_coherence, gradient_stability, micro_batch_gradients
from trainers.health.probe import (
    HealthPlan,
    beginning,
    judge_answers,
    measure_role,
    probe_prompts,
    restated,
)
from trainers.health.report import measure_health
from trainers.health.settings import HealthSettings
from trainers.lean.lanes import Lanes
from trainers.lean.packing import Group, pack
from trainers.models.adapters import read_adapter, write_adapter
from trainers.reference.engine import TrlEngine
from trainers.reward.model import load_reward_model, make_current, reward_model_in_use
from trainers.reward.rows import pairs_of_labels, reward_rows
from trainers.reward.train import train_reward_model

pytestmark = pytest.mark.slow

KIND = ["I hear you, that sounds heavy.", "You could choose a small step.", "What would help you now?"]
HARSH = ["Stop whining.", "Nobody cares about you.", "You must get over it!"]
SETTINGS = HealthSettings(answer_tokens=16)
RUNNING = GateState(frozen=False, undoable=True)


def labels(prompts=60):
    """Answers of kind and harsh sentences, some broken off: all dimensions rise with the share of kind ones, empathy
    and curiosity with one sentence more than with the others."""
    draw, found = random.Random(1), []
    for number in range(prompts):
        for share in (0.0, 0.5, 1.0):
            said = [draw.choice(KIND if draw.random() < share else HARSH) for _ in range(draw.randint(1, 3))]
            text = " ".join(said)
            text = text[: draw.randint(6, len(text))] if draw.random() < 0.4 else text
            kind = 2 * sum(sentence in KIND for sentence in said) / len(said) - 1
            values = dict.fromkeys((*DIMENSIONS, "safety_score"), kind) | {"reward_intensity": (kind + 1) / 2}
            values["empathy"] = max(-1.0, min(1.0, 0.6 * kind + 0.8 * said.count(KIND[0]) / len(said) - 0.2))
            values["curiosity"] = max(-1.0, min(1.0, 0.4 * kind + 1.2 * said.count(KIND[2]) / len(said) - 0.4))
            found.append(
                TeacherLabel(
                    prompt_id=f"p{number}",
                    category="agency",
                    prompt=f"Question {number}: what now?",
                    response=text,
                    reward=RewardOutput(**values),
                )
            )
    return found


def talk(seed, count=90):
    draw = random.Random(seed)
    words = ["sea", "lamp", "bread", "snow", "work", "rain", "door", "night", "letter", "song"]
    return [
        make_example(
            role="creative", stage="conversations", category="talk", kind="pure", input=f"{draw.choice(words)} {i}?",
            output=draw.choice([*KIND, HARSH[0]]), source="test",
        )
        for i in range(count)
    ]  # fmt: skip


class Rig:
    """A tiny base, a reward model, and the creative role as G0 and G1."""

    def __init__(self, folder):
        self.home = make_home(folder)
        self.engine = FusedEngine(tiny_base(self.home), TrainSettings(dtype="float32", threads=1), LORA, CPU)
        settings = RewardSettings(
            encoder=str(tiny_encoder(folder / "encoder")), blocks=(1,), steps=40, hidden_size=16, threads=1
        )
        made = labels()
        rows = reward_rows(made, pairs_of_labels(made))
        reward = train_reward_model(rows, settings, 1, self.home.rewards_dir, folder / "run", {})
        make_current(self.home, reward)
        self.judge = load_reward_model(reward)
        self.g0 = self.train("g0", None, 40, 1e-2, 1)
        self.g1 = self.train("g1", self.g0, 15, 2e-3, 2)

    def train(self, run, parent, steps, lr, seed):
        parents = {"creative": parent.name if parent else None}
        job = make_job(
            self.home,
            steps=steps,
            roles=["creative"],
            examples=talk(seed),
            run=run,
            lr=lr,
            batch_size=8,
            parents=parents,
        )
        done = self.engine.train(job, lambda _: None, lambda: False)
        return self.home.adapter_dir(done.roles["creative"].adapter_sha)

    def measure(self, judge=None, child=None):
        plan = HealthPlan("creative", child or self.g1, self.g0, seed=7)
        return measure_role(self.engine.lean, plan, judge or self.judge, SETTINGS)

    def rows(self, examples):
        return [tokenise(self.engine.lean.tokenizer, example) for example in examples]

    def gradients(self, rows, adapter=None):
        tensors = read_adapter(adapter or self.g1, LORA, self.engine.lean.model.module_shapes)
        return row_gradients(self.engine.lean, tensors, rows, SETTINGS)[0]


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    return Rig(tmp_path_factory.mktemp("health"))


@pytest.fixture(scope="module")
def healthy(rig):
    return rig.measure()


def refused(health):
    """What the gate of acceptance says of it."""
    return health_problem(health.records(1, {})[0], SETTINGS.rhi_min)


class Noise:
    """An evaluator that says anything."""

    def score(self, prompts, responses):
        draw = random.Random(0)
        names = (*VALUES, "scalar_preference")
        return [RewardOutput(**{name: draw.uniform(*RANGES[name]) for name in names}) for _ in responses]


class Rivals:
    """Dimensions set against each other: an answer's first word decides which one it pleases, at all others' cost."""

    def score(self, prompts, responses):
        found = []
        for text in responses:
            word = "".join(c for c in text.casefold().partition(" ")[0] if c.isalnum())
            winner = sum(map(ord, word)) % len(DIMENSIONS)
            values = {name: 1.0 if i == winner else -1 / 6 for i, name in enumerate(DIMENSIONS)}
            found.append(RewardOutput(**values, reward_intensity=0.5, safety_score=0.5))
        return found


class Camps:
    """Four dimensions say what the judge says, three the opposite."""

    def __init__(self, judge):
        self.judge = judge

    def score(self, prompts, responses):
        found = []
        for output in self.judge.score(prompts, responses):
            mean = sum(output.vector()) / 7
            values = {name: mean if i % 2 == 0 else -mean for i, name in enumerate(DIMENSIONS)}
            found.append(RewardOutput(**values, reward_intensity=0.5, safety_score=0.5))
        return found


def test_a_healthy_run_passes_every_gate(healthy):
    assert healthy.components.rhi > 0.70
    assert refused(healthy) is None
    assert gate_step(RUNNING, healthy.components.partial, SETTINGS)[1] == "update"
    assert len(healthy.answers) == 15
    assert len({answer["category"] for answer in healthy.answers}) == 5


def test_an_evaluator_that_returns_noise_is_found_out_and_its_generation_refused(rig, healthy):
    sick = rig.measure(Noise())
    assert sick.components.cdrs < 0.35 < healthy.components.cdrs
    assert sick.components.lrps < 0.35 < healthy.components.lrps
    assert sick.components.mss == healthy.components.mss, "the adapter is the same"
    assert "weakest" in (refused(sick) or "")


def test_dimensions_set_against_each_other_lower_coherence_and_skip_the_update(rig, healthy):
    sick = rig.measure(Rivals())
    assert sick.components.dcs < 0.2 < 0.5 < healthy.components.dcs
    assert gate_step(RUNNING, sick.components.partial, SETTINGS)[1] in ("skip", "roll_back", "freeze")
    assert "rhi" not in (refused(sick) or "")
    assert refused(sick) is not None


def test_a_run_that_blew_up_is_far_from_its_parent_and_refused(rig, healthy):
    """How far it lands is chance, drawn anew by other rounding: twelve, at rates of 0.3 to 3, had 0.00 to 0.60."""
    for seed in (2, 3):
        wrecked = rig.train(f"wrecked-{seed}", rig.g0, 12, 0.3, seed)  # a learning rate 150 times too high
        sick = rig.measure(child=wrecked)
        assert sick.components.mss < 0.7 < 0.9 < healthy.components.mss
        assert refused(sick) is not None


def test_exploding_gradients_lower_their_stability_and_skip_the_update(rig):
    """The latest of fifteen micro-batches comes after the weights have grown fivefold; the judge is of two minds."""
    tensors = read_adapter(rig.g1, LORA, rig.engine.lean.model.module_shapes)
    grown = {name: 5 * value if name.endswith("lora_B") else value for name, value in tensors.items()}
    grown_folder = rig.home.adapter_dir(write_adapter(rig.home.adapters_dir, grown, LORA, "tiny"))
    examples = talk(2, 15)
    rows = rig.rows(examples)
    calm = rig.gradients(rows)
    exploding = torch.cat([calm[:-1], rig.gradients(rows[-1:], grown_folder)])
    rewards = judge_answers(Camps(rig.judge), [e.input for e in examples], [e.output for e in examples]).rewards

    def action(gradients):
        gvs = gradient_stability(micro_batch_gradients(gradients, 15), SETTINGS.noise_half)
        coherence = dimensional_coherence(gradients, rewards, DIMENSIONS).value
        return gvs.value, gate_step(RUNNING, coherence + gvs.value, SETTINGS)[1]

    before, after = action(calm), action(exploding)
    assert after[0] < 0.1 < 0.25 < before[0]
    assert (before[1], after[1]) == ("update", "skip")


def test_a_rows_gradient_is_what_training_computes(rig):
    """The sketches add up to the sketch of the trainer's own gradient of the same rows."""
    rows = rig.rows(talk(2, 5))
    found = rig.gradients(rows)
    bank = rig.engine.lean.empty_bank(1, trainable=True)
    bank.load_state_dict(0, read_adapter(rig.g1, LORA, rig.engine.lean.model.module_shapes))
    step = TrioStep(rig.engine.lean.model, bank, Lanes(1, CPU))
    sketch = Sketch(bank.master.shape[1], SETTINGS.sketch, SETTINGS.seed, CPU)
    for row, expected in zip(rows, found, strict=True):
        step.gradients([pack([Group(0, [row])], CPU)])
        assert torch.allclose(sketch(bank.grad)[0], expected, atol=1e-5)
    whole = found @ found.t()
    assert torch.equal(found, rig.gradients(rows)), "equal seeds, equal sketches"
    assert (whole.diagonal() > 0).all()


def test_a_home_is_measured_with_its_reward_model_and_the_record_says_with_what(rig, tmp_path):
    folder = reward_model_in_use(rig.home)
    assert folder is not None
    quick = HealthSettings(prompts=10, answer_tokens=4)
    plans = [HealthPlan("creative", rig.g0, None, seed=7)]
    records, reason = measure_health(rig.engine.lean, plans, folder, 0, tmp_path / "curves", quick)
    assert reason == ""
    assert [record.eval for record in records] == ["rhi", "dcs", "gvs", "mss", "cdrs", "lrps"]
    index = records[0]
    assert index.method == "measured"
    assert index.details["reward_sha"] == folder.name
    assert index.details["settings"]["noise_half"] == quick.noise_half
    assert index.details["components"] == {record.eval: record.value for record in records[1:]}
    assert list((tmp_path / "curves").glob("events*"))
    again, _ = measure_health(rig.engine.lean, plans, folder, 0, tmp_path / "again", quick)
    assert again == records, "equal adapters, settings and threads: equal figures"


def test_an_engine_that_cannot_be_measured_says_why(tmp_path):
    assert TrlEngine.lean is None
    assert measure_health(TrlEngine.lean, [], tmp_path, 0, tmp_path, SETTINGS)[0] == []
    assert "trl" in measure_health(TrlEngine.lean, [], tmp_path, 0, tmp_path, SETTINGS)[1]
    assert reward_model_in_use(make_home(tmp_path)) is None


def test_probe_prompts_are_the_same_few_of_every_category():
    found = probe_prompts(15, 1)
    assert found == probe_prompts(15, 1)
    assert found != probe_prompts(15, 2)
    assert [prompt.category for prompt in found[:5]] == sorted({prompt.category for prompt in found})
    assert len(found) == 15


def test_variants_of_an_answer_say_the_same_or_less():
    assert restated('It\'s "fine". Really.').split() == ["It’s", "“fine”.", "Really."]
    assert beginning("one two three", 1 / 3) == "one"
    assert beginning("one two three", 2 / 3) == "one two"
    assert beginning("", 1 / 3) == ""
    assert beginning("one", 2 / 3) == "one"
