"""What every test gets: a home of its own, no network, and the same hypothesis examples on every run.

Free of Ray and torch, so that `tests/gpu` runs where only the training libraries are installed.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Set before any library reads them: the hub is never asked, and nothing reports usage.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

try:
    from hypothesis import settings
except ImportError:  # a GPU machine needs no property tests
    pass
else:
    settings.register_profile("luna", deadline=None, derandomize=True, database=None)
    settings.load_profile("luna")


@pytest.fixture(autouse=True)
def _home_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever falls back to LUNA_HOME in a test falls back to the test's own folder."""
    monkeypatch.setenv("LUNA_HOME", str(tmp_path / "luna-home"))
