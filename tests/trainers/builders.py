"""Small bases, examples and jobs that the trainer tests share."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from curriculum.example import Example, make_example
from curriculum.parquet import freeze
from curriculum.preferences.pairs import Preference, freeze_preferences, make_preference
from curriculum.reward import DIMENSIONS, RewardOutput, TeacherLabel
from ledger.home import Home
from ledger.roles import ROLES, Role
from ledger.verification.weights import weights_sha
from trainers.config import ChannelSettings, FrozenModelSettings, LoraSettings, TrainSettings
from trainers.job import Engine, TrioJob
from trainers.models.frozen import Base, prepare_base
from trainers.models.tiny import byte_tokenizer
from trainers.schedule import share_of_step

CPU = torch.device("cpu")
LORA = LoraSettings(rank=8, alpha=16)


def make_home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").create()


def tiny_base(home: Home) -> Base:
    return prepare_base(FrozenModelSettings(source="tiny"), home)


def random_base(folder: Path, family: str) -> Base:
    """A random two-layer model of a family, with every weight (biases too) away from its neutral value."""
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = byte_tokenizer()
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer) + 7,  # Qwen2's tokenizer adds a token of its own when it is loaded
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "eos_token_id": tokenizer.eos_token_id,
    }
    if family == "llama3-rope":
        scaling = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0}
        scaling |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
        shape |= {"rope_parameters": scaling | {"original_max_position_embeddings": 64}, "tie_word_embeddings": False}
        family = "llama"
    config = AutoConfig.for_model(family, **shape)
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Base(str(folder), weights_sha(folder), folder)


def sums(role: Role, count: int, offset: int = 0) -> list[Example]:
    """Easy closed questions: is a + b even?"""
    numbers = range(offset, offset + count)
    return [
        make_example(
            role=role,
            stage="fundamentals",
            category="agl/comparison",
            kind="pure",
            input=f"{i} + {i * 7 % 10} even?",
            output="●" if (i + i * 7 % 10) % 2 == 0 else "⊥",
            source="test",
        )
        for i in numbers
    ]


TOPICS = ("rain", "bread", "trains", "moss", "clocks", "salt", "doors", "kites", "ink", "wool", "stones", "bells")
WARM, CURT = ("Gladly", "Warmly", "Kindly"), ("Coldly", "Hardly", "Rudely")
ASKED = ("what of {}?", "tell me about {}", "why {}?", "{} and I", "do you like {}?")


def tastes(role: Role, count: int = len(TOPICS) * len(ASKED), weight: float = 1.0) -> list[Preference]:
    """Pairs in which the warm answer is preferred, whatever the prompt is about; both answers are equally long."""
    return [
        make_preference(
            role=role,
            prompt=asked.format(topic),
            chosen=f"{WARM[i % 3]}, {topic}.",
            rejected=f"{CURT[i // 3 % 3]}, {topic}.",
            margin=1.0,
            origin="imported",
            weight=weight,
        )
        for i, (topic, asked) in enumerate(itertools.product(TOPICS, ASKED))
    ][:count]


def make_job(
    home: Home,
    *,
    steps: int | Mapping[Role, int] = 8,
    parents: Mapping[Role, str | None] | None = None,
    roles: Sequence[Role] = ROLES,
    examples: Sequence[Example] | None = None,
    run: str = "run",
    seed: int = 7,
    pairs: Sequence[Preference] | None = None,
    channels: Mapping[str, Any] | None = None,
    **train: Any,
) -> TrioJob:
    """A job whose steps take the examples thinned evenly, or over again; those of weight 0 stand between them."""
    chosen = examples if examples is not None else [e for role in roles for e in sums(role, 40)]
    settings = TrainSettings(**({"lr": 2e-3, "batch_size": 4, "dtype": "float32"} | train))
    role_steps = {role: steps if isinstance(steps, int) else steps[role] for role in roles}
    rows: list[Example] = []
    for role in roles:
        own = [e for e in chosen if e.role == role and e.weight > 0]
        weightless = [e for e in chosen if e.role == role and not e.weight]
        batch_size = settings.batch_size_of(role)
        taken = [e for s in range(role_steps[role]) for e in share_of_step(own, s, role_steps[role], batch_size)]
        rows += [*weightless[:1], *taken[:3], *weightless[1:], *taken[3:]]
    return TrioJob(
        roles=tuple(roles),
        parents=parents if parents is not None else dict.fromkeys(roles),
        train_file=str(home.data_file(freeze(rows, home))),
        role_steps=role_steps,
        adapters_dir=str(home.adapters_dir),
        run_dir=str(home.run_dir(run)),
        seed=seed,
        train=settings,
        lora=LORA,
        channels=ChannelSettings(**({"mode": "dual"} | dict(channels or {})))
        if pairs is not None
        else ChannelSettings(),
        preference_file=None if pairs is None else str(home.data_file(freeze_preferences(pairs, home))),
    )


KIND = ["I hear you, that sounds heavy.", "You could choose a small step.", "What would help you now?"]
HARSH = ["Stop whining.", "Nobody cares about you.", "You must get over it!"]


def quietly(engine: Engine, job: TrioJob) -> dict[Role, str]:
    """Train without a word; returns each role's adapter."""
    outcome = engine.train(job, lambda _: None, lambda: False)
    return {role: result.adapter_sha for role, result in outcome.roles.items()}


def tiny_encoder(folder: Path, width: int = 32, blocks: int = 2) -> Path:
    """A random BERT of a few blocks over bytes, in Hugging Face's format."""
    from transformers import BertConfig, BertModel

    tokenizer = byte_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=blocks,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=256,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def reward_labels(prompts: int = 40, answers: int = 3, seed: int = 1) -> list[TeacherLabel]:
    """Answers of kind and harsh sentences; every value rises with the share of kind ones."""
    draw = random.Random(seed)
    found = []
    for number in range(prompts):
        for answer in range(answers):
            kind = answer / (answers - 1)
            sentences = [draw.choice(KIND if draw.random() < kind else HARSH) for _ in range(4)]
            value = 2 * sum(sentence in KIND for sentence in sentences) / 4 - 1
            reward = dict.fromkeys((*DIMENSIONS, "safety_score"), value) | {"reward_intensity": (value + 1) / 2}
            found.append(
                TeacherLabel(
                    prompt_id=f"p{number}",
                    category="agency",
                    prompt=f"Question {number}: what now?",
                    response=" ".join(sentences),
                    reward=RewardOutput(**reward),
                )
            )
    return found
