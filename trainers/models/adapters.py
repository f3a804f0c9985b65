"""Adapters on disk, in PEFT's own format: read with every check, written under the name of their hash."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save
from torch import Tensor

from ledger.errors import LunaError
from ledger.files import explain_write_errors, publish_dir, sha256_bytes, sha256_json, temporary_beside
from ledger.metadata import CONFIG_FILE, MODEL_FILE, read_adapter_config
from ledger.roles import ROLES, Role
from trainers.config import LoraSettings
from trainers.lean.adapter_bank import TARGET_MODULES
from trainers.lean.base import LeanBase
from trainers.lean.generator import LeanGenerator
from trainers.models.adapter_set import AdapterSet

WEIGHTS, CONFIG = MODEL_FILE, CONFIG_FILE
_PREFIX, _SUFFIX = "base_model.model.model.", ".weight"


def initial_adapter(shapes: Sequence[Sequence[tuple[int, int]]], rank: int, seed: int, role: str) -> dict[str, Tensor]:
    """A fresh adapter: A uniform as PEFT's (Kaiming with a = sqrt 5, that is +-1/sqrt(in)), B zero.

    Each role draws from its own stream of `seed`, so that roles placed on other devices start the same.
    """
    generator = torch.Generator().manual_seed(int(sha256_json([seed, role, "lora-init"])[:15], 16))
    tensors: dict[str, Tensor] = {}
    for number, layer in enumerate(shapes):
        for module, (out, in_features) in zip(TARGET_MODULES, layer, strict=True):
            bound = 1 / math.sqrt(in_features)
            name = f"layers.{number}.{module}"
            tensors[f"{name}.lora_A"] = torch.empty(rank, in_features).uniform_(-bound, bound, generator=generator)
            tensors[f"{name}.lora_B"] = torch.zeros(out, rank)
    return tensors


def read_adapter(folder: Path, lora: LoraSettings, shapes: Sequence[Sequence[tuple[int, int]]]) -> dict[str, Tensor]:
    """An adapter's fp32 tensors under the bank's names, after checking that it fits this base and these settings.

    Raises:
        LunaError: a missing or broken file, another shape, scale or base, or values that are not finite.
    """
    check_shape(folder, lora.rank, lora.alpha)
    stored = read_tensors(folder)
    tensors = {name.removeprefix(_PREFIX).removesuffix(_SUFFIX): value for name, value in stored.items()}
    expected = _expected_shapes(shapes, lora.rank)
    if wrong := sorted(set(tensors) ^ set(expected)):
        raise LunaError(
            f"the adapter {folder} does not fit this base: {len(wrong)} layers differ, first {wrong[0]}; "
            "it was trained on another model."
        )
    for name, value in tensors.items():
        if tuple(value.shape) != expected[name]:
            raise LunaError(
                f"the adapter {folder} does not fit this base: {name} is {tuple(value.shape)}, "
                f"expected {expected[name]}; it was trained on another model."
            )
        if not torch.isfinite(value).all():
            raise LunaError(f"the adapter {folder} holds values that are not finite in {name}; do not use it.")
    return {name: value.float() for name, value in tensors.items()}


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of an adapter under the names in its file, unchecked.

    Raises:
        LunaError: the file is missing or broken.
    """
    try:
        return load_file(folder / WEIGHTS)
    except FileNotFoundError as error:
        raise LunaError(f"the adapter {folder} has no {WEIGHTS}; restore the folder from a backup.") from error
    except Exception as error:  # safetensors raises its own untyped error for a broken file
        raise LunaError(f"the adapter file {folder / WEIGHTS} is broken: {error}; restore it from a backup.") from error


def check_shape(folder: Path, rank: int, alpha: float) -> None:
    """Refuse an adapter of another rank or alpha than the settings: its update would be scaled to another one.

    Raises:
        LunaError: it is another one, or its config is missing.
    """
    config = read_adapter_config(folder)
    for name, wanted, found in (("rank", rank, config.get("r")), ("alpha", alpha, config.get("lora_alpha"))):
        if found != wanted:
            raise LunaError(
                f"the adapter {folder} has {name} {found}, the settings say {name} {wanted:g}. A lineage keeps its "
                f"adapters' shape: set [lora] {name} = {found} in luna.toml, or begin a new lineage "
                "(`luna init --lineage NAME`)."
            )


def lora_of(folder: Path) -> LoraSettings:
    """The shape that an adapter has, whatever the settings say today.

    Raises:
        LunaError: its config is missing, or is no adapter's.
    """
    config = read_adapter_config(folder)
    try:
        return LoraSettings(rank=config.get("r"), alpha=config.get("lora_alpha"))
    except ValidationError as error:
        raise LunaError(f"{folder / CONFIG} names no usable rank and alpha; restore it from a backup.") from error


def _expected_shapes(shapes: Sequence[Sequence[tuple[int, int]]], rank: int) -> dict[str, tuple[int, int]]:
    expected: dict[str, tuple[int, int]] = {}
    for number, layer in enumerate(shapes):
        for module, (out, in_features) in zip(TARGET_MODULES, layer, strict=True):
            expected[f"layers.{number}.{module}.lora_A"] = (rank, in_features)
            expected[f"layers.{number}.{module}.lora_B"] = (out, rank)
    return expected


def write_adapter(adapters_dir: Path, tensors: Mapping[str, Tensor], lora: LoraSettings, base: str) -> str:
    """Publish an adapter as `<adapters_dir>/<sha>/` and return the SHA-256 of its weights file.

    Args:
        base: what its config names for tools that load base and adapter together (`Base.loadable`).
    """
    named = {f"{_PREFIX}{name}{_SUFFIX}": value.detach().float().cpu().contiguous() for name, value in tensors.items()}
    return publish_tensors(adapters_dir, named, adapter_config(lora, base, TARGET_MODULES))


def adapter_config(lora: LoraSettings, base: str, target_modules: Collection[str]) -> str:
    """The text of an adapter's config over the layers of these names, as PEFT reads it.

    Args:
        base: as of :func:`write_adapter`.
    """
    from peft import LoraConfig

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,
        bias="none",
        target_modules=sorted({module.rsplit(".", 1)[-1] for module in target_modules}),
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        inference_mode=True,
    )
    return json.dumps(_plain(config.to_dict()), indent=2, sort_keys=True) + "\n"


def publish_tensors(adapters_dir: Path, tensors: Mapping[str, Tensor], config: str) -> str:
    """Publish tensors under PEFT's names with the text of their config; returns the SHA-256 of the weights file."""
    payload = save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata={"format": "pt"})
    sha = sha256_bytes(payload)
    final = adapters_dir / sha
    temporary = temporary_beside(final)
    try:
        with explain_write_errors(final):
            temporary.mkdir(parents=True)
            (temporary / WEIGHTS).write_bytes(payload)
            (temporary / CONFIG).write_text(config)
        publish_dir(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return sha


def _plain(value: Any) -> Any:
    """PEFT's config dictionary with sets as sorted lists, so that equal adapters have equal files."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return sorted(value) if isinstance(value, set) else value


def blend(parent: Mapping[str, Tensor] | None, child: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """parent + alpha (child - parent), tensor by tensor (DESIGN section 6). Without a parent, the base is: the child's
    update is scaled."""
    if parent is None:
        parent = {name: torch.zeros_like(value) if ".lora_B" in name else value for name, value in child.items()}
    return {name: parent[name] + alpha * (child[name] - parent[name]) for name in child}


def blend_files(parents: AdapterSet, children: AdapterSet, alpha: float, into: Path) -> AdapterSet:
    """Write the blend of each of the children's roles under `into`, with its child's config, unchecked; a role without
    a parent has the base for one."""
    shas: dict[Role, str] = {}
    for role in children.shas:
        parent = read_tensors(parents.path(role)) if role in parents.shas else None
        tensors = blend(parent, read_tensors(children.path(role)), alpha)
        shas[role] = publish_tensors(into, tensors, (children.path(role) / CONFIG).read_text())
    return AdapterSet(into, shas)


def lean_generator(lean: LeanBase, adapters: AdapterSet) -> LeanGenerator:
    """The base with these adapters, each checked as in :func:`read_adapter`."""
    roles = [role for role in ROLES if role in adapters.shas]
    bank = lean.empty_bank(len(roles)) if roles else None
    for slot, role in enumerate(roles):
        if bank is not None:
            bank.load_state_dict(slot, read_adapter(adapters.path(role), lean.lora, lean.model.module_shapes))
    slots = {role: slot for slot, role in enumerate(roles)}
    return LeanGenerator(lean.model, lean.tokenizer, bank, slots, lean.lanes)
