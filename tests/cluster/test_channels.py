"""The second channel's part of the mix: what a reward model weighs, what is left out, what is frozen."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch

from cluster.request import GenerationRequest, PinnedBase
from cluster.settings import Settings
from cluster.steps.planning import plan_of
from cluster.steps.preferences import prepare_channels
from cluster.steps.records import ChannelFiles, Collected
from cluster.steps.replaying import Earlier
from curriculum.conversations.lessons import CORRECTED, LIKED, LIKED_UNSCORED, REWARDED
from curriculum.example import make_example
from curriculum.parquet import NewData
from curriculum.preferences.pairs import freeze_preferences, make_preference, read_preference_set
from curriculum.reward import DIMENSIONS, RewardOutput, TeacherLabel, example_weight
from curriculum.reward.scores import read_scores
from curriculum.split import split_by_group
from ledger.home import Home
from ledger.roles import ROLES
from tests.cluster.builders import even_numbers
from trainers.config import RewardSettings
from trainers.models.tiny import byte_tokenizer
from trainers.reward.model import load_reward_model, make_current
from trainers.reward.rows import pairs_of_labels, reward_rows
from trainers.reward.train import train_reward_model

pytestmark = pytest.mark.slow

KIND = ["I hear you, that sounds heavy.", "You could choose a small step.", "What would help you now?"]
HARSH = ["Stop whining.", "Nobody cares about you.", "You must get over it!"]


@pytest.fixture(scope="module")
def with_model(tmp_path_factory):
    """A home whose small reward model has learned that harsh answers are unsafe."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("encoder")
    tokenizer = byte_tokenizer()
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=256, **shape)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    home = Home(tmp_path_factory.mktemp("weighed") / "home").create()
    draw, labels = random.Random(1), []
    for number in range(30):
        for kind in (0.0, 0.5, 1.0):
            sentences = [draw.choice(KIND if draw.random() < kind else HARSH) for _ in range(4)]
            value = 2 * sum(sentence in KIND for sentence in sentences) / 4 - 1
            reward = dict.fromkeys((*DIMENSIONS, "safety_score"), value) | {"reward_intensity": (value + 1) / 2}
            labels.append(
                TeacherLabel(
                    prompt_id=f"p{number}", category="agency", prompt=f"Question {number}: what now?",
                    response=" ".join(sentences), reward=RewardOutput(**reward),
                )
            )  # fmt: skip
    settings = RewardSettings(encoder=str(folder), blocks=(1,), steps=40, hidden_size=16, threads=1)
    rows = reward_rows(labels, pairs_of_labels(labels))
    make_current(home, train_reward_model(rows, settings, 1, home.rewards_dir, home.run_dir("r"), {}))
    return home


def talk(role, number, answer):
    return make_example(
        role=role, stage="conversations", category="chat", kind="hybrid", input=f"Question {number}: what now?",
        output=answer,
    )  # fmt: skip


def a_request(preferences="", mode="dual"):
    settings = Settings.model_validate({"channels": {"mode": mode}})
    base = PinnedBase(source="tiny", sha="a" * 64)
    return GenerationRequest(settings=settings, base=base, data=(), preferences=preferences)


def pairs(origin, chosen, provenance="{}"):
    return [
        make_preference(
            role=role,
            prompt=f"Question {i}?",
            chosen=chosen[i % len(chosen)],
            rejected="No.",
            margin=1.0,
            origin=origin,
            provenance=provenance,
        )
        for role in ROLES
        for i in range(40)
    ]


def collected(home, every=()):
    """What was collected, as far as the channels are concerned."""
    split = split_by_group([], list(every), 20)
    shas = [freeze_preferences(part, home) if part else "" for part in (split.train_pairs, split.holdout_pairs)]
    return Collected(
        parent=None, collected_sha="f" * 64, n_new=0, n_held_out=0, pairs_sha=shas[0], held_out_pairs_sha=shas[1]
    )


def test_examples_alone_need_none_of_it(with_model):
    assert prepare_channels(with_model, a_request(mode="sft"), collected(with_model), []).files == ChannelFiles()


def test_conversations_are_weighed_and_puzzles_are_not(with_model):
    home, talks = with_model, [talk("logical", 1, " ".join(KIND)), talk("creative", 2, " ".join(HARSH))]
    found = prepare_channels(home, a_request(), collected(home), [*even_numbers(0, 3), *talks])
    assert set(found.weights) == {e.id for e in talks}
    model = load_reward_model(home.reward_dir(found.files.reward_sha))
    for example, score in zip(talks, model.score([e.input for e in talks], [e.output for e in talks]), strict=True):
        assert found.weights[example.id] == pytest.approx(example_weight(score.reward_intensity, score.safety_score))
        stored = read_scores(home.data_file(found.files.rewards_sha))[example.id]
        assert stored == pytest.approx(score.values())
    assert found.weights[talks[1].id] == 0.0 < found.weights[talks[0].id]


def test_lessons_that_were_weighed_when_they_were_made_are_not_weighed_again(with_model):
    home, words = with_model, " ".join(HARSH)
    own = {
        source: dataclasses.replace(talk("logical", number, words), source=source, weight=0.5)
        for number, source in enumerate((CORRECTED, LIKED, LIKED_UNSCORED, REWARDED))
    }
    found = prepare_channels(home, a_request(), collected(home), list(own.values()))
    assert [found.weights[example.id] for example in own.values()] == [1.0, 1.0, 0.0, 1.0], (
        "only the liked answer that no model had judged yet passes the gate now"
    )


def test_an_unsafe_example_leaves_the_training_set_as_it_would_be_without_it(with_model):
    home = with_model
    safe = [talk("logical", i, " ".join([*KIND, *KIND[: i % 3]])) for i in range(12)]
    unsafe = [talk("logical", 50, " ".join(HARSH)), talk("creative", 51, " ".join(reversed(HARSH)))]
    plans = []
    for examples in ([*even_numbers(0, 20), *safe, *unsafe], [*even_numbers(0, 20), *safe]):
        found = prepare_channels(home, a_request(), collected(home), examples)
        plans.append(plan_of(a_request().settings, NewData(examples, []), found.weights, Earlier(), {}))
        assert plans[-1].schedules["creative"].n_delta == 20
    assert plans[0] == plans[1]
    weights = {e.id: e.weight for e in plans[0].rows}
    assert all(0.0 < weights[e.id] <= 1.0 for e in safe)
    assert all(weights[e.id] == 1.0 for e in even_numbers(0, 20))


def test_pairs_are_split_by_prompt_weighed_and_frozen(with_model):
    home = with_model
    every = [
        *pairs("imported", KIND),
        *pairs("valence", HARSH),
        *pairs("rules", ["Yes."], '{"teacher": "rules"}'),
        *pairs("correction", HARSH[:1]),
    ]
    found = prepare_channels(home, a_request(), collected(home, every), even_numbers(0, 2))
    train, held_out = (
        read_preference_set(home.data_file(getattr(found.files, n))) for n in ("pref_sha", "pref_holdout_sha")
    )
    assert len(train) + len(held_out) == len(every)
    assert not {pair.prompt for pair in train} & {pair.prompt for pair in held_out}
    weights = {pair.origin: max(p.weight for p in train if p.origin == pair.origin) for pair in train}
    assert weights["valence"] == 0.0 < weights["imported"]
    assert weights["rules"] == 1.0, "its weight came from the judge's own label"
    assert weights["correction"] == 1.0, "no model weighs what the user wrote instead"
    assert found.files.rewards_sha == ""


def test_without_a_reward_model_or_pairs_it_says_so_and_goes_on(tmp_path, caplog):
    home = Home(tmp_path / "bare").create()
    caplog.set_level("INFO", "cluster")
    found = prepare_channels(home, a_request(), collected(home), even_numbers(0, 2))
    assert found.weights == {}
    assert found.files == ChannelFiles()
    assert any("no reward model" in line for line in caplog.messages)
    assert any("examples get the whole weight" in line for line in caplog.messages)
