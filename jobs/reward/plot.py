"""`luna reward plot`: the reward space and the course of reward health, as pictures and as JSON."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import typer

from curriculum.reward import TeacherLabel, read_labels
from curriculum.reward.points import (
    COMPONENTS,
    PlotRow,
    health_course,
    health_rows,
    label_rows,
    plot_points,
)
from jobs.context import HOME_OPTION, friendly_errors, out, resolve_home
from jobs.reward.health import home_evals
from ledger.errors import LunaError
from ledger.files import write_atomic
from ledger.home import Home

MOST_SCORED = 300
"""Labelled answers that the reward model scores again for the picture."""

_MARKERS = "osD^vP*X<>"


def plot(
    labels: list[Path] = typer.Option(None, "--labels", help="JSONL files of labels; default those made in this home."),
    to: Path | None = typer.Option(None, "--out", help="Folder for the files; default runs/plots in the home."),
    umap: bool = typer.Option(False, "--umap", help="Lay the points out with UMAP (pip install 'luna[umap]')."),
    home: Path | None = HOME_OPTION,
) -> None:
    """Draw reward vectors by category (PCA), and the course of reward health: PNG files, and the points as JSON."""
    with friendly_errors():
        place = resolve_home(home)
        folder = to or place.runs_dir / "plots"
        evals = home_evals(place)
        rows = [*_labelled(place, labels), *health_rows(evals)]
        found = {"course": health_course(evals), **plot_points(rows)}
        if umap:
            _lay_out_with_umap(found, rows)
        write_atomic(folder / "reward_plot.json", json.dumps(found, ensure_ascii=False) + "\n")
        write_atomic(folder / "reward_space.png", space_picture(found))
        written = ["reward_space.png", "reward_plot.json"]
        if found["course"]:
            write_atomic(folder / "reward_health.png", course_picture(found["course"]))
            written.insert(1, "reward_health.png")
        out.print(f"{len(rows)} judgements in {folder}: {', '.join(written)}", markup=False, soft_wrap=True)


def _labelled(home: Home, files: list[Path] | None) -> list[PlotRow]:
    """Labels, and beside them what the reward model in use says of the same answers."""
    chosen = files or sorted(home.data_dir.glob("teacher/*/labels.jsonl"))
    found = [label for file in chosen for label in read_labels(file, out_of_range="clamp").labels]
    return [*label_rows(found), *_scored(home, found[:MOST_SCORED])]


def _scored(home: Home, labels: list[TeacherLabel]) -> list[PlotRow]:
    if not labels or not home.rewards_dir.is_dir():
        return []
    from trainers.reward.model import load_reward_model, reward_model_in_use

    folder = reward_model_in_use(home)
    if folder is None:
        return []
    scores = load_reward_model(folder).score([label.prompt for label in labels], [label.response for label in labels])
    return [
        PlotRow(label.id or label.prompt_id, label.category, "reward model", score.vector())
        for label, score in zip(labels, scores, strict=True)
    ]


def _lay_out_with_umap(found: dict[str, Any], rows: list[PlotRow]) -> None:
    """Put UMAP's places (McInnes et al., 2018; seeded) in place of the principal components'."""
    try:
        from umap import UMAP
    except ImportError as error:
        raise LunaError("UMAP is not installed; `pip install 'luna[umap]'`, or leave --umap out for PCA.") from error
    places = UMAP(n_neighbors=min(15, len(rows) - 1), random_state=0).fit_transform([row.vector for row in rows])
    for point, (x, y) in zip(found["points"], places.tolist(), strict=True):
        point["x"], point["y"] = round(x, 4), round(y, 4)
    found["axes"] = []  # its axes mean nothing by themselves


def space_picture(found: dict[str, Any]) -> bytes:
    """The points as a PNG: a colour a category, a mark a source."""
    figure, axes = _figure()
    colours = _colours(found["categories"])
    marks = {source: _MARKERS[i % len(_MARKERS)] for i, source in enumerate(found["sources"])}
    for source, mark in marks.items():
        own = [point for point in found["points"] if point["source"] == source]
        axes.scatter(
            [point["x"] for point in own], [point["y"] for point in own], s=26, marker=mark, alpha=0.75,
            c=[colours[point["category"]] for point in own], linewidths=0,
        )  # fmt: skip
    for category, colour in colours.items():
        axes.scatter([], [], c=[colour], s=26, label=category)
    for source, mark in marks.items():
        axes.scatter([], [], c="grey", s=26, marker=mark, label=source)
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    for number, axis in enumerate(found["axes"]):
        text = f"{_strongest(axis['loadings'])}  ({axis['explained']:.0%} of the variance)"
        (axes.set_xlabel if number == 0 else axes.set_ylabel)(text, fontsize=8)
    axes.set_title("Reward vectors" + ("" if found["axes"] else " (UMAP)"), fontsize=10)
    return _png(figure)


def course_picture(course: list[dict[str, Any]]) -> bytes:
    """RHI of each role over generations, its components' means thin behind it, as a PNG."""
    figure, axes = _figure()
    numbers = [step["gen_id"] for step in course]
    roles = list(dict.fromkeys(role for step in course for role in step["roles"]))
    for role, colour in _colours(roles).items():
        axes.plot(numbers, [step["roles"][role]["rhi"] for step in course], "o-", color=colour, label=f"RHI {role}")
    for name in COMPONENTS:
        means = [sum(role[name] for role in step["roles"].values()) / len(step["roles"]) for step in course]
        axes.plot(numbers, means, "--", linewidth=0.9, alpha=0.7, label=f"{name.upper()}, mean")
    axes.set(ylim=(0, 1.02), xticks=numbers, xticklabels=[f"G{number}" for number in numbers])
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set_title("Reward health", fontsize=10)
    return _png(figure)


def _figure() -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise LunaError("pictures need matplotlib; `pip install 'luna[plot]'` (make setup installs it).") from error
    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    return figure, figure.add_subplot()


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _colours(names: list[str]) -> dict[str, str]:
    return {name: f"C{i % 10}" for i, name in enumerate(names)}


def _strongest(loadings: dict[str, float]) -> str:
    """The three dimensions that make an axis, with their signs."""
    order = sorted(loadings, key=lambda name: -abs(loadings[name]))[:3]
    return ", ".join(f"{'+' if loadings[name] > 0 else '−'}{name}" for name in order)
