"""What is known of the devices of a rig: frozen records, nothing is asked here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

DeviceKind = Literal["cpu", "cuda", "rocm"]
CPU: DeviceKind = "cpu"


@dataclass(frozen=True)
class Device:
    """A card, or the CPU of a node with its memory."""

    node: str
    """Ray's id of the node, or the machine's name where no Ray runs."""
    index: int
    """As torch counts the cards of the node; 0 for a CPU."""
    kind: DeviceKind
    name: str
    capability: str
    """Of an NVIDIA card its compute capability, `9.0`; of an AMD card its architecture, `gfx1102`; of a CPU the number
    of its usable cores."""
    total_bytes: int
    free_bytes: int
    """What no other process holds now."""
    share: float = 1.0
    """How much of a GPU Ray may lend out here, in (0, 1]; 0 where Ray counts none, as on a CPU."""


@dataclass(frozen=True)
class RayNode:
    """What Ray says of a node that is alive."""

    node: str
    host: str
    gpus: float


@dataclass(frozen=True)
class NodeFacts:
    """What torch and the driver say on one node."""

    node: str
    host: str
    torch: str
    """Version of torch, with its build: `2.13.0+cpu`."""
    torch_gpus: int
    """Cards that torch sees."""
    toolkit: str = ""
    """What torch was built for, `CUDA 13.0` or `HIP 7.2`; empty for a CPU build."""
    driver: str = ""
    """Version of the kernel driver; empty if there is none."""
    driver_gpus: int = 0
    """Cards that the kernel driver lists, whether or not a program may use them."""
    visible: dict[str, str] = field(default_factory=dict)
    """Environment variables that hide cards, as they are set."""
    has_amdsmi: bool = False
    """Whether the package is there by which Ray counts AMD cards."""
    devices: tuple[Device, ...] = ()
    """The CPU, then the cards; empty where only the counts were asked for."""

    @property
    def kind(self) -> DeviceKind:
        """Of the cards that this torch could use."""
        if not self.toolkit:
            return CPU
        return "rocm" if self.toolkit.startswith("HIP") else "cuda"
