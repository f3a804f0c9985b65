"""What the tree holds and what it may not name."""

from __future__ import annotations

import ast
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.repository import ROOT

PACKAGES = ("cluster", "curriculum", "jobs", "ledger", "serving", "trainers")

# Spelled in parts, so that this file does not name them either.
REGISTRY_HOSTS = [
    "py" + "pi.org",
    "python" + "hosted.org",
    "npm" + "js.org",
    "npm" + "js.com",
    "ana" + "conda.org",
]
MACHINE_PATHS = [
    r"(?<![\w.])/wo" + r"rk/",
    r"(?<![\w.])/ro" + r"ot/",
    r"(?<![\w.])/ho" + r"me/\w",
    "fi" + "le://",
]


def tree() -> list[Path]:
    """The files that belong to the repository: tracked, and untracked that git does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git clone: which files belong to it cannot be told")
    paths = [ROOT / line for line in listed.stdout.splitlines()]
    return [path for path in paths if path.is_file()]


def text_of(path: Path) -> str:
    data = path.read_bytes()
    return "" if b"\0" in data else data.decode("utf-8", errors="replace")


@pytest.mark.parametrize("pattern", [re.escape(host) for host in REGISTRY_HOSTS] + MACHINE_PATHS)
def test_no_file_names_a_registry_host_or_a_path_of_one_machine(pattern: str) -> None:
    found = re.compile(pattern)
    named = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tree()
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if found.search(line)
    ]
    assert named == []


def test_no_weights_or_databases_are_in_the_tree() -> None:
    kinds = {".safetensors", ".gguf", ".pt", ".pth", ".bin", ".db", ".pkl"}
    assert [str(path.relative_to(ROOT)) for path in tree() if path.suffix in kinds] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_says_what_it_is_for(package: str) -> None:
    inits = [path for path in (ROOT / package).rglob("*.py") if path.name == "__init__.py"]
    assert inits
    silent = [str(path.relative_to(ROOT)) for path in inits if not ast.get_docstring(ast.parse(path.read_text()))]
    assert silent == []


def test_the_licence_is_apache() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_integration_runs_the_same_tests_as_a_developer() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text().splitlines()


def test_every_make_target_in_the_help_exists() -> None:
    lines = (ROOT / "Makefile").read_text().splitlines()
    told = {match[1] for line in lines if (match := re.match(r'\t@echo "make ([\w-]+)', line))}
    defined = {match[1] for line in lines if (match := re.match(r"([\w-]+):(?!=)", line))}
    assert told
    assert told - defined == set()
