"""The devices of a rig: what Ray, torch and the driver say of them, and whether they agree.

    records.py   what is known of a device and of a node
    agreement.py whether Ray and torch count the same cards, and what to do where they do not. Pure
    probe.py     asking: this process, a process of its own, or a small Ray task on each node; what the kernel's
                 drivers say is read in `trainers.driver`

To learn another fact of a card, add it to `records.NodeFacts` and read it in `probe.look`; what follows from it is
decided in `agreement`.
"""

from cluster.devices.agreement import SIMULATED, check_devices, disagreements
from cluster.devices.records import CPU, Device, DeviceKind, NodeFacts, RayNode

__all__ = ["CPU", "SIMULATED", "Device", "DeviceKind", "NodeFacts", "RayNode", "check_devices", "disagreements"]
