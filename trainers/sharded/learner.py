"""What is trained: one role's PEFT adapter over the frozen base, or the whole base; made, and published."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ledger.errors import LunaError
from ledger.files import explain_write_errors, publish_dir, sha256_json, temporary_beside
from ledger.roles import Role
from ledger.verification.weights import weights_sha
from trainers.config import LoraSettings
from trainers.models.adapters import adapter_config, check_shape, publish_tensors, read_tensors
from trainers.models.frozen import Base, load_base
from trainers.sharded.placement import blocks_of, trainable

_PEFT_NAME = ".default"
"""PEFT puts the adapter's name into those of its tensors in a model, and leaves it out in a file."""


def adapted(base: Base, dtype: torch.dtype, lora: LoraSettings) -> Any:
    """The base with an adapter on every linear layer of its decoder, in float32; its values come next."""
    from peft import LoraConfig, get_peft_model

    model, _ = load_base(base.path, dtype, None)
    targets = {"target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    return get_peft_model(model, LoraConfig(r=lora.rank, lora_alpha=lora.alpha, **targets))


def whole(base: Base, dtype: torch.dtype) -> Any:
    """The base with every weight in training."""
    return load_base(base.path, dtype, None)[0].requires_grad_(True)


@torch.no_grad()
def begin_adapter(model: Any, role: Role, seed: int) -> None:
    """Draw a fresh adapter from the role's own stream of `seed`: A as PEFT does, B zero.

    Of a Llama or Qwen2 it has the numbers of :func:`trainers.models.adapters.initial_adapter`.
    """
    generator = torch.Generator().manual_seed(int(sha256_json([seed, role, "lora-init"])[:15], 16))
    for name, parameter in trainable(model).items():
        if "lora_A" in name:
            bound = 1 / math.sqrt(parameter.shape[1])
            parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))
        else:
            parameter.zero_()


@torch.no_grad()
def take_adapter(model: Any, folder: Path, lora: LoraSettings) -> None:
    """Copy a published adapter's values into the model's.

    Raises:
        LunaError: it is missing or broken, of another shape or base, or holds values that are not finite.
    """
    check_shape(folder, lora.rank, lora.alpha)
    stored = read_tensors(folder)
    own = {name.replace(_PEFT_NAME, ""): parameter for name, parameter in trainable(model).items()}
    wrong = sorted(stored.keys() ^ own.keys())
    wrong += [name for name, value in stored.items() if name in own and value.shape != own[name].shape]
    if wrong:
        raise LunaError(
            f"the adapter {folder} does not fit this base: {len(wrong)} tensors differ, first {wrong[0]}; "
            "it was trained on another model."
        )
    for name, value in stored.items():
        if not torch.isfinite(value).all():
            raise LunaError(f"the adapter {folder} holds values that are not finite in {name}; do not use it.")
        own[name].copy_(value)


def publish_adapter(adapters_dir: Path, masters: Mapping[str, Tensor], lora: LoraSettings, base: str) -> str:
    """Write an adapter as every other engine does; returns its SHA."""
    tensors = {name.replace(_PEFT_NAME, ""): value for name, value in masters.items()}
    layers = {name.split(".lora_")[0] for name in tensors}
    return publish_tensors(adapters_dir, tensors, adapter_config(lora, base, layers))


def publish_whole(models_dir: Path, masters: Mapping[str, Tensor], base: Base) -> Base:
    """Write a trained base as `<models_dir>/<sha>`, in its parent's number format and with its parent's tokenizer."""
    temporary = temporary_beside(models_dir / "new")
    try:
        model, _ = load_base(base.path, "auto", None)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(masters[name])
        with explain_write_errors(models_dir):
            shutil.copytree(base.path, temporary, ignore=shutil.ignore_patterns("*.safetensors", "*.index.json"))
            model.save_pretrained(temporary)
        sha = weights_sha(temporary)
        return Base(str(models_dir / sha), sha, publish_dir(temporary, models_dir / sha))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def keep_no_states(model: Any) -> None:
    """Let each block compute its states again in the backward: `gradient_checkpointing`.

    transformers does so in training alone, and dropout stays off: only the blocks' own flag is set, not their parts'.
    """
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for block in blocks_of(model):
        block.training = True
