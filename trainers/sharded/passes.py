"""What is asked of a model that answers as transformers' do: log-probabilities at the answers of padded rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.lean.packing import Group, Packed, Row, pack

Forward = Callable[..., Any]


def packed(rows: Sequence[Row], device: torch.device) -> Packed:
    """Rows of one model as the losses know them: what is scored, and which row it belongs to, row after row."""
    return pack([Group(0, rows)], device, share_prefix=False)


def answer_logits(forward: Forward, rows: Sequence[Row], device: torch.device) -> Tensor:
    """(T, V) float32 logits of the rows' answer tokens, row after row: T as in :class:`Packed`."""
    width = max(len(row.tokens) for row in rows)
    ids = torch.tensor([[*row.tokens, *[0] * (width - len(row.tokens))] for row in rows], device=device)
    mask = torch.tensor([[1] * len(row.tokens) + [0] * (width - len(row.tokens)) for row in rows], device=device)
    number = [i for i, row in enumerate(rows) for _ in range(row.prompt_len, len(row.tokens))]
    before = [at - 1 for row in rows for at in range(row.prompt_len, len(row.tokens))]
    logits = forward(input_ids=ids, attention_mask=mask, use_cache=False).logits
    found: Tensor = logits[torch.tensor(number, device=device), torch.tensor(before, device=device)].float()
    return found


def target_log_probs(logits: Tensor, targets: Tensor) -> Tensor:
    """(T,) log-probability of each target token."""
    return -F.cross_entropy(logits, targets, reduction="none")


def listed_log_probs(logits: Tensor, listed: Tensor) -> Tensor:
    """(T, k + 1) log-probabilities of the (T, k) listed tokens, and of all others together.

    What is left for the others is summed up itself, as in :func:`trainers.lean.logprobs.listed_log_probs`.
    """
    others = logits.scatter(1, listed, float("-inf")).logsumexp(1, keepdim=True)
    whole = torch.cat((logits.gather(1, listed), others), 1)
    return whole - whole.logsumexp(1, keepdim=True)
