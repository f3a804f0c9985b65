"""A whole step of the GPU's path without a GPU: on fake tensors, with Qwen2.5-0.5B's widths.

Rows, passes, clip, AdamW and rounding are the engine's own. A kernel of Triton's is one launch and gives a shape; an
operation whose result depends on values raises, as it would break the capture of a CUDA graph.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from bench.gpu import QWEN2_HALF_BILLION
from bench.gpu_loops import RANK, ROLES_TRAINED, Setting, random_rows, run_graph, step_groups
from tests.repository import ROOT
from tests.trainers.launches import Launches, Silent
from trainers.config import LoraSettings
from trainers.fused import graph
from trainers.fused.graph import Driver, GraphStep
from trainers.fused.step import StepLosses, StepParts
from trainers.lean.adapter_bank import AdapterBank
from trainers.lean.lanes import Lanes
from trainers.lean.model import LeanModel
from trainers.lean.segments import Segments

CARD = torch.device("meta")
"""Stands for a card: apart from the host, and without numbers. A torch for CPUs has no fake tensors on `cuda`."""
LAUNCHES_A_LAYER, OF_THE_PASS = 75, 50
VOCABULARY = 512


@dataclass
class Step:
    """What is needed to take one step on fake tensors."""

    trio: GraphStep
    kernels: Silent
    parts: list[Segments]
    counter: Launches

    def take(self) -> StepLosses:
        """As `FusedRun` does with a batch that was packed ahead: until its losses are on the host."""
        shares = self.trio.bank.master.new_ones(3, ROLES_TRAINED)
        found = self.trio.channel_gradients(StepParts(self.parts, shares=shares))
        self.trio.move([2e-4] * ROLES_TRAINED, 1.0, found.norms, found.total <= 0.0)
        return found.on_host()


@contextmanager
def on_a_card(monkeypatch: pytest.MonkeyPatch, layers: int = 2, parts: int = 1) -> Iterator[Step]:
    """The GPU's step over a bfloat16 model, the seed recipe's 8 rows a role in so many parts."""
    kernels = Silent()
    monkeypatch.setattr(graph, "driver_of", lambda device: Driver(is_there=False, memory=80 << 30))
    monkeypatch.setattr(graph, "best_ops", lambda device: kernels)
    monkeypatch.setattr(graph, "rounding", kernels.rounding)
    parts_of_step = step_groups(random_rows(1, VOCABULARY, 8), 0, Setting("", 8 // parts, parts, run_graph))
    model = LeanModel(numberless(layers))
    bank = AdapterBank(model.module_shapes, ROLES_TRAINED, LoraSettings(rank=RANK), torch.bfloat16, CARD)
    trio = GraphStep(model, bank, Lanes(1, torch.device("cpu")), 0.01)
    packed = trio.pack(parts_of_step)
    with FakeTensorMode(allow_non_fake_inputs=True), Launches(CARD.type) as counter:
        yield Step(trio, kernels, packed, counter)


def numberless(layers: int) -> Any:
    """A Qwen2 of the widths of Qwen2.5-0.5B."""
    from transformers import AutoModelForCausalLM, Qwen2Config

    config = Qwen2Config(**{**QWEN2_HALF_BILLION, "num_hidden_layers": layers, "vocab_size": VOCABULARY})
    with CARD:
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)


def counted(monkeypatch: pytest.MonkeyPatch, **shape: int) -> Launches:
    """What a step launches, copies and waits for, Triton's kernels among the launches."""
    with on_a_card(monkeypatch, **shape) as step:
        step.take()
    step.counter.by_name["triton"] += step.kernels.kernels
    return step.counter


def test_a_step_stays_within_its_budget_of_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a step over two layers all that is done once counts with them: losses, clip, AdamW, rounding."""
    two, four = (counted(monkeypatch, layers=layers).launches for layers in (2, 4))
    assert two / 2 <= LAUNCHES_A_LAYER, f"{two} launches"
    assert (four - two) / 2 <= OF_THE_PASS, f"{two} and {four} launches"


def test_a_step_copies_its_rows_and_its_orders_to_the_card_and_waits_only_for_its_losses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counter = counted(monkeypatch)
    assert counter.waits == 0
    assert counter.to_device <= 2
    assert counter.to_host == 1, "the losses, once the update is on its way"


def test_a_step_in_parts_copies_each_part_and_waits_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = counted(monkeypatch, parts=2)
    assert (counter.waits, counter.to_device, counter.to_host) == (0, 3, 1)


def test_no_operation_of_a_step_depends_on_values(monkeypatch: pytest.MonkeyPatch) -> None:
    with on_a_card(monkeypatch) as step:
        found = step.take()
        assert found.total.shape == found.norms.shape == (ROLES_TRAINED,)


def test_a_step_that_looks_at_a_value_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the check is worth: one `item` in the update, and it raises."""
    with on_a_card(monkeypatch) as step:
        plain = step.trio._round
        step.trio._round = lambda: plain() if step.trio._found[4].sum().item() else None
        with pytest.raises(DataDependentOutputException):
            step.take()


def test_each_kernel_counts_as_often_as_it_is_launched() -> None:
    tree = ast.parse((ROOT / "trainers" / "gpu" / "triton_ops.py").read_text(encoding="utf-8"))
    (ops,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "TritonOps"]
    for method in [node for node in ops.body if isinstance(node, ast.FunctionDef)]:
        launched = sum(
            isinstance(node, ast.Subscript) and ast.unparse(node.value).startswith("kernels.")
            for node in ast.walk(method)
        )
        stands = inspect.getsource(getattr(Silent, method.name))
        assert f"self.kernels += {launched}\n" in stands, method.name
