"""``METADATA.json``: what an adapter folder says about itself (DESIGN section 4)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ledger.errors import LunaError
from ledger.files import write_atomic
from ledger.records import EvalRecord, GenerationRow
from ledger.rules.ages import age_name
from ledger.rules.gates import GateSettings
from ledger.rules.karma import karma_state

METADATA_FILE = "METADATA.json"
MODEL_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """The parsed `adapter_config.json` of an adapter's folder.

    Raises:
        LunaError: it is missing, not JSON, or not an object.
    """
    file = folder / CONFIG_FILE
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LunaError(
            f"there is no adapter at {folder} ({CONFIG_FILE} is missing); restore it from a backup."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise LunaError(f"{file} is not valid JSON: {error}; restore it from a backup.") from error
    if not isinstance(config, dict):
        raise LunaError(f"{file} is not a JSON object; restore it from a backup.")
    return config


CAPABILITY_MINIMUMS = {"agl_accuracy": 0.90, "role_understanding": 0.85, "tool_syntax": 0.85}
"""Accuracy that a capability without a gate must exceed before it is listed."""


def capability_minimums(gates: GateSettings) -> dict[str, float]:
    """Eval name to the accuracy it must exceed. Style drift is a fault rate and no capability."""
    return {
        "recall": gates.recall_min,
        "generalization": gates.generalization_min,
        **CAPABILITY_MINIMUMS,
    }


CAPABILITY_ITEMS = 50
"""Fewest items that a capability is measured on."""


def capabilities(evals: Iterable[EvalRecord], minimums: Mapping[str, float]) -> list[dict[str, Any]]:
    """Evals of one role that passed on at least `CAPABILITY_ITEMS` items, by name, each with its score, size and 95 %
    interval; only those with a minimum can be one."""
    return [
        {"name": score.eval, "score": score.value, "n": score.n, "interval": [score.low, score.high]}
        for score in sorted(evals, key=lambda score: score.eval)
        if score.n >= CAPABILITY_ITEMS and score.value > minimums.get(score.eval, 1.0)
    ]


def build_metadata(
    row: GenerationRow,
    *,
    n_conversations: int,
    passed: list[dict[str, Any]],
    age: int,
    karma_earned: float = 0.0,
) -> dict[str, Any]:
    """What ``METADATA.json`` says about one adapter.

    Args:
        row: the adapter's row in the ledger.
        n_conversations: how many of its training examples came from conversations.
        passed: from :func:`capabilities`.
        age: accepted ancestors of this generation.
        karma_earned: karma since the last age-up.
    """
    growth, total = _growth(karma_earned, age, row.trained_at), row.n_delta + row.n_replay
    return {
        "generation": row.gen_id,
        "lineage": row.lineage,
        "role": row.role,
        "model_file": {"name": MODEL_FILE, "sha256": row.child_sha},
        "base_sha": row.base_sha,
        "training_data": {
            "base": total - n_conversations,
            "conversations": n_conversations,
            "total_examples": total,
            "data_delta_sha": row.data_delta_sha,
            "train_sha": row.train_sha,
        },
        "karma": growth["karma"],
        "capabilities": passed,
        "trained_at": row.trained_at,
        "age": {"number": age, "name": age_name(age)},
        "next_age_up": growth["next_age_up"],
    }


def _growth(karma_earned: float, age: int, as_of: str) -> dict[str, Any]:
    """What changes while an adapter is in use."""
    karma = karma_state(karma_earned, age)
    return {
        "karma": {"earned": karma.earned, "threshold": karma.threshold, "progress": karma.progress, "as_of": as_of},
        "next_age_up": {"name": age_name(age + 1), "karma_missing": karma.missing},
    }


def update_karma(folder: Path, karma_earned: float, age: int, as_of: str) -> None:
    """Let an adapter say how much karma has been earned since it was accepted. One without metadata is left alone.

    Raises:
        LunaError: its metadata cannot be read, or the disk refuses.
    """
    if (folder / METADATA_FILE).is_file():
        write_metadata(folder, read_metadata(folder) | _growth(karma_earned, age, as_of))


def write_metadata(folder: Path, metadata: Mapping[str, Any]) -> None:
    """Write ``METADATA.json`` into an adapter folder, atomically.

    Raises:
        LunaError: if the folder is missing or the disk refuses.
    """
    if not folder.is_dir():
        raise LunaError(f"there is no adapter folder {folder}; publish the adapter before its metadata.")
    write_atomic(folder / METADATA_FILE, json.dumps(metadata, indent=2, ensure_ascii=False) + "\n")


def read_metadata(folder: Path) -> dict[str, Any]:
    """What an adapter folder says about itself.

    Raises:
        LunaError: if the file is missing or no JSON object.
    """
    path = folder / METADATA_FILE
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(metadata, ensure_ascii=False).encode()  # half a character could not be written again
    except FileNotFoundError as error:
        raise LunaError(f"{path} is missing; restore the adapter folder from a copy.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise LunaError(f"{path} cannot be read: {error}. Restore the adapter folder from a copy.") from error
    if not isinstance(metadata, dict):
        raise LunaError(f"{path} holds no JSON object. Restore the adapter folder from a copy.")
    return metadata


def contradictions(metadata: Mapping[str, Any], row: GenerationRow) -> list[str]:
    """Where the lasting fields contradict the ledger, one text a field. Karma may change later."""
    expected = {
        "generation": row.gen_id,
        "lineage": row.lineage,
        "role": row.role,
        "base_sha": row.base_sha,
        "trained_at": row.trained_at,
        "model_file.name": MODEL_FILE,
        "model_file.sha256": row.child_sha,
        "training_data.data_delta_sha": row.data_delta_sha,
        "training_data.train_sha": row.train_sha,
        "training_data.total_examples": row.n_delta + row.n_replay,
    }
    return [
        f"{field}: {value!r} in the ledger, {found!r} in the file"
        for field, value in expected.items()
        if (found := _dig(metadata, field)) != value
    ]


def _dig(metadata: Any, dotted: str) -> Any:
    for key in dotted.split("."):
        metadata = metadata.get(key) if isinstance(metadata, Mapping) else None
    return metadata
