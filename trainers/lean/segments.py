"""Examples of several roles laid out for a GPU: one segment a slot, all of one length, in one buffer of numbers.

Equal segments make the adapters of all roles one batched product, and few distinct shapes mean few CUDA graphs: lengths
are rounded up to a *bucket*, a function of the batch alone, so that a run that went on after a pause takes the same
shapes as one that never stopped. A segment is its slot's shared prefix, then the rest of each row, then padding that
no token sees.

Everything a batch says goes to the device in one copy: :class:`Segments` is the buffer on the host,
:class:`SegmentViews` its parts on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainers.lean.packing import Group, Row, shared_prefix_len

_LEAST = 64
"""Lengths are multiples of this, and of an eighth of the power of two below them."""


@dataclass(frozen=True)
class Bucket:
    """The shapes of a batch: what one CUDA graph is made for."""

    slots: int
    length: int
    """L, tokens of each segment."""
    scored: int
    """T, scored positions, at least one of which is padding."""

    @property
    def tokens(self) -> int:
        """N = slots * L."""
        return self.slots * self.length

    @property
    def numbers(self) -> int:
        """Elements of the buffer."""
        return sum(self.sizes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Elements of each part, in the order of :class:`SegmentViews`."""
        n, t = self.tokens, self.scored
        return n, n, n, n, n, self.slots, t, t, self.slots * t


@dataclass(frozen=True)
class Segments:
    """One batch on the host."""

    bucket: Bucket
    buffer: Tensor  # (numbers,) int32; pinned if it goes to a GPU. Its last part holds float32 bits.
    tokens: int
    """Tokens that are no padding, a shared prefix counted once."""
    scored: int
    """Completion tokens."""


@dataclass(frozen=True)
class SegmentViews:
    """The parts of a batch's buffer on the device, int32 except `shares`."""

    ids: Tensor  # (N,) token ids
    positions: Tensor  # (N,) position of each token in its own row
    start: Tensor  # (N,) place in the segment of the row's first token, 0 in the prefix, its own for padding
    stop: Tensor  # (N,) place in the segment after the last token that sees this one
    scored_of: Tensor  # (N,) which scored position it is; the last, which is padding, if none
    prefix: Tensor  # (slots,) tokens of the shared prefix
    score_at: Tensor  # (T,) token whose next one is a completion token; 0 for padding
    targets: Tensor  # (T,) those next tokens
    shares: Tensor  # (slots, T) float32: what each completion token's loss counts for in its slot's; 0 elsewhere

    @classmethod
    def of(cls, buffer: Tensor, bucket: Bucket) -> SegmentViews:
        """Views of a buffer."""
        ids, positions, start, stop, scored_of, prefix, score_at, targets, shares = buffer.split(bucket.sizes)
        whole = shares.view(torch.float32).view(bucket.slots, bucket.scored)
        return cls(ids, positions, start, stop, scored_of, prefix, score_at, targets, whole)


def rounded_up(count: int) -> int:
    """The next multiple of 64, or of an eighth of the largest power of two that is not above `count`."""
    step = max(_LEAST, (1 << (count.bit_length() - 1)) // 8)
    return -(-count // step) * step


def bucket_of(groups: Sequence[Group], slots: int) -> Bucket:
    """The smallest bucket that holds the groups' rows."""
    lengths, scored = [1], 0
    for group in groups:
        shared = shared_prefix_len(group.rows)
        lengths.append(shared + sum(len(row.tokens) - shared for row in group.rows))
        scored += sum(len(row.tokens) - row.prompt_len for row in group.rows)
    return Bucket(slots, rounded_up(max(lengths)), rounded_up(scored + 1))


def slot_weights(parts: Sequence[Sequence[Group]], slots: int) -> list[float]:
    """Of each slot the sum of row weights over the completion tokens of all parts of a step."""
    sums = [0.0] * slots
    for part in parts:
        for group in part:
            sums[group.slot] += sum(row.weight * (len(row.tokens) - row.prompt_len) for row in group.rows)
    return sums


def lay_out(groups: Sequence[Group], slots: int, weights: Sequence[float], pinned: bool) -> Segments:
    """Lay each group's rows into its slot's segment; a slot without a group is all padding.

    Args:
        groups: at most one for each slot.
        weights: :func:`slot_weights` of the whole step.
        pinned: whether the buffer is to be copied to a GPU without waiting.
    """
    bucket = bucket_of(groups, slots)
    buffer = torch.zeros(bucket.numbers, dtype=torch.int32, pin_memory=pinned)
    views = SegmentViews.of(buffer, bucket)
    segment = np.arange(bucket.length, dtype=np.int32)
    for slot in range(slots):  # padding, until something is written over it
        at = slice(slot * bucket.length, (slot + 1) * bucket.length)
        views.start[at] = torch.from_numpy(segment)
        views.stop[at] = torch.from_numpy(segment + 1)
    views.scored_of.fill_(bucket.scored - 1)
    scored = tokens = 0
    for group in groups:
        filled, count = _fill(views, bucket, group, scored, weights[group.slot])
        tokens, scored = tokens + filled, scored + count
    return Segments(bucket, buffer, tokens, scored)


def _fill(views: SegmentViews, bucket: Bucket, group: Group, scored: int, weight: float) -> tuple[int, int]:
    """Write a group into its segment, its completions from place `scored` on; returns its tokens and completions."""
    base, shared = group.slot * bucket.length, shared_prefix_len(group.rows)
    ids, positions = (part.numpy()[base : base + bucket.length] for part in (views.ids, views.positions))
    start, stop = (part.numpy()[base : base + bucket.length] for part in (views.start, views.stop))
    views.prefix.numpy()[group.slot] = shared
    ids[:shared], positions[:shared], start[:shared] = group.rows[0].tokens[:shared], range(shared), 0
    at, first = shared, scored
    for row in group.rows:
        end = at + len(row.tokens) - shared
        ids[at:end], positions[at:end] = row.tokens[shared:], np.arange(shared, len(row.tokens))
        start[at:end], stop[at:end] = at, end
        scored = _score(views, row, base + end, group.slot, (scored, weight))
        at = end
    stop[:shared] = at
    return at, scored - first


def _score(views: SegmentViews, row: Row, end: int, slot: int, to: tuple[int, float]) -> int:
    """Note a row's completion tokens, whose last stands before `end`; returns the next free scored position."""
    first, weight = to
    count = len(row.tokens) - row.prompt_len
    here = slice(first, first + count)
    predicting = np.arange(end - count - 1, end - 1, dtype=np.int32)
    views.score_at.numpy()[here] = predicting
    views.targets.numpy()[here] = row.tokens[row.prompt_len :]
    views.scored_of.numpy()[predicting] = np.arange(first, first + count, dtype=np.int32)
    views.shares.numpy()[slot, here] = row.weight / weight if weight else 0.0
    return first + count
