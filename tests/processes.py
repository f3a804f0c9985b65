"""The processes of one Ray cluster, where another may run beside it."""

from __future__ import annotations

import re

import psutil


def ray_processes(address):
    """The processes below the raylet of a cluster, which may call its own machine by another address."""
    port = address.rpartition(":")[2]
    (raylet,) = (
        one
        for one in psutil.process_iter(["name", "cmdline"])
        if one.info["name"] == "raylet" and re.search(rf"--gcs-address=\S+:{port}\b", " ".join(one.info["cmdline"]))
    )
    return raylet.children(recursive=True)
