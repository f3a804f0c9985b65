"""One small Ray head for all tests that need one, stopped at the end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def ray_head():
    """A Ray head of our own, so that tests neither join nor stop a cluster that a user runs here."""
    ray_command = str(Path(sys.executable).parent / "ray")
    from cluster import rig

    port, dashboard = 26379, 28265
    folder = Path("/tmp") / f"luna-test-ray-{os.getpid()}"
    subprocess.run(
        [
            ray_command, "start", "--head", f"--port={port}", f"--dashboard-port={dashboard}",
            "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", "--disable-usage-stats", "--num-cpus=4",
            "--object-store-memory=268435456", f"--temp-dir={folder}",
        ],
        check=True, capture_output=True, timeout=180, env=rig.environment(),
    )  # fmt: skip
    address = f"127.0.0.1:{port}"
    before = os.environ.get("RAY_ADDRESS")
    os.environ["RAY_ADDRESS"] = address
    yield {"address": address, "dashboard": f"http://127.0.0.1:{dashboard}"}
    import ray

    ray.shutdown()
    if before is None:
        del os.environ["RAY_ADDRESS"]
    else:
        os.environ["RAY_ADDRESS"] = before
    subprocess.run([ray_command, "stop", "--force"], check=False, capture_output=True, timeout=120)
