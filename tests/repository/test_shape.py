"""How large a folder, a function and a call may grow."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.repository import ROOT

PACKAGES = ("cluster", "curriculum", "jobs", "ledger", "serving", "trainers")
FILES_IN_A_FOLDER = 15
LINES_OF_A_FUNCTION = 60
PARAMETERS = 6
LINES_OF_THE_WALK = 150

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def parsed(package: str) -> list[tuple[Path, ast.Module]]:
    files = sorted((ROOT / package).rglob("*.py"))
    return [(path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))) for path in files]


def sources(*packages: str) -> Iterator[tuple[Path, ast.Module]]:
    for package in packages:
        yield from parsed(package)


def functions(*packages: str) -> Iterator[tuple[str, Function, bool]]:
    """(place, function, whether it is a method) of all functions."""
    for path, tree in sources(*packages):
        methods = {id(item) for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for item in node.body}
        for node in ast.walk(tree):
            if isinstance(node, Function):
                yield f"{path}:{node.lineno} {node.name}", node, id(node) in methods


def parameters(function: Function, is_method: bool) -> int:
    """Parameters that a caller passes; `self` and `cls` are none."""
    given = function.args
    count = len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs)
    static = any(isinstance(mark, ast.Name) and mark.id == "staticmethod" for mark in function.decorator_list)
    return count - (is_method and not static)


def test_no_folder_holds_more_than_fifteen_files() -> None:
    folders: dict[Path, int] = {}
    for path, _ in sources(*PACKAGES):
        folders[path.parent] = folders.get(path.parent, 0) + 1
    assert {str(folder): count for folder, count in folders.items() if count > FILES_IN_A_FOLDER} == {}


def is_kernel(function: Function) -> bool:
    """Whether it is compiled by Triton: a kernel gets each buffer and size as an argument of its own."""
    return any(ast.unparse(mark).startswith("triton.jit") for mark in function.decorator_list)


def test_no_function_is_longer_than_a_screen() -> None:
    long = {
        place: lines
        for place, function, _ in functions(*PACKAGES)
        if (lines := (function.end_lineno or 0) - function.lineno + 1) > LINES_OF_A_FUNCTION
    }
    assert long == {}


def test_no_function_of_cluster_and_trainers_takes_more_than_six_parameters() -> None:
    wide = {
        place: count
        for place, function, is_method in functions("cluster", "trainers")
        if (count := parameters(function, is_method)) > PARAMETERS and not is_kernel(function)
    }
    assert wide == {}


def test_no_call_in_cluster_and_trainers_passes_more_than_six_arguments_to_our_own_functions() -> None:
    own = {function.name for _, function, _ in functions(*PACKAGES) if not is_kernel(function)}
    wide = {}
    for path, tree in sources("cluster", "trainers"):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                target = node.func
                name = target.id if isinstance(target, ast.Name) else getattr(target, "attr", "")
                if name in own and len(node.args) + len(node.keywords) > PARAMETERS:
                    wide[f"{path}:{node.lineno} {name}"] = len(node.args) + len(node.keywords)
    assert wide == {}


def test_the_walk_of_a_generation_reads_on_one_page() -> None:
    lines = (ROOT / "cluster" / "generation.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= LINES_OF_THE_WALK


def test_every_package_says_what_lives_there() -> None:
    silent = [
        str(path)
        for path, tree in sources(*PACKAGES)
        if path.name == "__init__.py" and len((ast.get_docstring(tree) or "").splitlines()) < 2
    ]
    assert silent == []
