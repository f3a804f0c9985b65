"""A whole step of the GPU's path without a GPU: on fake tensors that lie on a card, with Qwen2.5-0.5B's widths.

Rows, passes, clip, AdamW and rounding are the engine's own. A kernel of Triton's is one launch and gives a shape; an
operation whose result depends on values raises, as it would break the capture of a CUDA graph.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
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

CARD = torch.device("cuda", 0)
LAUNCHES_A_LAYER = 75
VOCABULARY = 512


@dataclass
class Step:
    """What is needed to take one step on fake tensors."""

    trio: GraphStep
    kernels: Silent
    parts: list[Segments]

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
    rows = random_rows(1, VOCABULARY, 8)
    packed = [GraphStepPacking.segments(step_groups(rows, 0, Setting("", 8 // parts, parts, run_graph)))]
    with FakeTensorMode() as fake:
        model = LeanModel(fake_model(layers))
        lora = LoraSettings(rank=RANK, alpha=2 * RANK)
        bank = AdapterBank(model.module_shapes, ROLES_TRAINED, lora, torch.bfloat16, CARD)
        trio = GraphStep(model, bank, Lanes(1, torch.device("cpu")), 0.01)
        yield Step(trio, kernels, [replace(part, buffer=fake.from_tensor(part.buffer)) for part in packed[0]])


class GraphStepPacking:
    """The step's own packing, which is the host's work and is done on numbers."""

    @staticmethod
    def segments(groups: Any) -> list[Segments]:
        from trainers.lean.segments import lay_out, slot_weights

        weights = slot_weights(groups, ROLES_TRAINED)
        return [lay_out(part, ROLES_TRAINED, weights, pinned=False) for part in groups]


def fake_model(layers: int) -> Any:
    from transformers import AutoModelForCausalLM, Qwen2Config

    config = Qwen2Config(**{**QWEN2_HALF_BILLION, "num_hidden_layers": layers, "vocab_size": VOCABULARY})
    with torch.device(CARD):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)


def counted(monkeypatch: pytest.MonkeyPatch, **shape: int) -> tuple[int, Launches]:
    """Launches of a step after the first, kernels among them, and what else was counted."""
    with on_a_card(monkeypatch, **shape) as step:
        step.take()
        step.kernels.kernels = 0
        with Launches("cuda") as counter:
            step.take()
        return counter.launches + step.kernels.kernels, counter


def test_a_step_stays_within_its_budget_of_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a step over two layers all that is done once counts with them: losses, clip, AdamW, rounding."""
    two, _ = counted(monkeypatch, layers=2)
    four, _ = counted(monkeypatch, layers=4)
    print(two, four, _.by_name)
    assert two / 2 <= LAUNCHES_A_LAYER
    assert (four - two) / 2 <= 50


def test_a_step_copies_its_rows_and_its_orders_to_the_card_and_waits_only_for_its_losses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, counter = counted(monkeypatch)
    assert counter.waits == 0
    assert counter.to_device <= 2
    assert counter.to_host == 1, "the losses, once the update is on its way"


def test_a_step_in_parts_copies_each_part_and_waits_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    _, counter = counted(monkeypatch, parts=2)
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
