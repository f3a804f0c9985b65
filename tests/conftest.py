"""What every test gets: a home of its own, no network, and the same hypothesis examples on every run.

Free of Ray and torch, so that `tests/gpu` runs where only the training libraries are installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

# Set before any library reads them: the hub is never asked, and nothing reports usage.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Where an earlier `ray.init()` left a token in ~/.ray a new head asks for it, and who names an address sends none.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

try:
    from hypothesis import settings
except ImportError:  # a GPU machine needs no property tests
    pass
else:
    settings.register_profile("luna", deadline=None, derandomize=True, database=None)
    settings.load_profile("luna")


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, Any, Any]:
    """A file that is skipped because this machine lacks something."""
    report = yield
    return _failed_in_ci(report)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """A test that is skipped because this machine lacks something."""
    report = yield
    return _failed_in_ci(report)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `--dist loadgroup`: what shares an expensive fixture stays in one process, other Ray tests go one by one."""
    for item in items:
        if not item.get_closest_marker("ray"):
            group = item.nodeid.partition("::")[0]
        elif "served" in getattr(item, "fixturenames", ()):
            group = "served"
        else:
            continue
        item.add_marker(pytest.mark.xdist_group(group))


def _failed_in_ci(report):
    """What a developer's machine may lack (a browser, an engine), continuous integration must have."""
    if report.skipped and os.environ.get("CI"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which is a failure where CI is set: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def _home_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever falls back to LUNA_HOME in a test falls back to the test's own folder."""
    monkeypatch.setenv("LUNA_HOME", str(tmp_path / "luna-home"))


@pytest.fixture(scope="session")
def ray_head():
    """One Ray head for all Ray tests of a process; they neither join nor stop a cluster that a user runs here."""
    ray_command = str(Path(sys.executable).parent / "ray")
    from cluster import ray_head as rig

    # Two test processes have a head each; Ray does not look whether a port of its ranges is another head's.
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    port, dashboard, workers = 26379 + 100 * number, 28265 + 100 * number, 20000 + 2000 * number
    folder = Path("/tmp") / f"luna-test-ray-{os.getpid()}"
    subprocess.run(
        [
            ray_command, "start", "--head", f"--port={port}", f"--dashboard-port={dashboard}",
            "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", "--disable-usage-stats", "--num-cpus=4",
            "--object-store-memory=268435456", f"--temp-dir={folder}", f"--min-worker-port={workers}",
            f"--max-worker-port={workers + 1999}", f"--ray-client-server-port={port + 1}",
            f"--dashboard-agent-listen-port={dashboard + 1}",
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
    _end(str(folder))


def _end(folder: str) -> None:
    """The processes of this cluster, which all name its folder; `ray stop` would end every Ray on the machine."""
    import psutil

    def named() -> list[psutil.Process]:
        return [one for one in psutil.process_iter(["cmdline"]) if folder in " ".join(one.info["cmdline"] or [])]

    for process in named():
        process.terminate()
    _, alive = psutil.wait_procs(named(), timeout=10)
    for process in alive:
        process.kill()
