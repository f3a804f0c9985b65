"""What HAProxy is told: as Ray wrote it, with its statistics on the loopback address alone."""

from __future__ import annotations

import pytest

from cluster.haproxy import on_this_machine

CONFIG = """frontend prometheus
    bind :9101
    mode http
frontend http_frontend
    bind {host}:8000
    mode http
backend luna
    server one 127.0.0.1:30000 check observe layer4
    server fallback 127.0.0.1:8500 check backup
listen stats
  bind *:8404
"""


@pytest.mark.parametrize("host", ["127.0.0.1", "*", "192.168.1.5"])
def test_the_statistics_are_for_this_machine_only_and_the_service_where_it_was_asked_for(host):
    found = on_this_machine(CONFIG.format(host=host), {"9101", "8404"})
    assert [line.split()[1] for line in found.splitlines() if "bind" in line] == [
        "127.0.0.1:9101",
        f"{host}:8000",
        "127.0.0.1:8404",
    ]


def test_replicas_are_looked_for_on_the_address_they_listen_on():
    found = on_this_machine(CONFIG.format(host="192.168.1.5"), {"9101", "8404"})
    assert "server one 192.168.1.5:30000 check observe layer4" in found
    for host in ("127.0.0.1", "*"):
        assert "server one 127.0.0.1:30000 check observe layer4" in on_this_machine(CONFIG.format(host=host), set())


def test_a_service_on_every_address_stays_there_even_on_a_port_of_the_statistics_of_another_cluster():
    assert "bind *:8404" in on_this_machine(CONFIG.format(host="*"), {"9101"})
