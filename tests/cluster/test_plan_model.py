"""What the plan reckons with against what was measured on an H200 (bench/results/gpu.md): bytes and milliseconds."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest

from bench.gpu import QWEN2_HALF_BILLION, flops
from bench.gpu_loops import ANSWER_TOKENS, HEADER_TOKENS, RANK, Setting, Work, random_rows, run_graph, step_groups
from cluster.devices import Device
from cluster.plan import BaseShape, RoleRows, Wanted
from cluster.plan import memory as model
from cluster.plan.memory import MIB, footprint
from cluster.plan.seconds import flops as planned_flops
from cluster.plan.seconds import step_seconds
from ledger.roles import ROLES
from tests.repository import ROOT
from trainers.config import LoraSettings
from trainers.fused.graph import _ROOM, bytes_a_token
from trainers.lean.adapter_bank import AdapterBank

TOLERANCE = 0.15
RESULTS = (ROOT / "bench" / "results" / "gpu.md").read_text(encoding="utf-8")
SHAPE = BaseShape.of_config(QWEN2_HALF_BILLION)
H200 = Device("node", 0, "cuda", "NVIDIA H200", "9.0", 143_771 * MIB, 143_000 * MIB)
AMPERE_SMALL = replace(H200, name="an unknown card", capability="7.5")  # too old for the graph step


@dataclass(frozen=True)
class Rows:
    """The rows that a bench drew: every variant has the same."""

    count: int

    @property
    def roles(self) -> tuple[RoleRows, ...]:
        """Each role with the longest segment that two steps had."""
        rows = random_rows(2, SHAPE.vocabulary, self.count)
        groups = [group for step in range(2) for (part,) in [step_groups(rows, step, self.setting)] for group in part]
        longest = max(sum(len(row.tokens) - HEADER_TOKENS for row in group.rows) for group in groups)
        answer = sum(ANSWER_TOKENS) / 2
        a_row = HEADER_TOKENS + longest / self.count
        return tuple(RoleRows(role, self.count, 45, a_row, answer, HEADER_TOKENS) for role in ROLES)

    @property
    def setting(self) -> Setting:
        return Setting("", self.count, 1, run_graph)

    @property
    def wanted(self) -> Wanted:
        return Wanted(SHAPE, RANK, self.roles, dtype="bfloat16")


def measured_peaks(way: str) -> dict[int, int]:
    """MiB by rows a role."""
    (line,) = re.findall(r"^- peak MiB of tensors by rows a role: (.*)$", RESULTS, re.MULTILINE)
    return {int(rows): int(peak) for rows, peak in re.findall(rf"(\d+) rows, {way}: (\d+)", line)}


@pytest.mark.parametrize("rows", [8, 16, 32, 64])
def test_the_graph_steps_bytes_are_those_that_were_measured(rows: int) -> None:
    measured = measured_peaks("segments and graphs")[rows]
    own = footprint(Rows(rows).wanted, Rows(rows).roles, H200)
    assert (own.total - model.CONTEXT) / MIB == pytest.approx(measured, rel=TOLERANCE)  # a context is no tensor


@pytest.mark.parametrize("rows", [8, 16, 32, 64])
def test_bytes_of_a_step_part_by_part_are_those_that_were_measured(rows: int) -> None:
    """In the bench's process many graph steps had run before, whose streams kept their workspaces."""
    measured = measured_peaks("part by part")[rows]
    own = footprint(Rows(rows).wanted, Rows(rows).roles, AMPERE_SMALL)
    tensors = own.total - own.process + model.STREAMS * model.WORKSPACE_HOPPER
    assert tensors / MIB == pytest.approx(measured, rel=TOLERANCE)


@pytest.mark.parametrize("rows", [8, 64])
def test_a_graph_steps_milliseconds_are_those_that_were_measured(rows: int) -> None:
    (measured,) = re.findall(rf"^- variant, {rows} rows, as it is: ([\d.]+) ms", RESULTS, re.MULTILINE)
    assert step_seconds(Rows(rows).wanted, Rows(rows).roles, H200, 1) * 1e3 == pytest.approx(
        float(measured), rel=TOLERANCE
    )


@pytest.mark.parametrize("rows", [8, 64])
def test_a_step_part_by_part_takes_what_was_measured(rows: int) -> None:
    found = re.findall(rf"without segments and graphs *\| {rows} x 1 \*? *\| (\d+)", RESULTS)
    measured = 3 * rows / float(found[0])
    old = replace(H200, capability="7.5")
    assert step_seconds(Rows(rows).wanted, Rows(rows).roles, old, 1) == pytest.approx(measured, rel=TOLERANCE)


def test_products_are_counted_as_the_bench_counts_them() -> None:
    role = RoleRows("logical", 4, 50, 50, 8, 20)
    config = SimpleNamespace(**QWEN2_HALF_BILLION)
    tokens, rest = 20 + 4 * 30, 30
    pairs = 20 * 21 // 2 + 4 * (rest * 20 + rest * (rest + 1) // 2)
    assert planned_flops(SHAPE, RANK, (role,)) == pytest.approx(flops(Work(tokens, 4 * 8, pairs), config))


def test_parameters_are_those_of_the_model() -> None:
    """Qwen2.5-0.5B has 494,032,768 parameters, biases and norms among them."""
    assert SHAPE.parameters == pytest.approx(494_032_768, rel=1e-3)


def test_a_role_takes_what_its_bank_takes() -> None:
    import torch

    small = replace(SHAPE, layers=2, width=64, inner=160, heads=4, key_heads=2, head_width=16, vocabulary=512)
    bank = AdapterBank([small.modules] * 2, 3, LoraSettings(rank=8), torch.bfloat16, torch.device("cpu"))
    held = [bank.master, bank.compute, bank.grad, bank.grad, bank.grad, *bank._diagonals]  # two moments like grad
    assert model.adapter_bytes(small, 8, 3, 2) == sum(one.nbytes for one in held)


def test_states_are_those_that_the_graph_step_reckons_with() -> None:
    """It adds a fifth for gradients and padding, which are terms of their own here."""
    lean = SimpleNamespace(
        module_shapes=[SHAPE.modules], layers=range(SHAPE.layers),
        embedding=SimpleNamespace(element_size=lambda: 2),
        recomputes=False,
    )  # fmt: skip
    reckoned = bytes_a_token(lean, RANK)  # type: ignore[arg-type]
    assert model.states_a_token(SHAPE, RANK) * 2 * 6 // 5 == pytest.approx(reckoned, rel=1e-6)
    assert model.ROOM == _ROOM
