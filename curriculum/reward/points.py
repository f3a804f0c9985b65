"""The reward space and the course of reward health as plain points, for a picture or a page.

Principal components of the seven dimensions (Pearson, 1901), by singular value decomposition; the sign of each axis is
fixed by its largest loading, so that equal data give an equal picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from curriculum.reward.labels import TeacherLabel
from curriculum.reward.manifold import DIMENSIONS
from ledger.errors import LunaError
from ledger.records import EvalRecord

COMPONENTS = ("dcs", "gvs", "mss", "cdrs", "lrps")
"""Of the index, in its order."""


@dataclass(frozen=True)
class PlotRow:
    """One judgement to show."""

    id: str
    category: str
    source: str
    """Whose answer or judgement: `labels`, `reward model`, or a generation and role such as `G2 creative`."""
    vector: tuple[float, ...]
    """The seven dimensions."""


def plot_points(rows: Sequence[PlotRow]) -> dict[str, Any]:
    """The rows' places on the first two principal components, and what the axes mean.

    Returns:
        `points`: id, category, source, x, y of each row, in order. `axes`: for x and y the share of variance explained,
        in [0, 1], and the loading of each dimension, in [-1, 1]. `categories`, `sources`: names, sorted.

    Raises:
        LunaError: there are fewer than three rows.
    """
    if len(rows) < 3:
        raise LunaError(
            f"there are {len(rows)} judgements to plot, at least 3 are needed; label answers with `luna teach label`, "
            "or raise a generation in a home with a reward model."
        )
    import numpy as np

    vectors = np.array([row.vector for row in rows], dtype=np.float64)
    centred = vectors - vectors.mean(0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2] * np.sign(axes[:2][np.arange(2), np.abs(axes[:2]).argmax(1)])[:, None]
    shares = sizes[:2] ** 2 / max(float((sizes**2).sum()), 1e-30)
    places = centred @ axes.T
    return {
        "axes": [
            {"explained": round(float(share), 4), "loadings": _rounded(dict(zip(DIMENSIONS, axis, strict=True)))}
            for share, axis in zip(shares, axes, strict=True)
        ],
        "points": [
            {
                "id": row.id,
                "category": row.category,
                "source": row.source,
                "x": round(float(x), 4),
                "y": round(float(y), 4),
            }
            for row, (x, y) in zip(rows, places, strict=True)
        ],
        "categories": sorted({row.category for row in rows}),
        "sources": sorted({row.source for row in rows}),
    }


def label_rows(labels: Iterable[TeacherLabel]) -> list[PlotRow]:
    """Labels as rows, under the source `labels`."""
    return [PlotRow(label.id or label.prompt_id, label.category, "labels", label.reward.vector()) for label in labels]


def health_rows(evals: Iterable[EvalRecord]) -> list[PlotRow]:
    """The probe answers behind every `rhi` score, under the generation's and role's name."""
    return [
        PlotRow(answer["id"], answer["category"], f"G{score.gen_id} {score.role}", tuple(answer["values"][:7]))
        for score in evals
        if score.eval == "rhi"
        for answer in score.details.get("answers", [])
    ]


def health_course(evals: Iterable[EvalRecord]) -> list[dict[str, Any]]:
    """Generations that have an index, in their order: number, mean index over the roles, and each role's components."""
    by_generation: dict[int, dict[str, dict[str, float]]] = {}
    for score in evals:
        if score.eval == "rhi":
            components = {name: score.details["components"][name] for name in COMPONENTS}
            by_generation.setdefault(score.gen_id, {})[score.role] = _rounded({"rhi": score.value, **components})
    return [
        {"gen_id": gen_id, "rhi": round(sum(role["rhi"] for role in roles.values()) / len(roles), 4), "roles": roles}
        for gen_id, roles in sorted(by_generation.items())
    ]


def plot_content(labels: Iterable[TeacherLabel], evals: Sequence[EvalRecord], most: int = 600) -> dict[str, Any]:
    """What a page shows of a home: `course`, and the points of its labels and its generations' probe answers.

    Args:
        labels: of every label file of the home.
        evals: every score of the lineage, oldest generation first.
        most: points at most, the newest kept; a page need not carry more.

    Returns:
        As `plot_points`, with `course` of `health_course`; `points` and `axes` are empty where there is too little.
    """
    rows = [*label_rows(labels), *health_rows(evals)][-most:]
    empty: dict[str, Any] = {"axes": [], "points": [], "categories": [], "sources": []}
    return {"course": health_course(evals), **(plot_points(rows) if len(rows) >= 3 else empty)}


def _rounded(values: dict[str, Any]) -> dict[str, float]:
    return {name: round(float(value), 4) for name, value in values.items()}
