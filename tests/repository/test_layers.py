"""The layers: imports go one way, and what must stay light is light."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.repository import ROOT


def test_the_import_contracts_hold() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_ledger_and_curriculum_import_nothing_heavy() -> None:
    code = """
import importlib, json, pkgutil, sys
for root in ("ledger", "curriculum"):
    package = importlib.import_module(root)
    for module in pkgutil.walk_packages(package.__path__, root + "."):
        importlib.import_module(module.name)
print(json.dumps(sorted({"torch", "ray", "transformers"} & set(sys.modules))))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []
