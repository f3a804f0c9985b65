"""The hash that names a base."""

from __future__ import annotations

from pathlib import Path

from ledger.errors import LunaError
from ledger.files import sha256_file, sha256_json


def weights_sha(folder: Path) -> str:
    """SHA-256 of a base's weights: over the canonical JSON of ``{file name: sha256 of the file}``.

    Only the ``*.safetensors`` files directly in ``folder`` count, so a changed tokenizer or README keeps the
    name.

    Raises:
        LunaError: if the folder is missing or holds no such file.
    """
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    if not files:
        raise LunaError(
            f"{folder} holds no *.safetensors weights. Point to a folder saved with save_pretrained, "
            "or fetch the base again."
        )
    return sha256_json({file.name: sha256_file(file) for file in files})
