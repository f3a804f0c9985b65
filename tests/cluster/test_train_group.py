"""One job on several workers under Ray Train, and what becomes of it when a node is lost. Real training, real nodes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cluster.placement import Placement
from cluster.settings import Settings
from cluster.store.reach import Setup
from cluster.workers.train_group import train_in_group
from ledger.errors import LunaError
from ledger.home import Home
from ledger.roles import ROLES
from tests.cluster.lose_a_node import LONG_STEPS
from tests.repository import ROOT
from tests.trainers.builders import CPU, LORA, make_home, make_job, quietly, tiny_base
from tests.trainers.groups import ONE_THREAD
from trainers.fused.engine import FusedEngine
from trainers.models.adapters import WEIGHTS, initial_adapter


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return make_home(tmp_path_factory.mktemp("group"))


@pytest.fixture(scope="module")
def alone(home: Home) -> dict[Any, str]:
    """What one process makes of the job."""
    engine = FusedEngine(tiny_base(home), ONE_THREAD, LORA, CPU)
    return quietly(engine, make_job(home, steps=8, run="alone", **LONG_STEPS))


def trained_on_two_nodes(home: Home, lost_at: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.cluster.lose_a_node", str(home.root.parent), str(lost_at)],
        capture_output=True, text=True, timeout=500, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return told


def update(home: Home, adapters: dict[Any, str]) -> torch.Tensor:
    """All numbers of all roles' adapters, less those that they began with."""
    shapes = FusedEngine(tiny_base(home), ONE_THREAD, LORA, CPU).lean.model.module_shapes
    parts = []
    for role in ROLES:
        stored = load_file(home.adapter_dir(adapters[role]) / WEIGHTS)
        for name, value in initial_adapter(shapes, LORA.rank, 7, role).items():
            parts.append((stored[f"base_model.model.model.{name}.weight"] - value).reshape(-1))
    return torch.cat(parts)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("lost_at", [0, 3])
def test_two_nodes_train_what_one_process_does_also_when_one_of_them_is_lost(
    home: Home, alone: dict[Any, str], lost_at: int
) -> None:
    told = trained_on_two_nodes(home, lost_at)
    sizes = [size for _, size in told["workers"]]
    assert sizes == ([2, 1] if lost_at else [2])
    one, two = update(home, alone), update(home, told["adapters"])
    assert (one - two).norm() / one.norm() <= 5e-3
    assert max(told["steps_seen"]) > max(lost_at, 4), "it went on; the last look may be before the last step"


def test_a_share_of_a_gpu_is_refused_for_workers_that_train_together(tmp_path: Path) -> None:
    import threading

    placement, job = Placement(ROLES, 0.5, workers=2), make_job(make_home(tmp_path), steps=1)
    with pytest.raises(LunaError, match=r"0\.5 of a GPU.*a whole one each"):
        train_in_group(
            placement, Setup(None, Settings()), job, lambda _: None, threading.Event()  # type: ignore[arg-type]
        )  # fmt: skip
