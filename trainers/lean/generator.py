"""Greedy decoding and scoring with the trainer's own model in memory, without a copy of the base."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from ledger.errors import LunaError
from ledger.roles import BASE as BASE
from ledger.roles import Role, Voice
from trainers.generator import Answer, Likelihood, prompt_ids, row_ids
from trainers.lean.adapter_bank import AdapterBank
from trainers.lean.lanes import Lanes
from trainers.lean.model import LeanModel, PackedAttention
from trainers.lean.ops import attend
from trainers.lean.packing import BARE, Group, Row, pack, shared_prefix_len

Item = TypeVar("Item")

_SQUARES_AT_ONCE = 48 * 256**2
"""Most rows of a batch times the square of its longest: what attention takes of memory and time."""
_LIKE_TOKENS = 32
"""A batch may hold short items that differ by so much whatever their ratio."""


class LeanGenerator:
    """See :class:`trainers.generator.Generator`.

    Args:
        slots: which adapter slot of `bank` each role uses; a role that is missing cannot be asked.
        lanes: how batches run side by side; none means one after another.
        rows_at_once: most sequences decoded together; bounds the memory of the key-value cache.
    """

    def __init__(
        self,
        model: LeanModel,
        tokenizer: Any,
        bank: AdapterBank | None,
        slots: Mapping[Role, int],
        lanes: Lanes | None = None,
        rows_at_once: int = 48,
    ):
        self.model, self.tokenizer, self.bank = model, tokenizer, bank
        self.slots, self.lanes, self.rows_at_once = slots, lanes or Lanes(1, model.device), rows_at_once

    def generate(self, voice: Voice, prompts: Sequence[str], max_new_tokens: int) -> list[Answer]:
        """Greedy continuations; prompts of like length are decoded together, results keep their order."""
        tokens = [prompt_ids(self.tokenizer, prompt) for prompt in prompts]
        batches = self._in_batches(range(len(tokens)), lambda i: len(tokens[i]))
        decoded = self.lanes.map(
            lambda batch: self._decode(self._slot(voice), [tokens[i] for i in batch], max_new_tokens), batches
        )
        answers = [Answer("", False)] * len(tokens)
        for batch, found in zip(batches, decoded, strict=True):
            for i, (said, ended) in zip(batch, found, strict=True):
                answers[i] = Answer(self.tokenizer.decode(said, skip_special_tokens=True), ended)
        return answers

    def count(self, prompt: str) -> int:
        """Tokens of a raw prompt."""
        return len(prompt_ids(self.tokenizer, prompt))

    def likelihoods(
        self, voice: Voice, pairs: Sequence[tuple[str, str]], max_tokens: int | None = None
    ) -> list[Likelihood]:
        """Scores of answers; prompts share what they begin with, answers to one prompt share the whole prompt."""
        by_prompt: dict[str, list[int]] = {}
        for i, (prompt, _) in enumerate(pairs):
            by_prompt.setdefault(prompt, []).append(i)
        groups = []
        for prompt, members in by_prompt.items():
            rows = [Row(*row_ids(self.tokenizer, prompt, pairs[i][1], max_tokens)) for i in members]
            groups.append((Group(self._slot(voice), rows), members))
        longest = max((len(members) for members in by_prompt.values()), default=1)
        common = shared_prefix_len([row for group, _ in groups for row in group.rows])
        batches = self._in_batches(
            groups, lambda item: max(len(row.tokens) for row in item[0].rows) - common, rows_each=longest
        )
        past = (
            self.model.prefill(groups[0][0].rows[0].tokens[:common], self._slot(voice), self.bank) if common else None
        )
        found = self.lanes.map(lambda batch: self._score([group for group, _ in batch], common, past), batches)
        scores = [Likelihood(0.0, False)] * len(pairs)
        for batch, own in zip(batches, found, strict=True):
            for i, score in zip((i for _, members in batch for i in members), own, strict=True):
                scores[i] = score
        return scores

    def _in_batches(self, items: Sequence[Item], length: Callable[[Item], int], rows_each: int = 1) -> list[list[Item]]:
        """Batches of items of like length, of at most `rows_at_once` rows, as many as keep every lane busy.

        A batch is padded to its longest item, so that none is more than twice as long as another beside it.
        """
        rounds = math.ceil(len(items) * rows_each / (self.rows_at_once * self.lanes.count))
        size = max(1, math.ceil(len(items) / max(1, rounds * self.lanes.count)))
        batches: list[list[Item]] = []
        shortest = 0
        for item in sorted(items, key=length):
            long = length(item)
            rows = (len(batches[-1]) + 1) * rows_each if batches else 0
            if (
                batches
                and len(batches[-1]) < size
                and long <= 2 * shortest + _LIKE_TOKENS
                and rows * long**2 <= _SQUARES_AT_ONCE
            ):
                batches[-1].append(item)
            else:
                batches.append([item])
                shortest = long
        return batches

    def _slot(self, voice: Voice) -> int:
        return BARE if voice == BASE else slot_of(voice, self.slots)

    def _score(self, groups: Sequence[Group], common: int, past: list[Tensor] | None) -> list[Likelihood]:
        """How likely each row's completion is; all rows begin with the `common` tokens of `past`."""
        packed = pack(groups, self.model.device, past=common)
        log_probs, likeliest = self.model.judged_log_probs(packed, self.bank, past)
        rows = len(packed.row_slots)
        sums = torch.zeros(rows, device=log_probs.device).index_add_(0, packed.target_row, log_probs)
        counts = torch.bincount(packed.target_row, minlength=rows)
        greedy = torch.bincount(packed.target_row[likeliest], minlength=rows) == counts
        return [Likelihood(*one) for one in zip((sums / counts).tolist(), greedy.tolist(), strict=True)]

    @torch.no_grad()
    def _decode(self, slot: int, prompts: list[list[int]], max_new_tokens: int) -> list[tuple[list[int], bool]]:
        """Greedy tokens of each prompt without the end-of-text token, and whether that came."""
        batch = pack([Group(slot, [Row(ids, len(ids)) for ids in prompts])], self.model.device)
        attention = PackedAttention(self.model, batch, keep_kv=True)
        x = self.model.blocks(self.model.embed(batch.ids), attention, self.bank, batch.slices)
        cache = DecodeAttention(
            self.model, attention.kv_cache or [], batch.suffix_lens, batch.prefix_lens, batch.prefix_width
        )
        answers: list[list[int]] = [[] for _ in prompts]
        ended = [False] * len(prompts)
        at, rows = batch.row_lens, list(range(len(prompts)))  # the prompts that are still being answered
        chosen = self.model.logits(x[batch.row_end]).argmax(-1)
        for step in range(max_new_tokens):
            going = []
            for place, (row, token) in enumerate(zip(rows, chosen.tolist(), strict=True)):
                if token == self.tokenizer.eos_token_id:
                    ended[row] = True
                else:
                    answers[row].append(token)
                    going.append(place)
            if not going or step + 1 == max_new_tokens:
                break
            if len(going) < len(rows):
                kept = torch.tensor(going, device=chosen.device)
                chosen, at, rows = chosen[kept], at[kept], [rows[place] for place in going]
                cache.keep(kept)
            cache.advance(at + step)
            x = self.model.blocks(self.model.embed(chosen), cache, self.bank, [(slot, 0, len(rows))])
            chosen = self.model.logits(x).argmax(-1)
        return list(zip(answers, ended, strict=True))


def slot_of(voice: Voice, slots: Mapping[Role, int]) -> int:
    """The slot of a role's adapter.

    Raises:
        LunaError: there is none; the bare base must not answer in its place without a word.
    """
    for role, slot in slots.items():
        if role == voice:
            return slot
    raise LunaError(f"there is no adapter of {voice!r} here; those there are: {', '.join(slots) or 'none'}.")


class DecodeAttention:
    """Attention of one new token a row over what the row has seen. Call `advance` before each token."""

    def __init__(self, model: LeanModel, kv_cache: list[Tensor], suffix_lens: Tensor, prefix_lens: Tensor, prefix: int):
        self.model, self.kv_cache = model, kv_cache
        width = kv_cache[0].shape[2]
        at = torch.arange(width, device=model.device)
        visible = torch.where(at < prefix, at < prefix_lens[:, None], at - prefix < suffix_lens[:, None])
        self.mask = torch.zeros(visible.shape, device=model.device).masked_fill_(~visible, float("-inf"))

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone."""
        self.kv_cache = [kv[rows] for kv in self.kv_cache]
        self.mask = self.mask[rows]

    def advance(self, positions: Tensor) -> None:
        """`positions` (B,): where the new tokens stand in their rows."""
        self.cos, self.sin = self.model.rotary(positions)
        self.mask = torch.cat((self.mask, self.mask.new_zeros(len(positions), 1)), 1)

    def __call__(self, layer: int, qkv: Tensor) -> Tensor:
        heads, key_heads, d = self.model.heads, self.model.key_heads, self.model.head_width
        new = self.model.rotated(qkv, self.cos, self.sin)[:, :, None]
        kv = torch.cat((self.kv_cache[layer], new[:, heads:]), 2)
        self.kv_cache[layer] = kv
        out = attend(new[:, :heads], kv[:, :key_heads], kv[:, key_heads:], self.mask[:, None, None])
        return out.reshape(-1, heads * d)
