"""What a home asks for: its settings, its base's shape, and how long the rows are that wait in its inbox."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cluster.plan.shape import BaseShape
from cluster.plan.wanted import RoleRows, ServingShare, Shards, Strategy, Wanted
from cluster.settings import Settings
from curriculum.example import Example
from curriculum.parquet import read_examples
from ledger.errors import LunaError
from ledger.home import Home
from ledger.roles import ROLES, Role
from trainers.data import tokenise
from trainers.lean.model import why_unsupported
from trainers.lean.packing import shared_prefix_len
from trainers.models.frozen import Base
from trainers.schedule import steps_for

_SAMPLE, _LONGEST = 100, 50
"""Rows of a role that are tokenised: some from all over its data, and those with the longest texts."""


def wanted_of(home: Home, settings: Settings, base: Base) -> Wanted:
    """What the next generation of a home would train, as far as the inbox tells.

    Raises:
        LunaError: the base or an inbox file cannot be read.
    """
    config = _config_of(base)
    train = settings.train
    unsupported = why_unsupported(SimpleNamespace(**config))
    engine = train.engine if train.engine != "auto" else "trl" if unsupported else "fused"
    return Wanted(
        shape=BaseShape.of_config(config),
        rank=settings.lora.rank,
        roles=_rows_of_roles(home, settings, base),
        dtype=train.dtype,
        parts=train.gradient_accumulation_steps,
        engine=engine,
        strategy=train.sharded.strategy,
        offload_param=train.sharded.offload_param,
        else_sharded=shards_of(settings),
        gradient_checkpointing=train.gradient_checkpointing,
        base_bits=16 if train.quantize == "none" else 4,
    )


def shards_of(settings: Settings) -> tuple[Shards, ...]:
    """What the sharded engine may do where no other fits: nothing where the settings name an engine, or ask for what it
    has not. In parts without DeepSpeed unless the settings name its strategy; in the cards first, then in memory."""
    train, own = settings.train, settings.train.sharded
    online_health = settings.channels.mode == "dual" and settings.health.online_every
    if train.engine != "auto" or train.quantize != "none" or online_health:
        return ()
    strategy: Strategy = "zero3" if own.strategy == "zero3" else "fsdp2"
    return tuple(Shards(strategy, offload) for offload in (False, True) if offload or not own.offload_param)


def serving_of(settings: Settings) -> ServingShare:
    """What the engine takes of the rig where it is served."""
    return ServingShare(settings.serving.replicas, settings.serving.gpu_memory_utilization)


def _config_of(base: Base) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((Path(base.path) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LunaError(
            f"the base at {base.path} has no readable config.json; run `luna init` to prepare it."
        ) from error
    return found


def _rows_of_roles(home: Home, settings: Settings, base: Base) -> tuple[RoleRows, ...]:
    examples = [one for path in sorted(home.inbox_dir.glob("*.parquet")) for one in read_examples(path)]
    tokenizer = _tokenizer(base) if examples else None
    return tuple(
        _rows_of_role(role, [one for one in examples if one.role == role], tokenizer, settings) for role in ROLES
    )


def _tokenizer(base: Base) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base.path, local_files_only=True)


def _rows_of_role(role: Role, examples: Sequence[Example], tokenizer: Any, settings: Settings) -> RoleRows:
    """Without data rows as long as they may be at most, of which the answer has its room, in an unknown number."""
    train, text = settings.train, settings.text
    pairs = settings.channels.pairs_of(role) if settings.channels.mode == "dual" else 0
    steps = train.steps_of(role)
    if not examples:
        longest, answer = text.max_tokens, text.answer_tokens
        return RoleRows(role, train.batch_size_of(role), longest, longest, answer, 0, pairs, steps or 0)
    rows = [tokenise(tokenizer, example, text) for example in _sample(examples)]
    average = rows[: min(_SAMPLE, len(rows))]
    data = settings.data
    trained = len(examples) * (1 - data.holdout_percent / 100) * train.epochs / (1 - data.replay_share)
    return RoleRows(
        role,
        train.batch_size_of(role),
        sum(len(row.tokens) for row in average) / len(average),
        max(len(row.tokens) for row in rows),
        sum(len(row.tokens) - row.prompt_len for row in average) / len(average),
        shared_prefix_len(rows),
        pairs,
        steps or steps_for(int(trained), train.batch_size_of(role)),
    )


def _sample(examples: Sequence[Example]) -> list[Example]:
    """Some spread evenly, then those with the longest texts."""
    every = max(1, len(examples) // _SAMPLE)
    spread = list(examples[::every][:_SAMPLE])
    long = sorted(examples, key=lambda one: -len(one.context) - len(one.input) - len(one.output))[:_LONGEST]
    return [*spread, *long]
