"""The setup script: which stack it picks, and when it has nothing to do."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.repository import ROOT


@pytest.fixture(scope="module")
def setup() -> ModuleType:
    spec = importlib.util.spec_from_file_location("luna_setup", ROOT / "scripts" / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


NVIDIA = {"nvidia-smi", "/dev/nvidiactl"}


@pytest.mark.parametrize(
    ("chosen", "present", "stack"),
    [
        ("", set(), "cpu"),
        ("", NVIDIA, "cuda"),
        ("", {"nvidia-smi"}, "cpu"),  # the tool without a device: a container or a dead driver
        ("", {"/dev/kfd"}, "rocm"),
        ("", {"/dev/kfd", "rocminfo"}, "rocm"),
        ("", NVIDIA | {"/dev/kfd"}, "cuda"),
        ("cpu", NVIDIA, "cpu"),
        ("ROCM ", set(), "rocm"),
    ],
)
def test_the_stack_follows_the_machine_unless_told(
    setup: ModuleType, chosen: str, present: set[str], stack: str
) -> None:
    found, reason = setup.choose_stack(
        {"LUNA_STACK": chosen}, lambda tool: tool if tool in present else None, present.__contains__
    )
    assert found == stack
    assert reason


def test_an_unknown_stack_is_refused_with_the_choices(setup: ModuleType) -> None:
    with pytest.raises(setup.SetupError, match=r"'tpu'.*cpu, cuda, rocm"):
        setup.choose_stack({"LUNA_STACK": "tpu"}, lambda _: None, lambda _: False)


def test_an_old_python_is_refused_with_a_way_out(setup: ModuleType) -> None:
    setup.require_python((3, 11))
    with pytest.raises(setup.SetupError, match=r"3\.10.*make PYTHON="):
        setup.require_python((3, 10))


PYPROJECT = """
[build-system]
requires = ["setuptools"]
[project]
dependencies = ["torch>=2.13"]
[tool.setuptools]
packages = ["luna"]
[tool.ruff]
line-length = 120
"""


def test_the_stamp_changes_with_whatever_the_environment_is_made_from(setup: ModuleType) -> None:
    first = setup.stamp_name("cpu", b"torch==2.13.0", PYPROJECT, b"script")
    assert setup.stamp_name("cpu", b"torch==2.13.0", PYPROJECT, b"script") == first
    others = [
        setup.stamp_name("cuda", b"torch==2.13.0", PYPROJECT, b"script"),
        setup.stamp_name("cpu", b"torch==2.13.1", PYPROJECT, b"script"),
        setup.stamp_name("cpu", b"torch==2.13.0", PYPROJECT.replace("2.13", "2.14"), b"script"),
        setup.stamp_name("cpu", b"torch==2.13.0", PYPROJECT, b"another script"),
    ]
    assert len({first, *others}) == 5


def test_the_stamp_stays_when_only_a_linter_is_set_otherwise(setup: ModuleType) -> None:
    narrower = PYPROJECT.replace("120", "100")
    assert setup.stamp_name("cpu", b"", PYPROJECT, b"") == setup.stamp_name("cpu", b"", narrower, b"")


def test_a_ready_environment_is_left_alone(
    setup: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    constraints = (ROOT / "constraints" / "cpu.txt").read_bytes()
    pyproject = (ROOT / "pyproject.toml").read_text()
    script = (ROOT / "scripts" / "setup.py").read_bytes()
    (tmp_path / setup.stamp_name("cpu", constraints, pyproject, script)).touch()
    setup.set_up("cpu", "the test says so", tmp_path, quiet=True)
    assert capsys.readouterr().out == ""
    setup.set_up("cpu", "the test says so", tmp_path)
    assert capsys.readouterr().out == "stack cpu: the test says so\n"
    assert not (tmp_path / "pyvenv.cfg").exists()


def test_the_cpu_build_of_torch_comes_from_the_users_index_first(setup: ModuleType) -> None:
    mine, fallback = setup.torch_attempts("cpu", "2.13.0", "Linux", None)
    assert mine == ["torch==2.13.0+cpu"]
    assert fallback[-1].endswith("/whl/cpu")


@pytest.mark.parametrize(
    ("stack", "system", "index", "expected"),
    [
        ("cpu", "Darwin", None, ["torch==2.13.0"]),
        ("cuda", "Linux", None, ["torch==2.13.0"]),
        (
            "cuda",
            "Linux",
            "https://torch.example/whl",
            ["torch==2.13.0", "--index-url", "https://torch.example/whl"],
        ),
    ],
)
def test_other_builds_of_torch_come_from_one_place(
    setup: ModuleType, stack: str, system: str, index: str | None, expected: list[str]
) -> None:
    assert setup.torch_attempts(stack, "2.13.0", system, index) == [expected]


def test_a_missing_pin_is_named(setup: ModuleType) -> None:
    assert setup.pinned_version("torch", "torchvision==1\ntorch==2.13.0 ; marker  # why\n") == "2.13.0"
    with pytest.raises(setup.SetupError, match="torch"):
        setup.pinned_version("torch", "torchvision==1\n")


def test_what_is_built_here_is_pinned_and_left_out_of_what_is_downloaded(setup: ModuleType) -> None:
    pins = (ROOT / "constraints" / "cpu.txt").read_text()
    rest = setup.without_package(pins, setup.BUILT_HERE)
    assert set(pins.splitlines()) - set(rest.splitlines()) == {"deepspeed==0.19.8 ; sys_platform == 'linux'"}
    assert setup.pinned_version(setup.BUILT_HERE, pins) == "0.19.8"


def test_explain_says_stack_and_reason_without_touching_anything() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "setup.py"), "--explain"],
        env={**os.environ, "LUNA_STACK": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "stack cpu: LUNA_STACK says so")
