"""What a lineage looks like from outside: its generations, scores and gates, its age, and loss curves."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

from curriculum.reward import read_labels
from curriculum.reward.points import plot_content
from ledger.errors import LunaError
from ledger.home import Home
from ledger.records import EvalRecord, GenerationRow
from ledger.roles import ROLES
from ledger.rules.ages import age_name
from ledger.rules.gates import GATES, RHI, Gate, GateSettings, gate_bound, gate_problem, halved, health_problem
from ledger.rules.karma import karma_state
from ledger.store import Ledger, Stores

MOST_POINTS = 500
"""Points of a loss curve; longer ones are thinned evenly."""


def lineage_state(home: Home, gates: GateSettings, served: dict[str, Any] | None) -> dict[str, Any]:
    """The current lineage, oldest generation first.

    Args:
        gates: the bounds in force; a generation was judged with those of its own time.
        served: what the engine says it serves; None if it does not answer.
    """
    with Stores.open(home) as stores:
        ledger = stores.ledger
        name, head, age, stop = ledger.current_lineage(), ledger.head(), ledger.age(), ledger.stop_of()
        base_sha = next(entry.base_sha for entry in ledger.lineages() if entry.name == name)
        judged = [list(rows) for _, rows in groupby(ledger.rows(), key=lambda row: row.gen_id)]
        generations = [_generation(rows, ledger.evals(rows[0].gen_id), gates) for rows in judged]
        karma = karma_state(stores.conversations.karma_earned(name), age or 0)
    return {
        "lineage": name,
        "base_sha": base_sha,
        "head": head,
        "age": None if age is None else {"number": age, "name": age_name(age)},
        "karma": {"earned": karma.earned, "threshold": karma.threshold, "progress": karma.progress},
        "reward_model": home.reward_pointer.read_text().strip() if home.reward_pointer.exists() else None,
        "stop": stop.reason if stop else None,
        "served": served and {name: served[name] for name in ("current", "previous", "generations")},
        "generations": generations,
    }


def reward_points(home: Home) -> dict[str, Any]:
    """Reward vectors of the home's labels and of its generations' probe answers, and the course of reward health."""
    with Ledger.open(home) as ledger:
        evals = ledger.all_evals()
    files = sorted(home.data_dir.glob("teacher/*/labels.jsonl"))
    return plot_content([label for file in files for label in read_labels(file, out_of_range="clamp").labels], evals)


def loss_curves(home: Home, gen: int) -> dict[str, list[tuple[int, float]]]:
    """Training loss by role as (step, nats a token), from the run's TensorBoard files.

    Raises:
        LunaError: the generation is unknown, or its run folder is gone (it may be deleted at any time).
    """
    with Ledger.open(home) as ledger:
        rows = ledger.generation(gen)
    folder = home.run_dir(rows[0].run_id)
    curves: dict[str, list[tuple[int, float]]] = {}
    for events in sorted({file.parent for file in folder.rglob("events.out.tfevents.*")}):
        curves |= _scalars(events)
    if not curves:
        raise LunaError(f"the run of G{gen} left no loss curves (run folders may be deleted at any time).")
    return {role: _thinned(curves[role]) for role in ROLES if role in curves}


def _scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {
        role: [(point.step, point.value) for point in events.Scalars(f"train/{role}/loss")]
        for role in ROLES
        if f"train/{role}/loss" in events.Tags()["scalars"]
    }


def _thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most `MOST_POINTS`, evenly spread, first and last among them."""
    if len(points) <= MOST_POINTS:
        return points
    last = len(points) - 1
    return [points[round(i * last / (MOST_POINTS - 1))] for i in range(MOST_POINTS)]


def _generation(rows: list[GenerationRow], scores: list[EvalRecord], gates: GateSettings) -> dict[str, Any]:
    first = rows[0]
    return {
        "generation": first.gen_id,
        "parent": first.parent_gen,
        "verdict": first.verdict,
        "reason": first.reason,
        "trained_at": first.trained_at,
        "roles": [
            {
                "role": row.role,
                "adapter_sha": row.child_sha,
                "steps": row.steps,
                "lr": row.lr,
                "alpha": row.alpha,
                "loss_start": row.loss_start,
                "loss_end": row.loss_end,
                "evals": [_score(score, gates) for score in scores if score.role == row.role],
            }
            for row in rows
        ],
    }


def _score(score: EvalRecord, gates: GateSettings) -> dict[str, Any]:
    limit, passed = _judged(score, gates)
    return {
        "eval": score.eval,
        "value": score.value,
        "low": score.low,
        "high": score.high,
        "n": score.n,
        "limit": limit,
        "passed": passed,
    }


def _judged(score: EvalRecord, gates: GateSettings) -> tuple[float | None, bool | None]:
    """(the gate's bound, whether the score passes it); None twice where no gate asks for the score."""
    gate: Gate | None = next((gate for gate in GATES if gate == score.eval), None)
    if gate == "base_ability" and not gates.base_ability:  # told, and judged by no gate
        return None, None
    if gate is not None:
        gates = halved(gates) if score.details.get("half") else gates  # a blend's
        if gate == "style_drift":  # earlier versions had fewer probes
            gates = gates.model_copy(update={"style_probes_min": min(gates.style_probes_min, score.n)})
        return gate_bound(gate, gates), score.n == 0 or gate_problem(gate, {gate: score}, gates) is None
    health = score.details.get("settings", {})
    if score.eval == RHI and health.get("gate"):  # its bound is recorded with it
        return health["rhi_min"], health_problem(score, health["rhi_min"]) is None
    return None, None
