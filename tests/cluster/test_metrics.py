"""What Prometheus sees of a run, and the board that draws it."""

from __future__ import annotations

import json
import re
import time
import urllib.request

import pytest

from cluster import metrics
from jobs import dashboard
from ledger.errors import LunaError
from ledger.records import EvalRecord
from ledger.roles import ROLES
from ledger.rules.gates import GATES, GateSettings
from ledger.rules.karma import karma_state
from serving import metrics as engine
from tests.cluster.builders import even_numbers, gate_scores
from tests.ledger.builders import make_row
from trainers.job import TrioProgress

ALL = (*metrics.COORDINATOR, *engine.ENGINE)
PROGRESS = TrioProgress(
    step=3, steps=10, losses={"logical": 0.5}, examples_per_s=7.0, seconds_left=9.0, role_steps={"logical": 3},
    role_totals={"logical": 10}, channels={"kl": {"logical": 0.1}}, tokens_per_s=400.0,
)  # fmt: skip


def told(samples):
    return {(sample.measure.name, *sample.tags): sample.value for sample in samples}


def test_a_run_is_told_by_role_and_channel():
    found = told(metrics.of_progress("main", PROGRESS))
    assert found == {
        ("luna_loss", "main", "logical", "all"): 0.5, ("luna_loss", "main", "logical", "kl"): 0.1,
        ("luna_step", "main", "logical"): 3, ("luna_steps", "main", "logical"): 10,
        ("luna_examples_per_second", "main"): 7, ("luna_tokens_per_second", "main"): 400,
        ("luna_seconds_left", "main"): 9,
    }  # fmt: skip


def test_tokens_that_an_engine_does_not_count_are_not_told():
    from dataclasses import replace

    uncounted = replace(PROGRESS, tokens_per_s=None)
    assert ("luna_tokens_per_second", "main") not in told(metrics.of_progress("main", uncounted))


def test_when_nothing_is_raised_the_speed_is_nothing():
    assert told(metrics.of_run("main", 3, running=True)) == {
        ("luna_running", "main"): 1,
        ("luna_generation", "main"): 3,
    }
    ended = told(metrics.of_run("main", 3, running=False))
    assert ended["luna_running", "main"] == ended["luna_examples_per_second", "main"] == 0


def test_a_verdict_is_told_gate_by_gate():
    rows = [make_row(role=role, gen_id=1, parent_gen=0, verdict="rejected") for role in ROLES]
    evals = [score for role in ROLES for score in gate_scores(role, right=100 if role != "logical" else 10)]
    health = EvalRecord(
        gen_id=1, role="creative", eval="rhi", method="measured", value=0.6, n=20, low=0.6, high=0.6
    )  # fmt: skip
    found = told(metrics.of_verdict(rows, [*evals, health], GateSettings(), rhi_min=0.7))
    gates = {(role, gate): value for (name, _, role, gate), value in
             ((key, value) for key, value in found.items() if key[0] == "luna_gate_passed")}  # fmt: skip
    assert (gates["logical", "generalization"], gates["creative", "generalization"]) == (0, 1)
    assert gates["creative", "rhi"] == 0
    assert ("logical", "rhi") not in gates
    assert {gate for role, gate in gates if role == "dialectical"} == set(GATES)
    assert found["luna_score", "main", "logical", "generalization"] == 0.1
    assert found["luna_reward_health_index", "main", "creative"] == 0.6
    assert found["luna_accepted", "main"] == 0


def test_growth_is_told_with_what_it_takes():
    assert told(metrics.of_growth("main", karma_state(40.0, 1))) == {
        ("luna_karma", "main"): 40, ("luna_karma_threshold", "main"): 250,
    }  # fmt: skip


def test_outside_ray_nothing_is_told(monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("serving.metrics._gauge", lambda *_: pytest.fail("told"))
    metrics.tell(metrics.of_run("main", 0, running=True))


def test_every_measure_has_a_name_of_its_own_and_a_panel_and_every_panel_draws_a_measure():
    names = {f"ray_{measure.name}" for measure in ALL}
    assert len(names) == len(ALL)
    drawn = [target["expr"] for panel in dashboard.board()["panels"] for target in panel["targets"]]
    assert {name for text in drawn for name in re.findall(r"ray_\w+", text)} == names


def test_the_board_shows_panels_side_by_side_with_legends_of_their_own_labels():
    panels = dashboard.board()["panels"]
    assert len({panel["id"] for panel in panels}) == len({tuple(panel["gridPos"].items()) for panel in panels})
    for panel in panels:
        for target in panel["targets"]:
            by = re.search(r"by \((.*?)\)", target["expr"])
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) == set(by[1].split(", ")), panel["title"]


def test_the_board_is_installed_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_METRICS_GRAFANA_DASHBOARD_OUTPUT_DIR", str(tmp_path / "boards"))
    with pytest.raises(LunaError, match="run this on the head's machine"):
        dashboard.install()
    (tmp_path / "boards").mkdir()
    assert json.loads(dashboard.install().read_text())["uid"] == "lunaDashboard"


# -- on a cluster -----------------------------------------------------------------------------------------------------


def scraped():
    """Names that the node's metrics port offers."""
    import ray

    names = set()
    for node in ray.nodes():
        if node["Alive"]:
            url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
            text = urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10).read().decode()
            names |= {line.split("{")[0].split(" ")[0] for line in text.splitlines() if not line.startswith("#")}
    return names


def wait_for(names, timeout_s=60):
    """Ray gives a gauge out when it was told, not for ever: each name has to come once."""
    missing, deadline = set(names), time.monotonic() + timeout_s
    while missing and time.monotonic() < deadline:
        missing -= scraped()
        time.sleep(1)
    assert missing == set()


@pytest.mark.ray
@pytest.mark.slow
def test_a_scrape_of_the_node_has_every_name_that_the_board_draws(ray_head, tmp_path):
    """The engine's come from a process of Ray's that stands for it; `tests/serving/test_served.py` asks a real one."""
    import ray

    from tests.cluster.test_generations import make_home, raise_one

    home = make_home(tmp_path)
    raise_one(home, even_numbers(0, 150))

    @ray.remote(num_cpus=0)
    class Other:
        def tell(self):
            samples = [measure.at(0.5, *measure.tags) for measure in (*engine.ENGINE, metrics.HEALTH)]
            metrics.tell(samples)

    other = Other.remote()
    ray.get(other.tell.remote())
    wait_for({f"ray_{measure.name}" for measure in ALL})


@pytest.mark.ray
@pytest.mark.slow
def test_the_board_lies_where_rays_own_grafana_looks_for_boards(ray_head):
    from cluster.ray_head import connect

    connect()
    place = dashboard.install()
    assert place.with_name("default_grafana_dashboard.json").exists(), "beside Ray's own"
    providers = place.parent.parent / "provisioning" / "dashboards" / "default.yml"
    assert f"path: {place.parent}" in providers.read_text()
    assert json.loads(place.read_text()) == dashboard.board()
