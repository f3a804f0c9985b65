"""A home recorded by an earlier version of Luna: its generations still train to equal bytes."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.repository import ROOT

RECORDED = ROOT / "tests" / "fixtures" / "recorded"

PORTABLE_ARITHMETIC = {
    # The same sums on every x86-64 processor: one thread, and no instructions that only some have.
    "MKL_CBWR": "COMPATIBLE",
    "ATEN_CPU_CAPABILITY": "default",
    "OMP_NUM_THREADS": "1",
}

pytestmark = pytest.mark.slow


MAKE_BASE = """
from pathlib import Path
from ledger.home import Home
import sys
from trainers.models.frozen import prepare_base
from ledger.store import Ledger
from trainers.config import FrozenModelSettings
home = Home(Path(sys.argv[1])).create()
prepare_base(FrozenModelSettings(source="tiny"), home)
Ledger.create(home).close()  # as any command that writes does, so that a newer Luna reads the home
"""


def run_portably(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **PORTABLE_ARITHMETIC},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorded home, with its base made again from the seed; adapters are not kept with the tests."""
    root = tmp_path_factory.mktemp("recorded") / "home"
    shutil.copytree(RECORDED, root)
    with closing(sqlite3.connect(root / "luna.db")) as database:
        database.executescript((root / "luna.sql").read_text(encoding="utf-8"))
    made = run_portably("-c", MAKE_BASE, str(root))
    assert made.returncode == 0, made.stderr
    return root


@pytest.mark.parametrize("generation", ["G0", "G1"])  # in this order: G1 starts from the adapters that G0 puts back
def test_a_generation_recorded_by_an_earlier_version_trains_to_equal_bytes(recorded: Path, generation: str) -> None:
    done = run_portably("-m", "jobs.cli", "reproduce", generation, "--home", str(recorded))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "DIFFERENT" not in done.stdout
