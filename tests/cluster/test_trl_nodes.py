"""The trl engine on a cluster: it trains where its trainer is, over one copy of the base. Real training, real nodes."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.cluster.trl_on_two_nodes import RUNS
from tests.repository import ROOT


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.cluster.trl_on_two_nodes", str(tmp_path_factory.mktemp("trl"))],
        capture_output=True, text=True, timeout=500, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


@pytest.mark.ray
@pytest.mark.slow
def test_the_trl_engine_trains_on_the_node_of_its_trainer_each_time(told: dict[str, Any]) -> None:
    assert [run["engine"] for run in told["runs"]] == ["trl"] * RUNS
    assert {run["actor"] for run in told["runs"]} == {told["node"]}, "the one with the GPU"
    for run in told["runs"]:
        assert run["looks"], "it was looked at while it trained"
        assert run["at_work"] == run["processes"] == [told["node"]], "one process of the cluster computes, there"


@pytest.mark.ray
@pytest.mark.slow
def test_the_trl_engine_holds_one_copy_of_the_base(told: dict[str, Any]) -> None:
    for run in told["runs"]:
        assert told["base"] * 0.9 <= run["held"] < told["base"] * 1.9, "and what a training leaves behind"
