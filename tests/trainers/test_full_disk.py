"""What training writes where a disk has no room: a small limit on files' sizes fails writes as a full disk does."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.repository import ROOT

CODE = """
import resource, sys
from pathlib import Path

import torch

from ledger.errors import LunaError
from trainers.checkpoint import save_checkpoint
from trainers.curves import LossCurves

folder = Path(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000))
try:
    if sys.argv[1] == "checkpoint":
        save_checkpoint(folder, 5, {"master": torch.zeros(4_000)}, {})
    else:
        with LossCurves(folder, ["logical"], 0) as curves:
            for step in range(200):
                curves.add(step, {"logical": 1.0})
except LunaError as error:
    print(error)
"""


@pytest.mark.parametrize("written", ["checkpoint", "curves"])
def test_a_disk_that_refuses_is_told_in_a_sentence(written, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CODE, written, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"could not write {tmp_path}")
    assert "File too large" in done.stdout
    assert not list(tmp_path.glob("checkpoint-*"))
