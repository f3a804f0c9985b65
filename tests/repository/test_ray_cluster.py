"""`ray_cluster.yaml` and its variant for AMD cards are what Ray's own launcher accepts."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
import yaml

from tests.repository import ROOT

RFC_5737 = ["192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"]
PLACEHOLDERS = [ipaddress.ip_network(network) for network in RFC_5737]


FILES = ("ray_cluster.yaml", "ray_cluster_rocm.yaml")
STARTS = ("head_start_ray_commands", "worker_start_ray_commands")


@pytest.fixture(params=FILES)
def config(request: pytest.FixtureRequest) -> dict[str, Any]:
    return read(request.param)


def read(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())
    return loaded


@pytest.mark.slow  # importing Ray takes seconds
def test_it_passes_rays_own_validation(config: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(config)
    validate_config(prepared)
    (workers,) = prepared["available_node_types"].values()
    assert workers["max_workers"] == len(config["provider"]["worker_ips"])


def test_its_addresses_are_placeholders(config: dict[str, Any]) -> None:
    provider = config["provider"]
    assert provider["type"] == "local"
    for text in [provider["head_ip"], *provider["worker_ips"]]:
        assert any(ipaddress.ip_address(text) in network for network in PLACEHOLDERS), text


def test_every_node_is_set_up_and_shares_one_home(config: dict[str, Any]) -> None:
    assert any("make -C /srv/luna setup" in command for command in config["setup_commands"])
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        start = commands[-1]
        assert "LUNA_HOME=/srv/luna-home" in start
        assert start.index("/srv/luna/.venv/bin:$PATH") < start.index("ray start")


def test_every_node_asks_for_the_token_that_it_is_given(config: dict[str, Any]) -> None:
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for commands in STARTS:
        start = config[commands][-1]
        assert start.index("RAY_AUTH_MODE=token") < start.index("ray start")
        assert "--metrics-export-port=" in start


def test_amd_cards_are_counted_by_torch_and_nothing_else_differs() -> None:
    cuda, rocm = map(read, FILES)
    counted = "--num-gpus=$(python -c 'import torch; print(torch.cuda.device_count())')"
    assert all(counted in rocm[commands][-1] for commands in STARTS)
    assert not any("--num-gpus" in cuda[commands][-1] for commands in STARTS)
    assert {name for name in cuda if cuda[name] != rocm[name]} == {*STARTS, "setup_commands"}
    for commands in STARTS:
        without = rocm[commands][-1].replace(counted, "").replace("unset HIP_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES;", "")
        assert without.split() == cuda[commands][-1].split()
