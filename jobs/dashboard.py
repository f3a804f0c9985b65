"""Grafana's board of Luna's metrics, and putting it where the Grafana that Ray sets up looks.

`deploy/grafana/luna.json` is this board as a file (`make docs` writes it).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import metrics
from ledger.errors import LunaError
from ledger.files import write_atomic
from serving import metrics as engine

FILE_NAME = "luna_grafana_dashboard.json"

_FOLDER_VARIABLE = "RAY_METRICS_GRAFANA_DASHBOARD_OUTPUT_DIR"
_ROOT_VARIABLE = "RAY_METRICS_OUTPUT_ROOT"
"""Where Ray's own documentation lets users put these folders."""

_WIDTH, _HEIGHT = 12, 8
"""Of a panel, in Grafana's grid of 24 columns."""


@dataclass(frozen=True)
class Panel:
    """One curve or several of one unit."""

    title: str
    unit: str
    """In Grafana's words: `short`, `s`, `percentunit`."""
    lines: tuple[tuple[metrics.Measure, str], ...]
    """What is drawn, and the legend of each of its curves."""


PANELS: tuple[Panel, ...] = (
    Panel("Loss", "short", ((metrics.LOSS, "{{lineage}} {{role}} {{channel}}"),)),
    Panel("Examples a second", "short", ((metrics.EXAMPLES, "{{lineage}}"),)),
    Panel("Tokens a second", "short", ((metrics.TOKENS, "{{lineage}}"),)),
    Panel("Steps", "short", ((metrics.STEP, "{{lineage}} {{role}}"), (metrics.STEPS, "{{lineage}} {{role}}, planned"))),
    Panel("Time left", "s", ((metrics.LEFT, "{{lineage}}"),)),
    Panel("Generation", "short",
          ((metrics.GENERATION, "{{lineage}}"), (engine.SERVED, "{{lineage}}, served by {{pid}}"))),
    Panel("Raised now, accepted last", "short",
          ((metrics.RUNNING, "{{lineage}} raised"), (metrics.ACCEPTED, "{{lineage}} accepted"))),
    Panel("Scores", "percentunit", ((metrics.SCORE, "{{lineage}} {{role}} {{score}}"),)),
    Panel("Gates passed", "short", ((metrics.GATE, "{{lineage}} {{role}} {{gate}}"),)),
    Panel("Reward Health Index", "percentunit", ((metrics.HEALTH, "{{lineage}} {{role}}"),)),
    Panel("Karma", "short", ((metrics.KARMA, "{{lineage}}"), (metrics.THRESHOLD, "{{lineage}}, next age"))),
    Panel("Requests in work", "short", ((engine.IN_WORK, "engine {{pid}}"),)),
    Panel("Loading and switching a generation", "s",
          ((engine.LOAD, "loading, engine {{pid}}"), (engine.SWAP, "switching, engine {{pid}}"))),
)  # fmt: skip


def expression(measure: metrics.Measure) -> str:
    """The Prometheus expression of a measure, of the Ray sessions and lineages that the board shows."""
    lineage = ', lineage=~"$lineage"' if "lineage" in measure.tags else ""
    return f'max by ({", ".join(measure.tags)}) (ray_{measure.name}{{SessionName=~"$SessionName"{lineage}}})'


def board(panels: Sequence[Panel] = PANELS) -> dict[str, Any]:
    """The board, as Grafana reads it from a file."""
    return {
        "title": "Luna",
        "uid": "lunaDashboard",
        "version": 1,
        "schemaVersion": 27,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus", "hide": 2, "refresh": 1},
                _variable("SessionName"),
                _variable("lineage"),
            ]
        },
        "panels": [_panel(number, panel) for number, panel in enumerate(panels)],
    }


def install() -> Path:
    """Put the board beside those of Ray, for the Grafana that its set-up starts; returns where.

    Ray makes that folder anew with every head, unless RAY_METRICS_GRAFANA_DASHBOARD_OUTPUT_DIR names another one.

    Raises:
        LunaError: no cluster runs on this machine, or its head is another one.
    """
    place = _folder() / FILE_NAME
    write_atomic(place, text())
    return place


def text() -> str:
    """The board's file."""
    return json.dumps(board(), indent=2) + "\n"


def _folder() -> Path:
    if named := os.environ.get(_FOLDER_VARIABLE):
        folder = Path(named)
    elif root := os.environ.get(_ROOT_VARIABLE):
        folder = Path(root) / "grafana" / "dashboards"
    else:
        folder = _session() / "metrics" / "grafana" / "dashboards"
    if not folder.is_dir():
        raise LunaError(
            f"Ray has no folder for Grafana's boards here ({folder}); run this on the head's machine, where Ray's "
            "dashboard runs."
        )
    return folder


def _session() -> Path:
    """The folder of the Ray session of this machine."""
    import ray

    from cluster.ray_head import join_running

    if not join_running():
        raise LunaError("no Ray runs on this machine; start it (`luna serve`, `ray start --head`) and ask again.")
    return Path(ray._private.worker._global_node.get_session_dir_path())


def _variable(label: str) -> dict[str, Any]:
    query = f"label_values(ray_{metrics.RUNNING.name}, {label})"
    return {
        "name": label, "type": "query", "datasource": "${datasource}", "definition": query,
        "query": {"query": query, "refId": "StandardVariableQuery"}, "refresh": 2, "includeAll": True,
        "multi": False, "allValue": ".*", "sort": 2, "current": {"text": ["All"], "value": ["$__all"]},
    }  # fmt: skip


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    targets = [
        {"expr": expression(measure), "legendFormat": legend, "refId": chr(ord("A") + line)}
        for line, (measure, legend) in enumerate(panel.lines)
    ]
    return {
        "id": number + 1,
        "title": panel.title,
        "description": "; ".join(measure.told for measure, _ in panel.lines),
        "type": "timeseries",
        "datasource": "${datasource}",
        "gridPos": {"x": number % 2 * _WIDTH, "y": number // 2 * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": targets,
    }
