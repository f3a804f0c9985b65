"""`luna --help` answers at once: torch and Ray are imported late."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.repository import ROOT

CODE = """
import json, os, sys
sys.argv = ["luna", "--help"]
try:
    from jobs.cli import main
    main()
except SystemExit as end:
    assert not end.code, end.code
names = {"torch", "ray", "transformers", "trl", "peft", "datasets", "vllm", "pandas", "openai", "pyarrow"}
heavy = names & set(sys.modules)
spent = os.times()
print(json.dumps({"heavy": sorted(heavy), "seconds": spent.user + spent.system}))
"""


def test_help_answers_in_under_a_second_without_torch_or_ray() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["heavy"] == []
    # CPU time rather than wall time, so that a busy machine does not fail it.
    assert report["seconds"] < 1.0


def test_the_installed_command_answers() -> None:
    command = Path(sys.executable).with_name("luna")
    done = subprocess.run(
        [str(command), "--help"],
        env={**os.environ, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for word in ("demo", "init", "generation", "ledger", "curriculum", "status", "submit"):
        assert word in done.stdout


def test_following_a_generation_takes_ray_and_no_torch() -> None:
    """On a warm cluster a command's own imports are most of the time until the first step."""
    names = ("cluster.client.coordinator", "cluster.request", "cluster.state", "jobs.generation.follow")
    code = f"import sys, {', '.join(names)}; print({{'torch', 'transformers', 'fastapi'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
