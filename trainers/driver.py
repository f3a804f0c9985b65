"""What the kernel's drivers say of the cards in this machine, read from their files: no torch, no GPU context.

NVIDIA's driver lists its cards under /proc/driver/nvidia (its README, "/proc interface"), AMD's under the KFD topology
of sysfs (Linux, drivers/gpu/drm/amd/amdkfd/kfd_topology.c), where the CPU is a node too.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

HIDING = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
"""Environment variables that hide cards from programs."""

_AMD_VENDOR = 4098


@dataclass(frozen=True)
class Card:
    """A GPU, as the record of a training names it."""

    name: str
    capability: str
    """NVIDIA's compute capability, `9.0`, or AMD's architecture, `gfx1102`."""
    toolkit: str
    """What torch was built for, `CUDA 13.0` or `HIP 7.2`."""
    driver: str
    """Version of the kernel driver. A fact of the record alone: what computes comes with the toolkit."""

    def __str__(self) -> str:
        driver = f"driver {self.driver}" if self.driver else ""
        return ", ".join(part for part in (self.name, self.capability, self.toolkit, driver) if part)


def hiding_variables() -> dict[str, str]:
    """Those of `HIDING` that are set."""
    return {name: os.environ[name] for name in HIDING if name in os.environ}


def has_amdsmi() -> bool:
    """Whether the package is installed by which Ray counts AMD cards."""
    return find_spec("amdsmi") is not None


def nvidia(root: Path = Path("/")) -> tuple[int, str]:
    """(cards, driver version) by NVIDIA's driver; (0, "") without it."""
    folder = root / "proc/driver/nvidia"
    try:
        said = (folder / "version").read_text(encoding="utf-8")
    except OSError:
        return 0, ""
    found = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)\s", said)
    return len(list(folder.glob("gpus/*"))), found[1] if found else ""


def amd(root: Path = Path("/")) -> tuple[int, str]:
    """(cards, driver version) by AMD's driver; (0, "") without it. The version is that of the module, or the kernel's
    where the module came with it."""
    cards = sum(map(_is_amd_card, root.glob("sys/class/kfd/kfd/topology/nodes/*/properties")))
    if not cards:
        return 0, ""
    for file in ("sys/module/amdgpu/version", "proc/sys/kernel/osrelease"):
        try:
            return cards, (root / file).read_text(encoding="utf-8").strip()
        except OSError:
            continue
    return cards, ""


def _is_amd_card(properties: Path) -> bool:
    """A node with compute units; NVIDIA's open module lists its cards here too, under another vendor."""
    try:
        lines = properties.read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    values = dict(line.split()[:2] for line in lines if len(line.split()) >= 2)
    return int(values.get("simd_count", 0)) > 0 and int(values.get("vendor_id", 0)) == _AMD_VENDOR


def gpus_for_ray() -> int | None:
    """What `ray start` has to be told of the number of GPUs here; None where it counts them itself.

    It counts AMD cards through the package amdsmi alone, and without it takes them for none.
    """
    cards, _ = amd()
    visible = [value for name, value in hiding_variables().items() if name != "ROCR_VISIBLE_DEVICES"]
    if not cards or nvidia()[0] or has_amdsmi():
        return None
    return min([cards, *(len([one for one in value.split(",") if one.strip()]) for value in visible)])
