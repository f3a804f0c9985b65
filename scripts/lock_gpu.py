"""Writes constraints/cuda.txt and constraints/rocm.txt anew, from the packages' metadata alone.

    make lock-gpu    (any machine; uv, which is fetched where there is none; seconds)

uv resolves for Linux x86_64 and Python 3.11, under the pins of constraints/cpu.txt but those that vLLM's CPU build
alone asks for, so that the sets agree. Nothing is installed, so it stays unverified that they run. PyTorch's ROCm build
is on an index of its own that is not asked: its metadata is taken to be that of the common build, less the CUDA
packages, and the Triton that it brings is not pinned.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from lock import CPU_FILE, ENGINE_VERSION, LINUX_ONLY, luna_requirements
from setup import GPU_EXTRAS, ROOT, WEIGHTS_PACKAGES, Pip, SetupError, create_venv

TARGET = ("--python-platform", "x86_64-unknown-linux-gnu", "--python-version", "3.11")

PINS = {"vllm": ENGINE_VERSION, "deepspeed": "0.19.8", "amdsmi": "7.0.2"}
"""What no other set pins."""

CUDA_PACKAGE = re.compile(r"nvidia-|cuda-|triton$")
"""What PyTorch's common build asks for on Linux and its ROCm build does not."""

HEADERS = {
    "cuda": """\
# NVIDIA: every package that Luna runs on with CUDA, at one version, given to pip as constraints (`-c`).
# vLLM 0.32 fixes torch and needs transformers below 5.20.
""",
    "rocm": """\
# AMD: as cuda.txt, without vLLM, which publishes no ROCm build there. torch comes from PyTorch's ROCm index and brings
# its own Triton. amdsmi is how Ray finds the cards; without it start Ray with --num-gpus.
""",
}
NOTE = """\
# Written by `make lock-gpu` (scripts/lock_gpu.py) from metadata, for Linux x86_64; installed by `make setup`.
"""


def main() -> int:
    """Resolve and write both; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stack", choices=[*HEADERS], action="append", help="only this one")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv-lock", help="where uv goes if there is none")
    arguments = parser.parse_args()
    try:
        uv = find_uv(arguments.venv)
        for stack in arguments.stack or HEADERS:
            lines = locked(stack, uv)
            file = ROOT / "constraints" / f"{stack}.txt"
            file.write_text(HEADERS[stack] + NOTE + "".join(f"{line}\n" for line in lines), encoding="utf-8")
            print(f"wrote {file.relative_to(ROOT)}: {len(lines)} packages")
    except SetupError as error:
        print(f"lock failed: {error}", file=sys.stderr)
        return 1
    return 0


def find_uv(venv: Path) -> str:
    """The `uv` of this machine, or one in a scratch environment."""
    if (found := shutil.which("uv")) is not None:
        return found
    create_venv(venv)
    Pip(venv).install("uv", "uv")
    return str(venv / "bin" / "uv")


def locked(stack: str, uv: str) -> list[str]:
    """The lines of a stack's set."""
    weights = [line for line in luna_requirements() if line.startswith(WEIGHTS_PACKAGES)]
    own = [line for line in luna_requirements() if line not in weights]
    wanted = [*own, *GPU_EXTRAS[stack]]
    lines = compiled(uv, wanted)
    if stack == "rocm" and (cuda := [name for line in lines if CUDA_PACKAGE.match(name := line.partition("==")[0])]):
        lines = compiled(uv, wanted, cuda)
    return sorted([*lines, *(f"{pin}  # via luna" for pin in weights)])


def compiled(uv: str, wanted: list[str], excluded: list[str] | None = None) -> list[str]:
    """What uv resolves: `name==version  # via who, asks` for each package."""
    common = [line for line in CPU_FILE.read_text(encoding="utf-8").splitlines() if LINUX_ONLY not in line]
    pins = [*common, *(f"{name}=={version}" for name, version in PINS.items())]
    with tempfile.TemporaryDirectory() as folder:
        files = {"luna": wanted, "pins": pins, "excluded": excluded or []}
        for name, lines in files.items():
            (Path(folder) / f"{name}.in").write_text("\n".join(lines) + "\n", encoding="utf-8")
        command = [
            uv, "pip", "compile", "luna.in", "-c", "pins.in", "--excludes", "excluded.in", *TARGET,
            "--no-header", "--annotation-style", "line", "--quiet",
        ]  # fmt: skip
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SetupError(f"uv could not resolve the set:\n{done.stderr.strip()}")
    return [_reasons(line) for line in done.stdout.splitlines() if "==" in line]


def _reasons(line: str) -> str:
    """uv's line with Luna named for the file that its own requirements stood in; constraints are no reason."""
    pin, _, told = line.partition("# via ")
    names = ["luna" if name == "-r luna.in" else name for name in told.split(", ") if not name.startswith("-c ")]
    return f"{pin.strip()}  # via {', '.join(names)}"


if __name__ == "__main__":
    sys.exit(main())
