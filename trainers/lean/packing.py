"""Packing examples into one padding-free sequence in which a shared prefix stands once.

A *group* is a set of rows for one adapter slot. Rows of a group that begin with the same tokens (every prompt of a
role begins with the role's header) share that prefix: it is laid down once, and each row continues it. Attention is
causal and nothing drops out, so the prefix's states are the same for every row; computing them once is exact, and the
gradients of all rows sum through it.

Layout of the packed sequence, N tokens: for each group its prefix, then the rest of each of its rows, in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BARE = -1
"""The slot of rows that use no adapter."""


@dataclass(frozen=True)
class Row:
    """One tokenised example: `tokens[:prompt_len]` is the prompt, the rest is what the loss is on."""

    tokens: Sequence[int]
    prompt_len: int
    weight: float = 1.0


@dataclass(frozen=True)
class Group:
    """Rows that use the adapter in `slot` (-1: the bare base)."""

    slot: int
    rows: Sequence[Row]


@dataclass(frozen=True)
class Packed:
    """A packed batch: G groups, B rows, N tokens, T completion tokens, P and S the longest prefix and row rest.

    Index tensors are int64 on the device of the model.
    """

    ids: Tensor  # (N,) token ids
    positions: Tensor  # (N,) position of each token in its own row, for the rotary embedding
    slices: tuple[tuple[int, int, int], ...]  # (slot, start, end), covering 0..N in order
    group_sizes: tuple[int, ...]  # rows of each group, B in all
    prefix_width: int  # P; 0 when no group shares anything
    suffix_width: int  # S
    suffix_at: Tensor  # (tokens in row rests,) where they stand in the packed sequence
    grid_cell: Tensor  # (N,) cell of each packed token in the (B*S + G*P) concatenation of both grids
    past_width: int  # tokens before every row whose keys and values are there already
    suffix_mask: (
        Tensor | None
    )  # (B, 1, S, past + P + S) additive mask for rests; None when there is nothing before them
    score_at: Tensor  # (T,) packed positions whose next token is a completion token
    targets: Tensor  # (T,) those next tokens
    target_row: Tensor  # (T,) the row 0..B-1 that each belongs to
    row_end: Tensor  # (B,) packed position of each row's last token
    row_lens: Tensor  # (B,) tokens in each row, its prefix included
    suffix_lens: Tensor  # (B,) tokens in each row after its group's prefix
    prefix_lens: Tensor  # (B,) tokens in the prefix of each row's group
    row_slots: tuple[int, ...]  # adapter slot of each row
    row_weights: Tensor  # (B,) float32

    @property
    def tokens(self) -> int:
        return int(self.ids.numel())


def shared_prefix_len(rows: Sequence[Row]) -> int:
    """Tokens that every row begins with, at most one short of the shortest prompt.

    The last prompt token stays out of the prefix because its state predicts the row's own first answer token.
    """
    if len(rows) < 2:
        return 0
    first, limit = rows[0].tokens, min(row.prompt_len for row in rows) - 1
    length = 0
    while length < limit and all(row.tokens[length] == first[length] for row in rows):
        length += 1
    return max(length, 0)


def _own_lengths(groups: Sequence[Group]) -> list[tuple[int, Row, int]]:
    """(slot, row, its tokens after what its group shares) of every row, in order."""
    own = []
    for group in groups:
        shared = shared_prefix_len(group.rows)
        own += [(group.slot, row, len(row.tokens) - shared) for row in group.rows]
    return own


def token_count(groups: Sequence[Group]) -> int:
    """Tokens of the groups' rows without what the rows of a group share."""
    return sum(length for _, _, length in _own_lengths(groups))


def cut(groups: Sequence[Group], parts: int) -> list[list[Group]]:
    """The groups in up to `parts` pieces of about equal length in tokens, none empty, rows in their order.

    Pieces are cut from the whole sequence of rows, so that at most `parts - 1` groups stand in two, with their prefix.
    """
    rows = _own_lengths(groups)
    pieces: list[dict[int, list[Row]]] = [{} for _ in range(parts)]
    for (slot, row, _), piece in zip(rows, balanced_pieces([length for _, _, length in rows], parts), strict=True):
        pieces[piece].setdefault(slot, []).append(row)
    return [[Group(slot, own) for slot, own in piece.items()] for piece in pieces if piece]


def balanced_pieces(lengths: Sequence[int], parts: int) -> list[int]:
    """Which of `parts` pieces of about equal length each item goes into, in order: where most of it lies."""
    total, before, pieces = sum(lengths), 0, []
    for length in lengths:
        pieces.append((2 * before + length) * parts // (2 * total))
        before += length
    return pieces


def pack(groups: Sequence[Group], device: torch.device, share_prefix: bool = True, past: int = 0) -> Packed:
    """Lay the groups' rows into one sequence. Every row needs at least one prompt token.

    The first `past` tokens of every row are left out: their keys and values were computed before.
    """
    if past:
        groups = [Group(g.slot, [Row(r.tokens[past:], r.prompt_len - past, r.weight) for r in g.rows]) for g in groups]
    prefix_lens = [shared_prefix_len(group.rows) if share_prefix else 0 for group in groups]
    prefix_width = max(prefix_lens)
    suffix_width = max(len(row.tokens) - k for group, k in zip(groups, prefix_lens, strict=True) for row in group.rows)

    ids: list[int] = []
    positions: list[int] = []
    slices: list[tuple[int, int, int]] = []
    suffix_at: list[int] = []
    grid_cell: list[int] = []
    score_at: list[int] = []
    targets: list[int] = []
    target_row: list[int] = []
    row_slots: list[int] = []
    row_end: list[int] = []
    row_prefix: list[int] = []
    weights: list[float] = []
    suffix_cells = sum(len(group.rows) for group in groups) * suffix_width
    for number, (group, k) in enumerate(zip(groups, prefix_lens, strict=True)):
        start, prefix_cell = len(ids), suffix_cells + number * prefix_width
        grid_cell += range(prefix_cell, prefix_cell + k)
        ids += group.rows[0].tokens[:k]
        positions += range(past, past + k)
        for row in group.rows:
            begin, length, index = len(ids), len(row.tokens) - k, len(row_slots)
            suffix_at += range(begin, begin + length)
            grid_cell += range(index * suffix_width, index * suffix_width + length)
            ids += row.tokens[k:]
            positions += range(past + k, past + k + length)
            score_at += range(begin + row.prompt_len - k - 1, begin + length - 1)
            targets += row.tokens[row.prompt_len :]
            target_row += [index] * (len(row.tokens) - row.prompt_len)
            row_end.append(begin + length - 1)
            row_prefix.append(k)
            row_slots.append(group.slot)
            weights.append(row.weight)
        if slices and slices[-1][0] == group.slot:
            slices[-1] = (group.slot, slices[-1][1], len(ids))
        else:
            slices.append((group.slot, start, len(ids)))

    def tensor(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=device)

    sizes = tuple(len(group.rows) for group in groups)
    return Packed(
        ids=tensor(ids),
        positions=tensor(positions),
        slices=tuple(slices),
        group_sizes=sizes,
        prefix_width=prefix_width,
        suffix_width=suffix_width,
        suffix_at=tensor(suffix_at),
        grid_cell=tensor(grid_cell),
        past_width=past,
        suffix_mask=_suffix_mask(past, prefix_lens, sizes, suffix_width, device) if past + prefix_width else None,
        score_at=tensor(score_at),
        targets=tensor(targets),
        target_row=tensor(target_row),
        row_end=tensor(row_end),
        row_lens=tensor([len(row.tokens) for group in groups for row in group.rows]),
        suffix_lens=tensor([len(row.tokens) for group in groups for row in group.rows]) - tensor(row_prefix),
        prefix_lens=tensor(row_prefix),
        row_slots=tuple(row_slots),
        row_weights=torch.tensor(weights, dtype=torch.float32, device=device),
    )


def causal_mask(width: int, device: torch.device) -> Tensor:
    """(width, width) additive mask: 0 at and before a token, minus infinity after it."""
    return torch.full((width, width), float("-inf"), device=device).triu(1)


def _suffix_mask(
    past: int, prefix_lens: Sequence[int], sizes: Sequence[int], suffix_width: int, device: torch.device
) -> Tensor:
    """Each row's rest sees the past, its group's real prefix cells and, causally, itself: (B, 1, S, past + P + S)."""
    lens = past + torch.tensor(prefix_lens, device=device).repeat_interleave(torch.tensor(sizes, device=device))
    before = past + max(prefix_lens)
    seen = torch.arange(before, device=device)[None] < lens[:, None]  # (B, past + P)
    mask = torch.zeros(len(lens), 1, suffix_width, before + suffix_width, device=device)
    mask[..., :before].masked_fill_(~seen[:, None, None], float("-inf"))
    mask[..., before:] = causal_mask(suffix_width, device)
    return mask
