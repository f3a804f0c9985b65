"""Every config that Luna ships loads."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.settings import load_settings
from tests.repository import ROOT

SHIPPED = sorted((ROOT / "configs").glob("*.toml"))


def test_the_four_profiles_are_shipped() -> None:
    assert {"tiny", "smol", "rig", "rig-1b"} <= {path.stem for path in SHIPPED}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_config_loads(path: Path) -> None:
    load_settings(path)
