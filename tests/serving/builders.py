"""A home with a tiny base and generations whose adapters answer differently, made without training."""

from __future__ import annotations

import socket
from pathlib import Path

import torch

from ledger.home import Home
from ledger.roles import ROLES
from ledger.store import Ledger
from tests.ledger.builders import by_role, make_move, make_row
from tests.trainers.builders import CPU, LORA, reward_labels, tiny_base, tiny_encoder
from trainers.config import RewardSettings
from trainers.lean.model import LeanModel
from trainers.models.adapters import initial_adapter, write_adapter
from trainers.models.frozen import load_base
from trainers.reward.model import make_current
from trainers.reward.rows import pairs_of_labels, reward_rows
from trainers.reward.train import train_reward_model

PROMPTS = ("Hello there.", "7 is even?", "What if the sun were blue?")
TOKENS = 10


def whole(text):
    """Random adapters cut characters anywhere; vLLM leaves a last half character out, Hugging Face marks it."""
    return text.rstrip("\N{REPLACEMENT CHARACTER}")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def loud_adapter(home: Home, shapes, seed: int) -> str:
    """An adapter of random matrices, strong enough that its greedy text is its own."""
    torch.manual_seed(seed)
    tensors = initial_adapter(shapes, LORA.rank, seed, "logical")
    tensors = {name: torch.randn_like(value) * 0.1 for name, value in tensors.items()}
    return write_adapter(home.adapters_dir, tensors, LORA, tiny_base(home).loadable)


def site_shapes(home: Home):
    return LeanModel(load_base(tiny_base(home).path, torch.float32, CPU)[0]).module_shapes


def make_home(root: Path, generations: int = 3) -> Home:
    """G0, G1, ... accepted one after another; the head is the last."""
    home = Home(root).create()
    base = tiny_base(home)
    shapes = site_shapes(home)
    home.settings_file.write_text('profile = "tiny"\n')
    with Ledger.create(home) as ledger:
        ledger.create_lineage("main", base.sha)
        for gen in range(generations):
            shas = {role: loud_adapter(home, shapes, 10 * gen + i) for i, role in enumerate(ROLES)}
            add_adapters(ledger, gen, gen - 1 if gen else None, shas, base.sha)
    return home


def add_adapters(ledger: Ledger, gen: int, parent: int | None, shas, base_sha: str) -> None:
    """Record a generation with these adapters as accepted."""

    before = None if parent is None else by_role(ledger.generation(parent))
    rows = [
        make_row(
            gen_id=gen,
            role=role,
            child_sha=shas[role],
            base_sha=base_sha,
            parent_gen=parent,
            parent_sha=before[role].child_sha if before else base_sha,
            run_id=f"run-{gen}",
        )
        for role in ROLES
    ]
    ledger.record_judgement(rows, [], make_move(ledger.head(), gen), None)


def use_reward_model(home: Home, folder: Path, seed: int = 1) -> str:
    """Train a small reward model that tells kind from harsh answers, put it to use, and return its SHA."""
    encoder = folder if folder.exists() else tiny_encoder(folder)
    settings = RewardSettings(encoder=str(encoder), blocks=(1,), steps=20, hidden_size=16, threads=1)
    labels = reward_labels(prompts=20)
    rows = reward_rows(labels, pairs_of_labels(labels))
    saved = train_reward_model(rows, settings, seed, home.rewards_dir, home.run_dir(f"reward-{seed}"), {})
    make_current(home, saved)
    return saved.name


def end_coordinator() -> None:
    """Let a test write the ledger itself; the gateway finds the coordinator's successor when it needs one."""
    import ray

    from cluster.calls import get as ask
    from cluster.client.coordinator import find_coordinator

    if coordinator := find_coordinator():
        ask(coordinator.close.remote())
        ray.kill(coordinator, no_restart=True)
