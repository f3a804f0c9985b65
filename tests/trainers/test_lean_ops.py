"""The parts of a decoder block against autograd: outputs and gradients, in float32."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from tests.trainers.builders import CPU, random_base
from trainers.config import LoraSettings
from trainers.lean.adapter_bank import FUSED_MODULES, TARGET_MODULES, AdapterBank
from trainers.lean.model import LeanModel
from trainers.lean.ops import FusedLinear, attend, linear, put, rms_norm, rotate, swiglu, take
from trainers.models.frozen import load_base

SHAPES = [(8, 12), (4, 12), (4, 12), (12, 8), (20, 12), (20, 12), (12, 20)]
"""(out, in) of the seven sites of one small layer."""


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_equal_with_gradients(ours: Callable[..., Tensor], reference: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Both give the same output, and the same gradient of a random weighting of it for every input."""
    found: list[Tensor | None] = []
    expected: list[Tensor | None] = []
    for function, results in ((ours, found), (reference, expected)):
        leaves = [x.clone().requires_grad_() for x in inputs]
        out = function(*leaves)
        (out * random(*out.shape, seed=99)).sum().backward()
        results += [out.detach(), *(leaf.grad for leaf in leaves)]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_the_norm_is_torchs_own():
    weight = 1 + random(16)
    assert_equal_with_gradients(
        lambda x: rms_norm(x, weight, 1e-5), lambda x: F.rms_norm(x, (16,), weight, 1e-5), random(7, 16, seed=1)
    )


def test_queries_and_keys_turn_as_in_hugging_face_and_values_stay():
    angles = torch.outer(torch.arange(7.0), torch.tensor([1.0, 0.1, 0.01, 0.001]))[:, None]

    def reference(x: Tensor) -> Tensor:
        cos, sin = (torch.cat((f(angles), f(angles)), -1)[None, :, 0] for f in (torch.cos, torch.sin))
        q, k = (part.transpose(0, 1)[None] for part in x.split((4, 2, 2), 1)[:2])
        turned = apply_rotary_pos_emb(q, k, cos, sin)
        return torch.cat([*(part[0].transpose(0, 1) for part in turned), x[:, 6:]], 1)

    assert_equal_with_gradients(lambda x: rotate(x, angles.cos(), angles.sin(), 6), reference, random(7, 8, 8))


def test_the_gated_activation_takes_gates_first():
    assert_equal_with_gradients(swiglu, lambda x: F.silu(x[:, :6]) * x[:, 6:], random(5, 12))


@pytest.mark.parametrize("masked", [True, False])
def test_grouped_attention_is_torchs_own(masked):
    mask = torch.full((5, 9), float("-inf")).triu(5) if masked else None
    assert_equal_with_gradients(
        lambda q, k, v: attend(q, k, v, mask),
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True),
        random(3, 6, 5, 8),
        random(3, 2, 9, 8, seed=1),
        random(3, 2, 9, 8, seed=2),
    )


def test_taking_and_putting_are_indexing():
    at = torch.tensor([4, 0, 2])
    assert_equal_with_gradients(lambda x: take(x, at), lambda x: x[at], random(6, 3))
    assert_equal_with_gradients(
        lambda x: put(x, at, 6), lambda x: torch.zeros(6, 3).index_put((at,), x), random(3, 3, seed=1)
    )


@pytest.mark.parametrize("group", range(len(FUSED_MODULES)))
@pytest.mark.parametrize("with_bias", [True, False])
def test_each_slice_gets_its_own_adapter_and_gradients(group, with_bias):
    """Two adapters and a bare slice in one call, against one dense product for each."""
    sites = FUSED_MODULES[group]
    outs, width = [SHAPES[site][0] for site in sites], SHAPES[sites[0]][1]
    bank = AdapterBank([SHAPES], slots=2, lora=LoraSettings(rank=3, alpha=6), dtype=torch.float32, device=CPU)
    for slot in range(2):
        names = bank.state_dict(slot)
        bank.load_state_dict(
            slot, {name: random(*view.shape, seed=slot * 50 + i) for i, (name, view) in enumerate(names.items())}
        )
    frozen = FusedLinear(random(sum(outs), width, seed=7), random(sum(outs), seed=8) if with_bias else None)
    slices = ((0, 0, 4), (-1, 4, 6), (1, 6, 9))
    leaves = [
        {name: view.clone().requires_grad_() for name, view in bank.state_dict(slot).items()} for slot in range(2)
    ]

    def reference(x: Tensor) -> Tensor:
        parts = []
        for slot, start, end in slices:
            own = F.linear(x[start:end], frozen.weight, frozen.bias)
            if slot >= 0:
                pairs = [[leaves[slot][f"layers.0.{TARGET_MODULES[site]}.lora_{m}"] for m in "AB"] for site in sites]
                own = own + torch.cat([2 * F.linear(F.linear(x[start:end], a), b) for a, b in pairs], 1)
            parts.append(own)
        return torch.cat(parts)

    assert_equal_with_gradients(
        lambda x: linear(x, frozen, bank.groups[group], slices, bank), reference, random(9, width, seed=3)
    )
    bank.master.copy_(bank.grad)  # so that `state` names the gradients
    for slot in range(2):
        for name, gradient in bank.state_dict(slot).items():
            own = leaves[slot][name].grad
            torch.testing.assert_close(gradient, torch.zeros_like(gradient) if own is None else own)


def test_stacked_weights_are_held_once(tmp_path):
    hf, _ = load_base(random_base(tmp_path, "qwen2").path, torch.float32, CPU)
    model = LeanModel(hf)
    for module, weight in (
        (hf.model.layers[0].self_attn.q_proj, model.layers[0].groups[0].weight),
        (hf.model.layers[0].mlp.gate_proj, model.layers[0].groups[2].weight),
        (hf.model.layers[0].mlp.down_proj, model.layers[0].groups[3].weight),
    ):
        assert module.weight.data_ptr() == weight.data_ptr()
        assert torch.equal(module.weight, weight[: len(module.weight)])
