"""Whether an adapter may be given to the serving engine.

vLLM 0.32 answers 200 for several adapters that do not fit its base, and one that holds a NaN spoils the answers of
others. So every adapter is read whole and held against the base's own tensor shapes before vLLM hears of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ledger.errors import LunaError
from ledger.files import sha256_file
from ledger.metadata import CONFIG_FILE, MODEL_FILE, read_adapter_config

_PREFIX = "base_model.model."
_FACTORS = {".lora_A.weight": "A", ".lora_B.weight": "B"}

Shape = tuple[int, ...]

TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The layers that an adapter may change: those that the engines are tested with (`cpu_lora` relies on it)."""


def base_shapes(folder: Path) -> dict[str, Shape]:
    """Shape of every tensor in a base's `*.safetensors`, from the files' headers alone."""
    from safetensors import safe_open

    shapes: dict[str, Shape] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            # keys(): what safe_open gives is no mapping and cannot be iterated.
            shapes |= {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    return shapes


def check_adapter(folder: Path, base: Mapping[str, Shape], max_rank: int) -> None:
    """Refuse an adapter that the engine could not serve rightly.

    Args:
        folder: `models/adapters/<sha>`; its name must be the SHA-256 of its weights file.
        base: from :func:`base_shapes`.
        max_rank: the largest rank that the engine has room for.

    Raises:
        LunaError: a file is missing or broken, the bytes are not those of the name, the rank is too large or not that
            of the tensors, a layer or shape is not the base's, or a value is not finite.
    """
    short = folder.name[:12]
    config = read_adapter_config(folder)
    rank, targets = config.get("r"), config.get("target_modules")
    if config.get("peft_type") != "LORA" or not isinstance(rank, int):
        raise LunaError(f"{folder / CONFIG_FILE} is not a LoRA config with a rank; restore it from a backup.")
    if rank > max_rank:
        raise LunaError(
            f"the adapter {short} has rank {rank}, the engine has room for {max_rank}; "
            "set [serving] max_lora_rank higher and start `luna serve` again."
        )
    factors: dict[str, set[str]] = {}
    for name, value in _tensors(folder).items():
        module, factor = _module(short, name)
        if module.rsplit(".", 1)[-1] not in TARGET_MODULES:
            raise LunaError(f"the adapter {short} changes {module}; only {', '.join(TARGET_MODULES)} are served.")
        shape = base.get(f"{module}.weight")
        if shape is None:
            raise LunaError(f"the adapter {short} changes {module}, which this base lacks; it is of another base.")
        if isinstance(targets, list) and module.rsplit(".", 1)[1] not in targets:
            raise LunaError(f"the adapter {short} changes {module}, which its {CONFIG_FILE} does not name.")
        wanted = (rank, shape[1]) if factor == "A" else (shape[0], rank)
        if tuple(value.shape) != wanted:
            raise LunaError(
                f"the adapter {short} does not fit this base: {name} is {tuple(value.shape)}, expected {wanted}; "
                f"it is of another base, or its rank is not {rank}."
            )
        if not bool(value.isfinite().all()):
            raise LunaError(f"the adapter {short} holds values that are not finite in {name}; do not serve it.")
        factors.setdefault(module, set()).add(factor)
    if half := sorted(module for module, found in factors.items() if len(found) == 1):
        raise LunaError(f"the adapter {short} has only one of two matrices for {half[0]}; restore it from a backup.")


def _tensors(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    weights = folder / MODEL_FILE
    if not weights.exists():
        raise LunaError(f"the adapter {folder} has no {MODEL_FILE}; restore the folder from a backup.")
    if (found := sha256_file(weights)) != folder.name:
        raise LunaError(f"{weights} was changed: its SHA-256 is {found[:12]}; restore it from a backup.")
    try:
        return dict(load_file(weights))
    except Exception as error:  # safetensors raises its own untyped error for a broken file
        raise LunaError(f"{weights} is broken: {error}; restore it from a backup.") from error


def _module(short: str, name: str) -> tuple[str, str]:
    for suffix, factor in _FACTORS.items():
        if name.startswith(_PREFIX) and name.endswith(suffix):
            return name.removeprefix(_PREFIX).removesuffix(suffix), factor
    raise LunaError(f"the adapter {short} holds {name}, which is not a LoRA matrix; it cannot be served.")
