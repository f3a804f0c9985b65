"""A lean forward for the Llama and Qwen2 decoder shape over packed sequences, with one adapter a slice.

The weights and the configuration come from the loaded Hugging Face model, and its logits are the reference in tests.
Against that model's own forward this one computes a shared prefix once, scores completion positions only, never pads a
matrix product, and keeps the base frozen by construction: gradients exist for activations and adapters alone. On a CPU
the products are most of the time, so what is saved is tokens.

Shapes: N packed tokens, D model width, H query heads, K key heads, d head width; G, B, P, S as in `packing.Packed`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from trainers.lean.adapter_bank import FUSED_MODULES, TARGET_MODULES, AdapterBank
from trainers.lean.logprobs import judged_log_probs, likeliest_tokens, listed_log_probs, token_log_probs
from trainers.lean.ops import FrozenLinear, FusedLinear, Slices, attend, linear, put, rms_norm, rotate, swiglu, take
from trainers.lean.packing import Group, Likeliest, Packed, Row, causal_mask, pack

SUPPORTED_FAMILIES = ("llama", "qwen2")


def why_unsupported(config: Any) -> str | None:
    """None if the lean forward computes this model; else the reason, for the user."""
    family = getattr(config, "model_type", "unknown")
    if family not in SUPPORTED_FAMILIES:
        return f"its family is {family}, not one of {', '.join(SUPPORTED_FAMILIES)}"
    if getattr(config, "hidden_act", "silu") != "silu":
        return f"its activation is {config.hidden_act}, not silu"
    if getattr(config, "use_sliding_window", False):
        return "it attends through a sliding window"
    if getattr(config, "attention_dropout", 0.0):
        return f"its attention_dropout is {config.attention_dropout}, not 0"
    if getattr(config, "quantization_config", None):
        return "its weights are quantised"
    return None


@dataclass(frozen=True)
class LeanLayer:
    groups: list[FrozenLinear]
    module_shapes: list[tuple[int, int]]
    attention_norm: Tensor
    mlp_norm: Tensor


class LeanModel:
    """Frozen weights of one decoder, read from a loaded Hugging Face model (shared, not copied).

    Args:
        hold: how the weights of a layer's linear modules are held; as they are, or see :mod:`trainers.lean.nf4`.
        device: where to compute, if not where the loaded model lies.
    """

    recomputes = False
    """Whether a backward computes the states of each block again instead of having kept them."""

    def __init__(self, hf_model: Any, hold: Hold = FusedLinear, device: torch.device | None = None):
        config, body = hf_model.config, hf_model.model
        hf_embedding, hf_output = body.embed_tokens.weight.detach(), hf_model.lm_head.weight.detach()
        self.heads: int = config.num_attention_heads
        self.key_heads: int = config.num_key_value_heads
        self.head_width: int = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.eps: float = config.rms_norm_eps
        self.embedding: Tensor = hf_embedding.to(device)
        tied = hf_output.data_ptr() == hf_embedding.data_ptr()
        self.output: Tensor = self.embedding if tied else hf_output.to(device)
        self.dtype, self.device = self.embedding.dtype, self.embedding.device
        self.final_norm: Tensor = body.norm.weight.detach().to(self.device)
        self.inv_freq: Tensor = body.rotary_emb.inv_freq.float().to(self.device)
        self.rotary_scale: float = body.rotary_emb.attention_scaling
        self.layers = [_read_layer(layer, hold, self.device) for layer in body.layers]
        self.whole = hold is FusedLinear
        """Whether the weights are held as they are."""

    def recomputing(self) -> LeanModel:
        """The same model, whose backward computes the states of each block again instead of having kept them."""
        other = copy.copy(self)
        other.recomputes = True
        return other

    @property
    def module_shapes(self) -> list[list[tuple[int, int]]]:
        """(out, in) of the target modules of each layer, in the order of `TARGET_MODULES`."""
        return [layer.module_shapes for layer in self.layers]

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin, each (n, 1, d / 2), for the given positions (n,)."""
        angles = torch.outer(positions.float(), self.inv_freq)[:, None]
        return (angles.cos() * self.rotary_scale).to(self.dtype), (angles.sin() * self.rotary_scale).to(self.dtype)

    def rotated(self, qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(n, (H + 2K) d) queries, keys and values -> (n, H + 2K, d), queries and keys rotated."""
        return rotate(qkv.view(len(qkv), -1, self.head_width), cos, sin, self.heads + self.key_heads)

    def linear(self, layer: int, group: int, x: Tensor, bank: AdapterBank | None, slices: Slices) -> Tensor:
        """The outputs of a fused linear for x (n, in), side by side, adapters included."""
        views = bank.groups[layer * len(FUSED_MODULES) + group] if bank is not None else None
        return linear(x, self.layers[layer].groups[group], views, slices, bank)

    def logits(self, hidden: Tensor) -> Tensor:
        """(n, D) states after the last block -> (n, vocabulary) float32 logits."""
        return (rms_norm(hidden, self.final_norm, self.eps) @ self.output.t()).float()

    def embed(self, ids: Tensor) -> Tensor:
        """(n,) token ids -> (n, D); a leaf of the graph, since the embedding is frozen."""
        with torch.no_grad():
            x = F.embedding(ids, self.embedding)
        return x.requires_grad_(torch.is_grad_enabled())

    def blocks(self, x: Tensor, attention: Attention, bank: AdapterBank | None, slices: Slices) -> Tensor:
        """All decoder blocks: (n, D) -> (n, D). `attention(layer, qkv)` is how tokens see one another."""
        for number in range(len(self.layers)):
            if self.recomputes and torch.is_grad_enabled():
                # Nothing is drawn at random in a block, and the adapters' gradients are written in its backward alone.
                again = {"use_reentrant": False, "preserve_rng_state": False}
                x = checkpoint(self._block, number, x, attention, bank, slices, **again)
            else:
                x = self._block(number, x, attention, bank, slices)
        return x

    def _block(self, number: int, x: Tensor, attention: Attention, bank: AdapterBank | None, slices: Slices) -> Tensor:
        layer = self.layers[number]
        qkv = self.linear(number, 0, rms_norm(x, layer.attention_norm, self.eps), bank, slices)
        x = x + self.linear(number, 1, attention(number, qkv), bank, slices)
        gate_up = self.linear(number, 2, rms_norm(x, layer.mlp_norm, self.eps), bank, slices)
        return x + self.linear(number, 3, swiglu(gate_up), bank, slices)

    @torch.no_grad()
    def prefill(self, ids: Sequence[int], slot: int, bank: AdapterBank | None) -> list[Tensor]:
        """Each layer's keys and values (1, 2K, n, d) of the first n tokens of a prompt, for rows that go on there."""
        batch = pack([Group(slot, [Row(ids, len(ids))])], self.device)
        attention = PackedAttention(self, batch, keep_kv=True)
        self.blocks(self.embed(batch.ids), attention, bank, batch.slices)
        return attention.kv_cache or []

    def log_probs(self, batch: Packed, bank: AdapterBank | None, past: list[Tensor] | None = None) -> Tensor:
        """(T,) float32 log-probability of each completion token given all before it.

        `past` is from :meth:`prefill`, for a batch that was packed with as many `past` tokens.
        """
        return token_log_probs(self.scored(batch, bank, past), self.output, batch.targets)

    @torch.no_grad()
    def judged_log_probs(
        self, batch: Packed, bank: AdapterBank | None, past: list[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`log_probs`, and (T,) whether each completion token is the likeliest one; without gradients."""
        return judged_log_probs(self.scored(batch, bank, past), self.output, batch.targets)

    def log_probs_and_parent(self, batch: Packed, bank: AdapterBank | None) -> tuple[Tensor, Tensor]:
        """As :meth:`log_probs`, and at the K places where the parent is known, (K, k + 1) log-probabilities of what it
        held for likely and of all others."""
        assert batch.parent is not None
        listed = torch.arange(batch.parent.ids.shape[1], device=self.device).repeat(len(batch.targets), 1)
        listed[batch.parent_at] = batch.parent.ids
        found = listed_log_probs(self.scored(batch, bank), self.output, batch.targets, listed)
        return found[:, 0], found[batch.parent_at, 1:]

    @torch.no_grad()
    def likeliest(self, batch: Packed, bank: AdapterBank | None, count: int) -> list[Likeliest]:
        """What is expected at the completion tokens of each row: the `count` likeliest tokens, and all others."""
        hidden = self.scored(batch, bank)
        ids = likeliest_tokens(hidden, self.output, min(count, len(self.output) - 1))
        log_probs = listed_log_probs(hidden, self.output, batch.targets, ids)[:, 1:]
        lengths = torch.bincount(batch.target_row, minlength=len(batch.row_slots)).tolist()
        return [Likeliest(*own) for own in zip(ids.split(lengths), log_probs.split(lengths), strict=True)]

    def scored(self, batch: Packed, bank: AdapterBank | None, past: list[Tensor] | None = None) -> Tensor:
        """(T, D) normed states of the tokens before each completion token; `past` as in :meth:`log_probs`."""
        attention = PackedAttention(self, batch, past=past)
        x = self.blocks(self.embed(batch.ids), attention, bank, batch.slices)
        return rms_norm(take(x, batch.score_at), self.final_norm, self.eps)


Attention = Callable[[int, Tensor], Tensor]
"""Of a layer's (n, (H + 2K) d) queries, keys and values, side by side: (n, H * d)."""

Hold = Callable[[Tensor, Tensor | None], FrozenLinear]
"""Of stacked weights (out, in) and their biases: the layer to compute with."""


def _read_layer(layer: Any, hold: Hold, device: torch.device) -> LeanLayer:
    modules = [layer.get_submodule(name) for name in TARGET_MODULES]
    groups = [hold(*_stacked([modules[member] for member in members])) for members in FUSED_MODULES]
    shapes = [(int(module.weight.shape[0]), int(module.weight.shape[1])) for module in modules]
    norms = layer.input_layernorm.weight.detach(), layer.post_attention_layernorm.weight.detach()
    return LeanLayer(groups, shapes, *(norm.to(device) for norm in norms))


def _stacked(modules: Sequence[Any]) -> tuple[Tensor, Tensor | None]:
    """The modules' weights one below the other, and themselves made views of that, so that nothing is held twice."""
    weights = [module.weight.detach() for module in modules]
    weight = torch.cat(weights) if len(weights) > 1 else weights[0]
    for module, part in zip(modules, weight.split([len(own) for own in weights]), strict=True):
        module.weight.data = part
    if all(module.bias is None for module in modules):
        return weight, None
    zeros = [weight.new_zeros(len(module.weight)) for module in modules]
    biases = [z if m.bias is None else m.bias.detach() for m, z in zip(modules, zeros, strict=True)]
    return weight, torch.cat(biases)


class PackedAttention:
    """Attention over a packed batch; what depends on the batch alone is computed once for all layers."""

    def __init__(self, model: LeanModel, batch: Packed, keep_kv: bool = False, past: list[Tensor] | None = None):
        self.model, self.batch, self.past = model, batch, past
        self.cos, self.sin = model.rotary(batch.positions)
        self.suffix_mask = (
            batch.suffix_mask if batch.suffix_mask is not None else causal_mask(batch.suffix_width, model.device)
        )
        self.prefix_mask = F.pad(causal_mask(batch.prefix_width, model.device), (batch.past_width, 0))
        self.kv_cache: list[Tensor] | None = [] if keep_kv else None
        """With `keep_kv`, each layer's keys and values (B, 2K, P + S, d), for decoding to go on from."""

    def __call__(self, layer: int, qkv: Tensor) -> Tensor:
        """(N, (H + 2K) d) -> (N, H * d)."""
        model, batch = self.model, self.batch
        heads, d = model.heads, model.head_width
        rows, width = len(batch.row_slots), batch.suffix_width
        groups, prefix = len(batch.group_sizes), batch.prefix_width
        cells = put(model.rotated(qkv, self.cos, self.sin), batch.grid_cell, rows * width + groups * prefix)
        if batch.suffix_mask is None:
            suffix = self._grid(cells, rows, width)
            self._keep(suffix[:, heads:])
            out = self._attend(suffix[:, :heads], suffix[:, heads:], self.suffix_mask)
            return take(out.transpose(1, 2).reshape(rows * width, heads * d), batch.grid_cell)
        of_suffixes, of_prefixes = cells.split((rows * width, groups * prefix))
        q, kv = self._grid(of_suffixes, rows, width).split((heads, 2 * model.key_heads), 1)
        q_pre, kv_pre = self._grid(of_prefixes, groups, prefix).split((heads, 2 * model.key_heads), 1)
        if self.past is not None:
            kv_pre = torch.cat((self.past[layer].expand(groups, -1, -1, -1), kv_pre), 2)
        kv_all = torch.cat((self._per_row(kv_pre), kv), 2)  # (B, 2K, P + S, d)
        self._keep(kv_all)
        out = self._attend(q, kv_all, self.suffix_mask)
        out_pre = self._attend(q_pre, kv_pre, self.prefix_mask)
        flat = (
            out.transpose(1, 2).reshape(rows * width, heads * d),
            out_pre.transpose(1, 2).reshape(groups * prefix, heads * d),
        )
        return take(torch.cat(flat), batch.grid_cell)

    def _attend(self, q: Tensor, kv: Tensor, mask: Tensor) -> Tensor:
        k, v = kv.chunk(2, 1)
        return attend(q, k, v, mask)

    def _grid(self, cells: Tensor, rows: int, width: int) -> Tensor:
        """(rows * width, heads, d) -> (rows, heads, width, d)."""
        return cells.view(rows, width, *cells.shape[1:]).transpose(1, 2)

    def _keep(self, keys_and_values: Tensor) -> None:
        if self.kv_cache is not None:
            self.kv_cache.append(keys_and_values)

    def _per_row(self, per_group: Tensor) -> Tensor:
        """(G, heads, P, d) -> (B, heads, P, d): each row sees its group's prefix."""
        parts = [per_group[g : g + 1].expand(size, -1, -1, -1) for g, size in enumerate(self.batch.group_sizes)]
        return torch.cat(parts)
