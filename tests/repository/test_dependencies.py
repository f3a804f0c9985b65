"""Every direct dependency is used."""

from __future__ import annotations

import ast
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.repository import ROOT

PACKAGES = ("cluster", "curriculum", "jobs", "ledger", "serving", "trainers")

NOT_IMPORTED = {
    "chatterbot-corpus": "carries YAML files, which curriculum reads",
    "psutil": "`luna down` finds the processes of Luna's Ray with it",
}
"""Dependencies that no module of the product imports, and why they are there."""

IMPORT_NAMES = {"python-stdnum": "stdnum", "pyyaml": "yaml", "scikit-learn": "sklearn"}
"""Where a package is imported under another name than its own."""


def imported() -> set[str]:
    """Top-level names that the product imports, anywhere in a module."""
    found: set[str] = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    found |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    found.add(node.module.partition(".")[0])
    return found


def test_every_dependency_is_imported_or_says_why_not() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {canonicalize_name(Requirement(line).name) for line in project["dependencies"]}
    used = imported()
    idle = {name for name in names if IMPORT_NAMES.get(name, name.replace("-", "_")) not in used}
    assert idle - set(NOT_IMPORTED) == set()
    assert set(NOT_IMPORTED) <= names
