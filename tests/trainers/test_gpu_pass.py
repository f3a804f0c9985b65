"""The GPU's pass, forced on the CPU in float32, against the lean forward with autograd; its kernels in the interpreter.

Launches are counted and the whole pass is run on fake tensors, so that what a CUDA graph needs (fixed shapes, nothing
that waits for the host) is checked without a GPU.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ledger.roles import ROLES
from tests.trainers.builders import CPU, LORA, random_base, sums
from tests.trainers.launches import Launches, Silent
from trainers.data import tokenise
from trainers.fused.graph import _ROOM, GraphStep, bytes_a_token, no_collection, step_for
from trainers.fused.step import StepParts, TrioStep
from trainers.gpu.ops import PlainOps
from trainers.gpu.segment_pass import SegmentPass
from trainers.lean.adapter_bank import AdapterBank
from trainers.lean.lanes import Lanes
from trainers.lean.model import LeanModel
from trainers.lean.packing import Group, Row, cut, pack
from trainers.lean.segments import SegmentViews, lay_out, slot_weights
from trainers.models.adapters import initial_adapter
from trainers.models.frozen import load_base

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def loaded(request, tmp_path_factory):
    hf, tokenizer = load_base(
        random_base(tmp_path_factory.mktemp(request.param), request.param).path, torch.float32, CPU
    )
    return LeanModel(hf), tokenizer


def filled_bank(model, slots=3):
    """Adapters whose B matrices are not zero, as after some steps."""
    bank = AdapterBank(model.module_shapes, slots, LORA, torch.float32, CPU)
    for slot in range(slots):
        bank.load_state_dict(slot, initial_adapter(model.module_shapes, LORA.rank, 1, ROLES[slot]))
    torch.manual_seed(3)
    bank.master.add_(torch.randn_like(bank.master) * 0.02)
    bank.round_to_compute()
    return bank


def groups_of(tokenizer, counts=(3, 1, 4)):
    """Rows of different lengths and weights; the second group has one row, and so no prefix."""
    chosen = [sums(role, count, offset=count * 90) for role, count in zip(ROLES, counts, strict=True)]
    rows = [[tokenise(tokenizer, example) for example in own] for own in chosen]
    weighted = [[Row(row.tokens, row.prompt_len, 0.5 + i / 2) for i, row in enumerate(own)] for own in rows]
    return [Group(slot, own) for slot, own in enumerate(weighted) if own]


def found_by_lean(model, bank, groups, shares=None):
    step = TrioStep(model, bank, Lanes(1, CPU))
    both = None if shares is None else torch.stack((shares, torch.ones_like(shares), torch.ones_like(shares)))
    found = step.channel_gradients(StepParts([pack(groups, CPU)], shares=both))
    return found.sft, bank.grad.clone()


def found_by_pass(model, bank, parts, ops=None, shares=None):
    run = SegmentPass.over(model, bank, ops or PlainOps(), 256)
    bank.grad.fill_(float("nan"))  # all of it must be written
    losses, weights = torch.zeros(bank.slots), slot_weights(parts, bank.slots)
    for number, part in enumerate(parts):
        batch = lay_out(part, bank.slots, weights, pinned=False)
        views = SegmentViews.of(batch.buffer, batch.bucket)
        losses += run(views, batch.bucket, torch.ones(bank.slots) if shares is None else shares, number == 0)
    return losses, bank.grad.clone()


def assert_close(found, expected, tolerance=1e-5):
    assert torch.isfinite(found).all()
    assert (found - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize("counts", [(3, 1, 4), (2, 0, 3)])
def test_losses_and_gradients_equal_the_lean_forwards(loaded, counts):
    model, tokenizer = loaded
    bank, groups = filled_bank(model), groups_of(tokenizer, counts)
    expected = found_by_lean(model, bank, groups)
    for found, wanted in zip(found_by_pass(model, bank, [groups]), expected, strict=True):
        assert_close(found, wanted)


def test_parts_add_up_and_channel_shares_scale_the_gradient(loaded):
    model, tokenizer = loaded
    bank, groups, shares = filled_bank(model), groups_of(tokenizer), torch.tensor([0.25, 0.5, 1.0])
    expected = found_by_lean(model, bank, groups, shares)
    found = found_by_pass(model, bank, cut(groups, 3), shares=shares)
    assert_close(found[0], expected[0])
    assert_close(found[1], expected[1])


def test_a_pass_takes_few_launches_a_layer_and_waits_for_nothing(loaded):
    model, tokenizer = loaded
    bank, silent = filled_bank(model), Silent()
    run = SegmentPass.over(model, bank, silent, 256)
    batch = lay_out(groups_of(tokenizer), 3, [1.0] * 3, pinned=False)
    views = SegmentViews.of(batch.buffer, batch.bucket)
    with Launches("cpu") as counter:
        run(views, batch.bucket, torch.ones(3), fresh=True)
    assert counter.waits == 0
    apart = 16  # embedding, losses
    assert (counter.launches + silent.kernels - apart) / len(model.layers) <= 50


def test_no_operation_of_a_pass_depends_on_values(loaded):
    model, tokenizer = loaded
    bank = filled_bank(model)
    run = SegmentPass.over(model, bank, PlainOps(), 256)
    batch = lay_out(groups_of(tokenizer), 3, [1.0] * 3, pinned=False)
    with FakeTensorMode(allow_non_fake_inputs=True):
        views = SegmentViews.of(torch.empty(batch.bucket.numbers, dtype=torch.int32), batch.bucket)
        assert run(views, batch.bucket, torch.ones(3), fresh=True).shape == (3,)


def both_steps(model):
    banks = filled_bank(model), filled_bank(model)
    return TrioStep(model, banks[0], Lanes(1, CPU), 0.1), GraphStep(model, banks[1], Lanes(1, CPU), 0.1)


def test_steps_move_the_adapters_as_the_lean_ones_do(loaded):
    model, tokenizer = loaded
    lean, graph = both_steps(model)
    start = lean.bank.master.clone()
    for number in range(3):
        rates = [1e-2, None if number == 1 else 1e-2, 1e-3]
        groups = [groups_of(tokenizer, (2 + number, 1, 2))]
        found = [step.channel_gradients(StepParts(step.pack(groups))) for step in (lean, graph)]
        for a, b in zip((found[0].total, found[0].norms), (found[1].total, found[1].norms), strict=True):
            assert_close(b, a, 1e-4)
        for step, own in zip((lean, graph), found, strict=True):
            step.move(rates, 0.5, own.norms)
    # Where a gradient is nothing but rounding AdamW still moves by the rate: masters differ more than gradients.
    assert_close(graph.bank.master - start, lean.bank.master - start, 2e-2)
    assert [float(graph.state_dict()[f"{slot}.step"]) for slot in range(3)] == [3, 2, 3]


def test_a_step_that_is_not_finite_moves_nothing(loaded):
    model, tokenizer = loaded
    _, graph = both_steps(model)
    before = {name: value.clone() for name, value in graph.state_dict().items()}
    found = graph.channel_gradients(StepParts(graph.pack([groups_of(tokenizer)])))
    graph._found[3, 1] = float("inf")
    graph.move([1e-2] * 3, 1.0, found.norms)
    assert all(torch.equal(value, before[name]) for name, value in graph.state_dict().items())


def test_restored_state_goes_on_as_if_nothing_had_happened(loaded):
    model, tokenizer = loaded
    lean, graph = both_steps(model)
    batch = graph.pack([groups_of(tokenizer)])
    for step in (graph, graph):
        step.move([1e-2] * 3, 1.0, step.channel_gradients(StepParts(batch)).norms)
    kept = {name: value.clone() for name, value in graph.state_dict().items()}
    graph.move([1e-2] * 3, 1.0, graph.channel_gradients(StepParts(batch)).norms)
    after = graph.bank.master.clone()
    graph.load_state_dict(kept)
    graph.move([1e-2] * 3, 1.0, graph.channel_gradients(StepParts(batch)).norms)
    assert torch.equal(graph.bank.master, after)
    lean.load_state_dict(kept)
    assert torch.equal(lean.bank.master, kept["master"])


def short_groups(tokenizer):
    """Few tokens, for the interpreter takes a millisecond an operation: two rows that share a prefix, and one alone."""
    whole = [tokenise(tokenizer, example) for example in sums("logical", 3)]
    rows = [Row([*row.tokens[:20], *row.tokens[-36:]], row.prompt_len + 56 - len(row.tokens)) for row in whole]
    return [Group(0, rows[:2]), Group(1, [Row(rows[2].tokens[40:], rows[2].prompt_len - 40, 0.5)])]


if os.environ.get(
    "TRITON_INTERPRET"
):  # read when Triton is imported, so the last test runs this one in its own process

    def test_kernels_give_the_plain_operations_losses_and_gradients(loaded):
        model, tokenizer = loaded
        from trainers.gpu.triton_ops import Rounding, TritonOps

        model.layers = model.layers[:1]
        bank, groups = filled_bank(model, slots=2), short_groups(tokenizer)
        assert lay_out(groups, 2, [1.0] * 2, pinned=False).bucket.length == 128, "two blocks of attention"
        expected = found_by_pass(model, bank, [groups])
        for found, wanted in zip(found_by_pass(model, bank, [groups], TritonOps()), expected, strict=True):
            assert_close(found, wanted)
        wanted = [diagonal.clone() for diagonal in bank._diagonals]
        for diagonal in bank._diagonals:
            diagonal.mul_(2.0)
        Rounding(bank)()
        assert all(torch.equal(a, b) for a, b in zip(bank._diagonals, wanted, strict=True))


def test_a_step_is_freed_when_its_owner_lets_go_of_it(loaded):
    """Without a garbage collection: one that frees a graph while another is captured breaks that one."""
    model, tokenizer = loaded
    _, graph = both_steps(model)
    graph.move([1e-2] * 3, 1.0, graph.channel_gradients(StepParts(graph.pack([groups_of(tokenizer)]))).norms)
    there = weakref.ref(graph)
    with no_collection():
        assert not gc.isenabled()
        del graph
        assert there() is None
    assert gc.isenabled()


def test_a_cpu_takes_its_steps_part_by_part(loaded):
    assert step_for(loaded[0], LORA.rank) is TrioStep


def test_few_parts_where_there_is_memory_and_no_more_than_asked_for(loaded):
    model, _ = loaded
    _, graph = both_steps(model)
    assert graph.parts(tokens=1000, most=4) == 1
    graph._memory = int(1000 * bytes_a_token(model, LORA.rank) / _ROOM / 2)
    assert graph.parts(tokens=1000, most=4) == 2
    assert graph.parts(tokens=100_000, most=4) == 4


def test_kernels_in_the_interpreter():
    pytest.importorskip("triton")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        __file__,
        "-k",
        "plain_operations and qwen2",
    ]
    done = subprocess.run(
        command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "1 passed" in done.stdout
