"""A lean forward for the Llama and Qwen2 decoder shape over packed sequences, with one adapter a slice.

The weights and the configuration come from the loaded Hugging Face model, and its logits are the reference in tests.
Against that model's own forward this one computes a shared prefix once, scores completion positions only, never pads a
matrix product, and keeps the base frozen by construction: gradients exist for activations and adapters alone. On a CPU
the products are most of the time, so what is saved is tokens.

Shapes: N packed tokens, D model width, H query heads, K key heads, d head width; G, B, P, S as in `packing.Packed`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from trainers.bank import GROUPS, SITES, AdapterBank, SiteViews
from trainers.packing import Group, Packed, Row, causal_mask, pack
from trainers.vocabulary import token_log_probs

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
class LeanGroup:
    """Frozen weights (out, in) of sites that share an input, with their biases where the family has them."""

    weights: list[Tensor]
    biases: list[Tensor | None]


@dataclass(frozen=True)
class LeanLayer:
    groups: list[LeanGroup]
    attention_norm: Tensor
    mlp_norm: Tensor


class LeanModel:
    """Frozen weights of one decoder, read from a loaded Hugging Face model (shared, not copied)."""

    def __init__(self, hf_model: Any):
        config, body = hf_model.config, hf_model.model
        self.heads: int = config.num_attention_heads
        self.key_heads: int = config.num_key_value_heads
        self.head_width: int = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.eps: float = config.rms_norm_eps
        self.embedding: Tensor = body.embed_tokens.weight.detach()
        self.output: Tensor = hf_model.lm_head.weight.detach()
        self.final_norm: Tensor = body.norm.weight.detach()
        self.inv_freq: Tensor = body.rotary_emb.inv_freq.float()
        self.rotary_scale: float = body.rotary_emb.attention_scaling
        self.layers = [_read_layer(layer) for layer in body.layers]
        self.dtype, self.device = self.embedding.dtype, self.embedding.device

    @property
    def site_shapes(self) -> list[list[tuple[int, int]]]:
        """(out, in) of the seven sites of each layer, in the order of `bank.SITES`."""
        return [
            [(int(w.shape[0]), int(w.shape[1])) for group in layer.groups for w in group.weights]
            for layer in self.layers
        ]

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin, each (n, 1, d), for the given positions (n,)."""
        angles = torch.outer(positions.float(), self.inv_freq)
        angles = torch.cat((angles, angles), -1)[:, None]
        return (angles.cos() * self.rotary_scale).to(self.dtype), (angles.sin() * self.rotary_scale).to(self.dtype)

    def linear(self, layer: int, group: int, x: Tensor, bank: AdapterBank | None, slices: Slices) -> list[Tensor]:
        """The outputs of a group of sites for x (n, in), adapters included."""
        weights = self.layers[layer].groups[group]
        views = bank.groups[layer * len(GROUPS) + group] if bank is not None else None
        outputs = _SlicedLoRA.apply(x, weights, views, slices, bank)
        return list(outputs)

    def logits(self, hidden: Tensor) -> Tensor:
        """(n, D) states after the last block -> (n, vocabulary) float32 logits."""
        return (rms_norm(hidden, self.final_norm, self.eps) @ self.output.t()).float()

    def embed(self, ids: Tensor) -> Tensor:
        """(n,) token ids -> (n, D); a leaf of the graph, since the embedding is frozen."""
        with torch.no_grad():
            x = F.embedding(ids, self.embedding)
        return x.requires_grad_(torch.is_grad_enabled())

    def blocks(self, x: Tensor, attention: Attention, bank: AdapterBank | None, slices: Slices) -> Tensor:
        """All decoder blocks: (n, D) -> (n, D). `attention(layer, q, k, v)` is how tokens see one another."""
        for number, layer in enumerate(self.layers):
            q, k, v = self.linear(number, 0, rms_norm(x, layer.attention_norm, self.eps), bank, slices)
            (out,) = self.linear(number, 1, attention(number, q, k, v), bank, slices)
            x = x + out
            gate, up = self.linear(number, 2, rms_norm(x, layer.mlp_norm, self.eps), bank, slices)
            (out,) = self.linear(number, 3, F.silu(gate) * up, bank, slices)
            x = x + out
        return x

    @torch.no_grad()
    def read(self, ids: Sequence[int], slot: int, bank: AdapterBank | None) -> list[Tensor]:
        """Each layer's keys and values (1, 2K, n, d) of the first n tokens of a prompt, for rows that go on there."""
        batch = pack([Group(slot, [Row(ids, len(ids))])], self.device)
        attention = PackedAttention(self, batch, keep=True)
        self.blocks(self.embed(batch.ids), attention, bank, batch.slices)
        return attention.seen or []

    def log_probs(self, batch: Packed, bank: AdapterBank | None, past: list[Tensor] | None = None) -> Tensor:
        """(T,) float32 log-probability of each completion token given all before it.

        `past` is from :meth:`read`, for a batch that was packed with as many `past` tokens.
        """
        attention = PackedAttention(self, batch, past=past)
        x = self.blocks(self.embed(batch.ids), attention, bank, batch.slices)
        hidden = rms_norm(take(x, batch.score_at), self.final_norm, self.eps)
        return token_log_probs(hidden, self.output, batch.targets)


Slices = Sequence[tuple[int, int, int]]
Attention = Callable[[int, Tensor, Tensor, Tensor], Tensor]


def _read_layer(layer: Any) -> LeanLayer:
    modules = [layer.get_submodule(name) for name in SITES]
    groups = [
        LeanGroup(
            weights=[modules[j].weight.detach() for j in sites],
            biases=[None if modules[j].bias is None else modules[j].bias.detach() for j in sites],
        )
        for sites in GROUPS
    ]
    return LeanLayer(groups, layer.input_layernorm.weight.detach(), layer.post_attention_layernorm.weight.detach())


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm in float32, as in the Hugging Face Llama (Zhang and Sennrich, 2019)."""
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of (n, heads, d), halves convention (Su et al., 2021, as in Llama)."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


class _SlicedLoRA(torch.autograd.Function):
    """y_j = x W_j^T + b_j + s (x A_j^T) B_j^T for the sites j of one group, A and B by contiguous slice.

    Writes the adapters' gradients straight into the bank's buffers: autograd never sees them, so there is one
    gradient buffer, no accumulation copies, and nothing is ever computed for the frozen base.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, frozen: LeanGroup, views: SiteViews | None, slices: Slices, bank: AdapterBank | None
    ) -> tuple[Tensor, ...]:
        outputs = tuple(
            x @ w.t() if b is None else torch.addmm(b, x, w.t())
            for w, b in zip(frozen.weights, frozen.biases, strict=True)
        )
        downs: list[Tensor] = []
        if views is not None and bank is not None:
            rank = bank.rank
            for slot, start, end in slices:
                if slot < 0:
                    continue
                down = (x[start:end] @ views.a[slot].t()).mul_(bank.scale)
                downs.append(down)
                for j, y in enumerate(outputs):
                    y[start:end].addmm_(down[:, j * rank : (j + 1) * rank], views.b[j][slot].t())
        ctx.save_for_backward(x, *downs)
        ctx.frozen, ctx.views, ctx.slices, ctx.bank = frozen, views, slices, bank
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *downs = ctx.saved_tensors
        frozen: LeanGroup = ctx.frozen
        views: SiteViews = ctx.views
        bank: AdapterBank = ctx.bank
        grad_x = grads[0] @ frozen.weights[0]
        for grad, weight in zip(grads[1:], frozen.weights[1:], strict=True):
            grad_x.addmm_(grad, weight)
        if bank is not None:
            trained = [s for s in ctx.slices if s[0] >= 0]
            for (slot, start, end), down in zip(trained, downs, strict=True):
                parts = [grad[start:end] for grad in grads]
                grad_down = torch.cat([part @ views.b[j][slot] for j, part in enumerate(parts)], 1)
                grad_down.mul_(bank.scale)
                for j, part in enumerate(parts):
                    columns = down[:, j * bank.rank : (j + 1) * bank.rank]
                    _add_product(views.grad_b[j][slot], part.t(), columns)
                _add_product(views.grad_a[slot], grad_down.t(), x[start:end])
                grad_x[start:end].addmm_(grad_down, views.a[slot])
        return grad_x, None, None, None, None


def _add_product(target: Tensor, left: Tensor, right: Tensor) -> None:
    """target (fp32) += left @ right."""
    if target.dtype == left.dtype:
        target.addmm_(left, right)
    else:
        target.add_(left @ right)


class _Take(torch.autograd.Function):
    """x[at] for distinct positions; the backward is a plain copy, where autograd's own would accumulate."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, at: Tensor) -> Tensor:
        ctx.at, ctx.length = at, x.shape[0]
        return x.index_select(0, at)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        return grad.new_zeros((ctx.length, *grad.shape[1:])).index_copy_(0, ctx.at, grad), None


class _Put(torch.autograd.Function):
    """Zeros of `length` rows with x at distinct positions: the reverse of :class:`_Take`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, at: Tensor, length: int) -> Tensor:
        ctx.at = at
        return x.new_zeros((length, *x.shape[1:])).index_copy_(0, at, x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        return grad.index_select(0, ctx.at), None, None


def take(x: Tensor, at: Tensor) -> Tensor:
    return _Take.apply(x, at)


def put(x: Tensor, at: Tensor, length: int) -> Tensor:
    return _Put.apply(x, at, length)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Grouped-query attention by plain products: q (b, H, s, d), k and v (b, K, t, d), additive mask -> (b, H, s, d).

    For the few dozen tokens of an example, the CPU's fused attention is several times slower in its backward.
    """
    b, heads, s, d = q.shape
    key_heads = k.shape[1]
    scores = torch.matmul(q.reshape(b, key_heads, heads // key_heads * s, d), k.transpose(-1, -2))
    scores = scores.view(b, heads, s, k.shape[2]).float() * d**-0.5
    weights = torch.softmax(scores if mask is None else scores + mask, -1).to(q.dtype)
    return torch.matmul(weights.view(b, key_heads, heads // key_heads * s, k.shape[2]), v).view(b, heads, s, d)


class PackedAttention:
    """Attention over a packed batch; what depends on the batch alone is computed once for all layers."""

    def __init__(self, model: LeanModel, batch: Packed, keep: bool = False, past: list[Tensor] | None = None):
        self.model, self.batch, self.past = model, batch, past
        self.cos, self.sin = model.rotary(batch.positions)
        self.rest_mask = batch.hidden if batch.hidden is not None else causal_mask(batch.rest_width, model.device)
        self.prefix_mask = F.pad(causal_mask(batch.prefix_width, model.device), (batch.past_width, 0))
        self.seen: list[Tensor] | None = [] if keep else None
        """With `keep`, each layer's keys and values (B, 2K, P + S, d), for decoding to go on from."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (N, H*d), k and v (N, K*d) -> (N, H*d)."""
        model, batch = self.model, self.batch
        heads, key_heads, d = model.heads, model.key_heads, model.head_width
        q = rotate(q.view(-1, heads, d), self.cos, self.sin)
        kv = torch.cat((rotate(k.view(-1, key_heads, d), self.cos, self.sin), v.view(-1, key_heads, d)), 1)
        rows, width = len(batch.row_slots), batch.rest_width
        q_rest = self._grid(q, batch.rest_at, batch.rest_cell, rows, width)  # (B, H, S, d)
        kv_rest = self._grid(kv, batch.rest_at, batch.rest_cell, rows, width)  # (B, 2K, S, d)
        if batch.hidden is None:
            self._keep(kv_rest)
            out = attend(q_rest, kv_rest[:, :key_heads], kv_rest[:, key_heads:], self.rest_mask)
            return take(out.transpose(1, 2).reshape(rows * width, heads * d), batch.unpad)
        groups, prefix = len(batch.group_sizes), batch.prefix_width
        q_pre = self._grid(q, batch.prefix_at, batch.prefix_cell, groups, prefix)
        kv_pre = self._grid(kv, batch.prefix_at, batch.prefix_cell, groups, prefix)
        if self.past is not None:
            kv_pre = torch.cat((self.past[layer].expand(groups, -1, -1, -1), kv_pre), 2)
        kv_all = torch.cat((self._per_row(kv_pre), kv_rest), 2)  # (B, 2K, P + S, d)
        self._keep(kv_all)
        out = attend(q_rest, kv_all[:, :key_heads], kv_all[:, key_heads:], self.rest_mask)
        out_pre = attend(q_pre, kv_pre[:, :key_heads], kv_pre[:, key_heads:], self.prefix_mask)
        cells = (
            out.transpose(1, 2).reshape(rows * width, heads * d),
            out_pre.transpose(1, 2).reshape(groups * prefix, heads * d),
        )
        return take(torch.cat(cells), batch.unpad)

    def _grid(self, x: Tensor, at: Tensor, cells: Tensor, rows: int, width: int) -> Tensor:
        """(N, heads, d) -> (rows, heads, width, d), zero where a row is shorter than the grid."""
        padded = put(take(x, at), cells, rows * width)
        return padded.view(rows, width, *x.shape[1:]).transpose(1, 2)

    def _keep(self, keys_and_values: Tensor) -> None:
        if self.seen is not None:
            self.seen.append(keys_and_values)

    def _per_row(self, per_group: Tensor) -> Tensor:
        """(G, heads, P, d) -> (B, heads, P, d): each row sees its group's prefix."""
        parts = [per_group[g : g + 1].expand(size, -1, -1, -1) for g, size in enumerate(self.batch.group_sizes)]
        return torch.cat(parts)
