"""Packing examples into one padding-free sequence in which a shared prefix stands once.

A *group* is a set of rows for one adapter slot. Rows of a group that begin with the same tokens (every prompt of a
role begins with the role's header) share that prefix: it is laid down once, and each row continues it. Attention is
causal and nothing drops out, so the prefix's states are the same for every row; computing them once is exact, and the
gradients of all rows sum through it.

Layout of the packed sequence, N tokens: for each group its prefix, then the suffix of each of its rows, in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

BARE = -1
"""The slot of rows that use no adapter."""


@dataclass(frozen=True)
class Likeliest:
    """What a model held for likely at n places: k different tokens of each, and all others together."""

    ids: Tensor  # (n, k) int64
    log_probs: Tensor  # (n, k + 1) float32, the last of all others


@dataclass(frozen=True)
class Row:
    """One tokenised example: `tokens[:prompt_len]` is the prompt, the rest is what the loss is on."""

    tokens: Sequence[int]
    prompt_len: int
    weight: float = 1.0
    parent: Likeliest | None = None
    """Of a replayed row that is held to its parent: what that expects at each token of the answer."""


@dataclass(frozen=True)
class Group:
    """Rows that use the adapter in `slot` (-1: the bare base)."""

    slot: int
    rows: Sequence[Row]


@dataclass(frozen=True)
class Packed:
    """A packed batch: G groups, B rows, N tokens, T completion tokens, P and S the longest prefix and suffix.

    Index tensors are int64 on the device of the model.
    """

    ids: Tensor  # (N,) token ids
    positions: Tensor  # (N,) position of each token in its own row, for the rotary embedding
    slices: tuple[tuple[int, int, int], ...]  # (slot, start, end), covering 0..N in order
    group_sizes: tuple[int, ...]  # rows of each group, B in all
    prefix_width: int  # P; 0 when no group shares anything
    suffix_width: int  # S
    suffix_at: Tensor  # (tokens in suffixes,) where they stand in the packed sequence
    grid_cell: Tensor  # (N,) cell of each packed token in the (B*S + G*P) concatenation of both grids
    past_width: int  # tokens before every row whose keys and values are there already
    suffix_mask: Tensor | None  # (B, 1, S, past + P + S) additive mask for suffixes; None with nothing before them
    score_at: Tensor  # (T,) packed positions whose next token is a completion token
    targets: Tensor  # (T,) those next tokens
    target_row: Tensor  # (T,) the row 0..B-1 that each belongs to
    row_end: Tensor  # (B,) packed position of each row's last token
    row_lens: Tensor  # (B,) tokens in each row, its prefix included
    suffix_lens: Tensor  # (B,) tokens in each row after its group's prefix
    prefix_lens: Tensor  # (B,) tokens in the prefix of each row's group
    row_slots: tuple[int, ...]  # adapter slot of each row
    row_weights: Tensor  # (B,) float32
    parent_at: Tensor  # (K,) places among the T completion tokens of what the parent is known to expect
    parent: Likeliest | None  # at those places; None without any

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
        groups = [
            Group(g.slot, [replace(r, tokens=r.tokens[past:], prompt_len=r.prompt_len - past) for r in g.rows])
            for g in groups
        ]
    prefix_lens = [shared_prefix_len(group.rows) if share_prefix else 0 for group in groups]
    sequence = _Sequence(groups, prefix_lens, past)
    for number in range(len(groups)):
        sequence.add_group(number)
    return sequence.on(device)


class _Sequence:
    """A packed batch in the making: one list for each index tensor of :class:`Packed`."""

    def __init__(self, groups: Sequence[Group], prefix_lens: Sequence[int], past: int):
        self.groups, self.prefix_lens, self.past = groups, prefix_lens, past
        self.prefix_width = max(prefix_lens)
        self.suffix_width = max(
            len(row.tokens) - shared for group, shared in zip(groups, prefix_lens, strict=True) for row in group.rows
        )
        self.group_sizes = tuple(len(group.rows) for group in groups)
        self.slices: list[tuple[int, int, int]] = []
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.suffix_at: list[int] = []
        self.grid_cell: list[int] = []
        self.score_at: list[int] = []
        self.targets: list[int] = []
        self.target_row: list[int] = []
        self.row_end: list[int] = []
        self.row_prefix: list[int] = []
        self.row_slots: list[int] = []

    def add_group(self, number: int) -> None:
        """Lay down a group's prefix, then what each of its rows has of its own."""
        group, shared, start = self.groups[number], self.prefix_lens[number], len(self.ids)
        prefix_cell = sum(self.group_sizes) * self.suffix_width + number * self.prefix_width
        self.grid_cell += range(prefix_cell, prefix_cell + shared)
        self.ids += group.rows[0].tokens[:shared]
        self.positions += range(self.past, self.past + shared)
        for row in group.rows:
            self._add_row(row, shared)
            self.row_slots.append(group.slot)
        if self.slices and self.slices[-1][0] == group.slot:
            self.slices[-1] = (group.slot, self.slices[-1][1], len(self.ids))
        else:
            self.slices.append((group.slot, start, len(self.ids)))

    def _add_row(self, row: Row, shared: int) -> None:
        begin, length, index = len(self.ids), len(row.tokens) - shared, len(self.row_end)
        self.suffix_at += range(begin, begin + length)
        self.grid_cell += range(index * self.suffix_width, index * self.suffix_width + length)
        self.ids += row.tokens[shared:]
        self.positions += range(self.past + shared, self.past + shared + length)
        self.score_at += range(begin + row.prompt_len - shared - 1, begin + length - 1)
        self.targets += row.tokens[row.prompt_len :]
        self.target_row += [index] * (len(row.tokens) - row.prompt_len)
        self.row_end.append(begin + length - 1)
        self.row_prefix.append(shared)

    def on(self, device: torch.device) -> Packed:
        """The batch, its tensors on `device`."""

        def tensor(values: list[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.long, device=device)

        rows = [row for group in self.groups for row in group.rows]
        parent_at, parent = _parents(rows, device)
        row_lens, row_prefix = tensor([len(row.tokens) for row in rows]), tensor(self.row_prefix)
        suffix_mask = None
        if self.past + self.prefix_width:
            suffix_mask = _suffix_mask(self.past, self.prefix_lens, self.group_sizes, self.suffix_width, device)
        return Packed(
            ids=tensor(self.ids),
            positions=tensor(self.positions),
            slices=tuple(self.slices),
            group_sizes=self.group_sizes,
            prefix_width=self.prefix_width,
            suffix_width=self.suffix_width,
            suffix_at=tensor(self.suffix_at),
            grid_cell=tensor(self.grid_cell),
            past_width=self.past,
            suffix_mask=suffix_mask,
            score_at=tensor(self.score_at),
            targets=tensor(self.targets),
            target_row=tensor(self.target_row),
            row_end=tensor(self.row_end),
            row_lens=row_lens,
            suffix_lens=row_lens - row_prefix,
            prefix_lens=row_prefix,
            row_slots=tuple(self.row_slots),
            row_weights=torch.tensor([row.weight for row in rows], dtype=torch.float32, device=device),
            parent_at=tensor(parent_at),
            parent=parent,
        )


def _parents(rows: Sequence[Row], device: torch.device) -> tuple[list[int], Likeliest | None]:
    """Places among the completion tokens of the rows' parents, and the parents one after another."""
    places: list[int] = []
    known: list[Likeliest] = []
    begin = 0
    for row in rows:
        end = begin + len(row.tokens) - row.prompt_len
        if row.parent is not None:
            places += range(begin, end)
            known.append(row.parent)
        begin = end
    if not known:
        return places, None
    ids, log_probs = torch.cat([one.ids for one in known]), torch.cat([one.log_probs for one in known])
    return places, Likeliest(ids.to(device), log_probs.to(device))


def causal_mask(width: int, device: torch.device) -> Tensor:
    """(width, width) additive mask: 0 at and before a token, minus infinity after it."""
    return torch.full((width, width), float("-inf"), device=device).triu(1)


def _suffix_mask(
    past: int, prefix_lens: Sequence[int], sizes: Sequence[int], suffix_width: int, device: torch.device
) -> Tensor:
    """Each row's suffix sees the past, its group's real prefix cells and, causally, itself: (B, 1, S, past + P + S)."""
    lens = past + torch.tensor(prefix_lens, device=device).repeat_interleave(torch.tensor(sizes, device=device))
    before = past + max(prefix_lens)
    seen = torch.arange(before, device=device)[None] < lens[:, None]  # (B, past + P)
    mask = torch.zeros(len(lens), 1, suffix_width, before + suffix_width, device=device)
    mask[..., :before].masked_fill_(~seen[:, None, None], float("-inf"))
    mask[..., before:] = causal_mask(suffix_width, device)
    return mask
