"""Work cut in parts and done side by side gives what doing it at once gives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ledger.roles import ROLES
from tests.trainers.builders import CPU, LORA, make_home, sums, tiny_base
from trainers.data import tokenise
from trainers.fused.step import TrioStep
from trainers.lean.adapter_bank import AdapterBank
from trainers.lean.generator import LeanGenerator
from trainers.lean.lanes import Lanes, lane_count
from trainers.lean.model import LeanModel
from trainers.lean.packing import Group, Row, cut, pack
from trainers.models.adapters import initial_adapter
from trainers.models.frozen import load_base

lengths = st.lists(st.integers(2, 40), min_size=1, max_size=9)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    hf, tokenizer = load_base(tiny_base(make_home(tmp_path_factory.mktemp("lanes"))).path, torch.float32, CPU)
    return LeanModel(hf), tokenizer


def make_bank(model, seed=1):
    bank = AdapterBank(model.module_shapes, 3, LORA, torch.float32, CPU)
    for slot, role in enumerate(ROLES):
        tensors = initial_adapter(model.module_shapes, LORA.rank, seed, role)
        bank.load_state_dict(slot, {name: value + 0.01 for name, value in tensors.items()})
    return bank


@pytest.mark.parametrize(("threads", "lanes"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 1), (6, 3), (8, 4), (16, 4)])
def test_lanes_share_the_threads_evenly(threads, lanes):
    assert lane_count(threads, CPU) == lanes
    assert threads % lanes == 0


def test_a_small_step_goes_in_lanes_and_one_too_small_to_share_goes_whole():
    two = Lanes(2, CPU)
    assert [two.lanes_for(rows) for rows in (0, 1, 3, 4, 24)] == [1, 1, 1, 2, 2]
    assert Lanes(4, CPU).lanes_for(6) == 1
    assert Lanes(2, torch.device("cuda")).lanes_for(24) == 1


def test_an_accelerator_has_one_lane():
    assert lane_count(16, torch.device("cuda")) == 1


@given(st.lists(lengths, min_size=1, max_size=3), st.integers(1, 5))
def test_pieces_hold_every_row_once_in_order(groups, parts):
    given_groups = [
        Group(slot, [Row([100 * slot + i] * n, 1) for i, n in enumerate(own)]) for slot, own in enumerate(groups)
    ]
    pieces = cut(given_groups, parts)
    assert len(pieces) <= parts
    assert all(group.rows for piece in pieces for group in piece)
    flat = [(group.slot, row) for piece in pieces for group in piece for row in group.rows]
    assert flat == [(group.slot, row) for group in given_groups for row in group.rows]
    assert sum(len(piece) for piece in pieces) <= len(given_groups) + parts - 1


@given(lengths, st.integers(2, 4))
def test_pieces_are_as_even_as_their_longest_row_allows(own, parts):
    pieces = cut([Group(0, [Row([i] * n, 1) for i, n in enumerate(own)])], parts)
    sizes = [sum(len(row.tokens) for group in piece for row in group.rows) for piece in pieces]
    assert max(sizes) <= sum(own) / parts + max(own)


def test_gradients_in_lanes_equal_those_of_one_pass(base):
    model, tokenizer = base
    groups = [Group(slot, [tokenise(tokenizer, e) for e in sums(role, 5)]) for slot, role in enumerate(ROLES)]
    whole, side_by_side = (
        TrioStep(model, make_bank(model), Lanes(1, CPU)),
        TrioStep(model, make_bank(model), Lanes(3, CPU)),
    )
    losses, norms = whole.gradients([pack(groups, CPU)])
    lane_losses, lane_norms = side_by_side.gradients([pack(part, CPU) for part in cut(groups, 3)], lanes=3)
    torch.testing.assert_close(lane_losses, losses, atol=1e-5, rtol=0)
    torch.testing.assert_close(lane_norms, norms, atol=0, rtol=1e-4)
    torch.testing.assert_close(side_by_side.bank.grad, whole.bank.grad, atol=1e-5, rtol=1e-3)


def test_equal_lanes_give_equal_bytes(base):
    model, tokenizer = base
    groups = [Group(slot, [tokenise(tokenizer, e) for e in sums(role, 2)]) for slot, role in enumerate(ROLES)]

    def trained():
        trio = TrioStep(model, make_bank(model), Lanes(2, CPU))
        for _ in range(3):
            _, norms = trio.gradients([pack(part, CPU) for part in cut(groups, 2)], lanes=2)
            trio.move([1e-3] * len(ROLES), 1.0, norms)
        return trio.bank.master

    assert torch.equal(trained(), trained())


def test_a_role_without_rows_keeps_no_gradient_of_the_step_before(base):
    model, tokenizer = base
    trio = TrioStep(model, make_bank(model), Lanes(2, CPU))
    groups = [Group(slot, [tokenise(tokenizer, e) for e in sums(role, 2)]) for slot, role in enumerate(ROLES)]
    trio.gradients([pack(groups, CPU)])
    losses, norms = trio.gradients([pack(groups[:1], CPU)])
    assert losses[0] > 0
    assert norms[0] > 0
    assert losses[1:].tolist() == norms[1:].tolist() == [0.0, 0.0]


def test_answers_and_scores_do_not_depend_on_lanes(base):
    model, tokenizer = base
    slots = {role: slot for slot, role in enumerate(ROLES)}
    prompts = [e.input for e in sums("logical", 11)]
    pairs = [(prompt, answer) for prompt in prompts for answer in ("●", "⊥", "◑")]
    one = LeanGenerator(model, tokenizer, make_bank(model), slots)
    three = LeanGenerator(model, tokenizer, make_bank(model), slots, Lanes(3, CPU), rows_at_once=5)
    assert three.generate("logical", prompts, 6) == one.generate("logical", prompts, 6)
    found, wanted = three.likelihoods("logical", pairs), one.likelihoods("logical", pairs)
    assert [own.mean for own in found] == pytest.approx([own.mean for own in wanted], abs=1e-4)
    assert [own.greedy for own in found] == [own.greedy for own in wanted]
    assert three.generate("logical", [], 6) == []
