"""The manifests for Kubernetes: read by Ray's own reader, with no field that the operator does not know."""

from __future__ import annotations

import importlib
import shlex
from typing import Any

import pytest
import yaml

from tests.repository import ROOT

CLUSTER = {
    "rayVersion",
    "authOptions",
    "enableInTreeAutoscaling",
    "autoscalerOptions",
    "headGroupSpec",
    "workerGroupSpecs",
}
HEAD_GROUP = {"rayStartParams", "template", "labels", "resources", "serviceType"}
WORKER_GROUP = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "labels", "template"}
JOB = {
    "submissionMode", "clusterSelector", "backoffLimit", "entrypoint", "metadata", "runtimeEnvYAML",
    "submitterPodTemplate",
}  # fmt: skip
SERVICE = {"serveConfigV2", "rayClusterConfig"}
"""Fields of ray.io/v1 that the manifests may use."""


def manifest(name: str) -> dict[str, Any]:
    found = list(yaml.safe_load_all((ROOT / "deploy" / "kuberay" / name).read_text()))
    (ray,) = [one for one in found if one["apiVersion"] == "ray.io/v1"]
    return ray


def cluster(spec: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"name": "luna", "namespace": "luna"}, "spec": spec}


def read_by_ray(spec: dict[str, Any]) -> dict[str, Any]:
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    types: dict[str, Any] = _derive_autoscaling_config_from_ray_cr(cluster(spec))["available_node_types"]
    return types


SPECS = {
    "raycluster.yaml": lambda: manifest("raycluster.yaml")["spec"],
    "rayservice.yaml": lambda: manifest("rayservice.yaml")["spec"]["rayClusterConfig"],
}


@pytest.mark.slow  # importing Ray takes seconds
def test_ray_reads_cards_cpus_and_labels_as_meant() -> None:
    types = read_by_ray(SPECS["raycluster.yaml"]())
    head = types["headgroup"]["resources"]
    assert (head["CPU"], head["luna_head"], "GPU" in head) == (0, 1, False)
    for stack, least in (("cuda", 1), ("rocm", 0)):
        group = types[stack]
        assert (group["resources"]["CPU"], group["resources"]["GPU"]) == (8, 1)
        assert group["labels"] == {"luna.io/stack": stack}
        assert (group["min_workers"], group["max_workers"]) == (least, 3)
    one = read_by_ray(SPECS["rayservice.yaml"]())
    assert one.keys() == {"headgroup"}, "whoever reads luna.db is on one host"
    assert (one["headgroup"]["resources"]["GPU"], one["headgroup"]["resources"]["luna_head"]) == (1, 1)


@pytest.mark.parametrize("name", SPECS)
def test_clusters_ask_for_a_token_name_known_fields_and_share_the_home(name: str) -> None:
    spec = SPECS[name]()
    assert spec.keys() <= CLUSTER
    assert spec["authOptions"] == {"mode": "token", "secretName": "luna-ray-token"}
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    assert groups[0].keys() <= HEAD_GROUP
    assert all(group.keys() <= WORKER_GROUP for group in groups[1:])
    for group in groups:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        environment = {one["name"]: one.get("value") for one in container["env"]}
        (mount,) = container["volumeMounts"]
        (volume,) = pod["volumes"]
        assert environment["LUNA_HOME"] == mount["mountPath"]
        assert mount["name"] == volume["name"]
        assert container["resources"]["limits"].get("nvidia.com/gpu") == container["resources"]["requests"].get(
            "nvidia.com/gpu"
        )
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def test_rays_version_is_the_one_that_luna_is_written_for() -> None:
    pinned = (ROOT / "constraints" / "cuda.txt").read_text()
    for spec in SPECS.values():
        assert f"ray=={spec()['rayVersion']}" in pinned


def test_the_job_is_one_of_lunas_commands_and_is_not_tried_again_by_kubernetes() -> None:
    from typer.main import get_command

    from jobs.cli import app

    spec = manifest("rayjob.yaml")["spec"]
    assert spec.keys() <= JOB
    assert spec["backoffLimit"] == 0
    assert spec["clusterSelector"] == {"ray.io/cluster": manifest("raycluster.yaml")["metadata"]["name"]}
    start, words = shlex.split(spec["entrypoint"])[:3], shlex.split(spec["entrypoint"])[3:]
    assert start == ["python", "-m", "jobs.cli"]
    group = get_command(app)
    run = group.commands[words[0]].commands[words[1]]  # type: ignore[attr-defined]
    run.make_context("run", words[2:], resilient_parsing=False)
    assert all(isinstance(value, str) for value in spec["metadata"].values())
    assert yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]["LUNA_HOME"] == "/srv/luna-home"


@pytest.mark.slow
def test_the_service_declares_the_apps_that_luna_looks_for() -> None:
    from ray.serve.schema import ServeDeploySchema

    from serving import app, reward_app

    spec = manifest("rayservice.yaml")["spec"]
    assert spec.keys() == SERVICE
    found = ServeDeploySchema.model_validate(yaml.safe_load(spec["serveConfigV2"]))
    assert {one.name: one.route_prefix for one in found.applications} == {
        app.ENGINE_APP: "/v1", app.APP: "/", reward_app.REWARD_APP: reward_app.REWARD_ROUTE,
    }  # fmt: skip
    for one in found.applications:
        module, _, name = (one.import_path or "").partition(":")
        assert callable(getattr(importlib.import_module(module), name))
    assert found.http_options.host == "0.0.0.0"
