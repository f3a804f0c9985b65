"""The CPU product of adapters: each row gets its own adapter's change, whatever it is batched with."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("vllm", reason="vLLM cannot be installed on this platform")

from serving.engines.cpu_lora import add_lora, by_adapter

SLOTS, RANK, WIDTH, SLICES = 3, 4, 6, (5, 2)


def stacked(seed):
    generator = torch.Generator().manual_seed(seed)
    a = tuple(torch.randn(SLOTS, 1, RANK, WIDTH, generator=generator) for _ in SLICES)
    b = tuple(torch.randn(SLOTS, 1, out, RANK, generator=generator) for out in SLICES)
    x = torch.randn(16, WIDTH, generator=generator)
    return a, b, x, torch.randn(16, sum(SLICES), generator=generator)


@given(st.lists(st.integers(-1, SLOTS - 1), min_size=1, max_size=16), st.integers(0, 5))
def test_every_row_gets_its_own_adapter_and_rows_without_one_stay(slots, seed):
    a, b, x, y = stacked(seed)
    found = y.clone()
    add_lora(found, x, a, b, 0.5, by_adapter(torch.tensor(slots)))
    for row in range(len(x)):
        slot = slots[row] if row < len(slots) else -1
        change = [0.5 * b[i][slot, 0] @ (a[i][slot, 0] @ x[row]) for i in range(len(SLICES))]
        wanted = y[row] + torch.cat(change) if slot >= 0 else y[row]
        assert torch.allclose(found[row], wanted, atol=1e-5), (row, slot)
        assert slot >= 0 or torch.equal(found[row], y[row])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_where_every_token_has_an_adapter_it_gives_what_vllm_gives(dtype):
    from vllm.lora.ops.torch_ops import bgmv_expand_slice, bgmv_shrink

    a, b, x, y = stacked(7)
    a, b, x, y = [one.to(dtype) for one in a], [one.to(dtype) for one in b], x.to(dtype), y.to(dtype)
    slots = torch.arange(16) % SLOTS
    wanted, start = y.clone(), 0
    for i, out in enumerate(SLICES):
        middle = torch.zeros(16, RANK)
        bgmv_shrink(x, a[i], middle, slots, 0.5)
        bgmv_expand_slice(middle, b[i], wanted, slots, start, out)
        start += out
    add_lora(y, x, tuple(a), tuple(b), 0.5, by_adapter(slots))
    assert torch.allclose(y, wanted, atol=1e-5 if dtype == torch.float32 else 0.1)


def test_vllm_takes_this_class_on_a_cpu():
    from vllm.platforms.cpu import CpuPlatform

    assert CpuPlatform.get_punica_wrapper() == "serving.engines.cpu_lora.GroupedLora"
