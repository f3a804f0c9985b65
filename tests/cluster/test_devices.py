"""What Ray lends and what torch computes on must be the same cards: a difference is refused with what to do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cluster.devices import CPU, Device, NodeFacts, RayNode, check_devices, disagreements
from cluster.devices.probe import _as_ray_lends
from ledger.errors import LunaError

CPU_BUILD = NodeFacts("n1", "basement", "2.13.0+cpu", 0)
CUDA = NodeFacts("n1", "basement", "2.13.0+cu130", 2, "CUDA 13.0", "580.159.04", 2)
ROCM = NodeFacts("n1", "basement", "2.13.0+rocm7.2", 2, "HIP 7.2", "6.14", 2)
BOX = Device("n1", 0, CPU, "CPU", "2", 8 << 30, 4 << 30, share=0.0)
CARD = Device("n1", 0, "cuda", "NVIDIA H100", "9.0", 80 << 30, 79 << 30)


def ray(gpus: float) -> RayNode:
    return RayNode("n1", "basement", gpus)


def told(gpus: float, facts: NodeFacts, simulated: bool = False) -> str:
    return "; ".join(disagreements([ray(gpus)], [facts], simulated))


@pytest.mark.parametrize("facts", [CPU_BUILD, CUDA, ROCM])
def test_a_rig_on_which_both_agree_is_taken(facts: NodeFacts) -> None:
    check_devices([ray(facts.torch_gpus)], [facts], simulated=False)


def test_ray_counts_two_and_a_torch_for_cpus_none() -> None:
    with pytest.raises(LunaError) as refused:
        check_devices([ray(2)], [CPU_BUILD], simulated=False)
    said = str(refused.value)
    assert "Ray counts 2 GPUs on basement, torch sees 0" in said
    assert "is a build for CPUs" in said
    assert "LUNA_SIMULATED_GPUS=1" in said


def test_gpus_may_be_simulated_where_somebody_says_so() -> None:
    check_devices([ray(2)], [CPU_BUILD], simulated=True)


def test_simulation_does_not_hide_that_torch_sees_other_cards() -> None:
    assert "Ray counts 4 GPUs" in told(4, CUDA, simulated=True)


def test_ray_counts_none_and_torch_one() -> None:
    assert told(0, replace(CUDA, torch_gpus=1)) == (
        "Ray counts 0 GPUs on basement, torch sees 1: start Ray there with `--num-gpus=1`"
    )


def test_amd_cards_without_amdsmi_are_told_to_ray_by_hand() -> None:
    said = told(0, ROCM)
    assert "amdsmi, which is not installed" in said
    assert "`--num-gpus=2`" in said
    assert "amdsmi" not in told(0, replace(ROCM, has_amdsmi=True))


def test_a_driver_that_torch_cannot_use_is_named() -> None:
    assert "driver 580.159.04" in told(2, replace(CUDA, torch_gpus=0))
    assert "no driver that answers" in told(2, replace(CUDA, torch_gpus=0, driver=""))


def test_a_variable_that_hides_cards_is_named() -> None:
    hidden = replace(CUDA, torch_gpus=0, visible={"CUDA_VISIBLE_DEVICES": ""})
    assert "CUDA_VISIBLE_DEVICES= hides the cards from torch" in told(2, hidden)


def test_ray_counts_fewer_than_torch_so_that_one_would_be_idle_unnoticed() -> None:
    said = told(1, CUDA)
    assert "Ray counts 1 GPU on basement, torch sees 2" in said
    assert "hide what it should leave alone by CUDA_VISIBLE_DEVICES" in said


def test_half_a_card_is_a_card() -> None:
    assert told(0.5, replace(CUDA, torch_gpus=1)) == ""


def test_two_ways_of_hiding_amd_cards_at_once_are_refused() -> None:
    both = replace(ROCM, visible={"HIP_VISIBLE_DEVICES": "0,1"})
    assert "every trainer would take the same card" in told(2, both)
    assert told(2, replace(both, has_amdsmi=True)) == ""


def test_every_node_that_differs_is_named() -> None:
    nodes = [RayNode("n1", "one", 1), RayNode("n2", "two", 0)]
    facts = [replace(CPU_BUILD, host="one"), replace(CUDA, node="n2", host="two")]
    assert [clause.split(",")[0] for clause in disagreements(nodes, facts, False)] == [
        "Ray counts 1 GPU on one",
        "Ray counts 0 GPUs on two",
    ]


def test_a_card_has_the_share_that_ray_may_lend() -> None:
    facts = replace(CUDA, devices=(BOX, CARD, replace(CARD, index=1)))
    assert [device.share for device in _as_ray_lends(facts, ray(1.5)).devices] == [0.0, 1.0, 0.5]
    assert _as_ray_lends(facts, ray(0)).devices == (BOX,)


def test_simulated_gpus_are_devices_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = replace(CPU_BUILD, devices=(BOX,))
    assert _as_ray_lends(facts, ray(2)).devices == (BOX,)
    monkeypatch.setenv("LUNA_SIMULATED_GPUS", "1")
    found = _as_ray_lends(facts, ray(2)).devices
    assert [(device.kind, device.index, device.share) for device in found] == [
        (CPU, 0, 0.0),
        (CPU, 0, 1.0),
        (CPU, 1, 1.0),
    ]


@pytest.fixture
def three_nodes(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A cluster of this machine's own: a head without GPUs and two nodes with one logical GPU each."""
    import ray as ray_library
    from ray.cluster_utils import Cluster

    from cluster.devices import probe

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(probe, "_known", {})
    ray_library.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0})
    for _ in range(2):
        cluster.add_node(num_cpus=1, num_gpus=1)
    ray_library.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray_library.shutdown()
    cluster.shutdown()


@pytest.mark.ray
@pytest.mark.slow
def test_logical_gpus_are_refused_on_real_nodes_unless_they_are_said_to_be_simulated(
    three_nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from cluster.devices.probe import check_rig, facts_of, ray_nodes

    if torch.cuda.is_available():
        pytest.skip("logical GPUs are told from real ones where there are none")
    with pytest.raises(LunaError) as refused:
        check_rig()
    assert str(refused.value).count("Ray counts 1 GPU on") == 2
    monkeypatch.setenv("LUNA_SIMULATED_GPUS", "1")
    check_rig()
    nodes = ray_nodes()
    devices = [device for facts in facts_of(nodes) for device in facts.devices]
    assert len([device for device in devices if device.share]) == 2
    assert {device.node for device in devices} == {node.node for node in nodes}
