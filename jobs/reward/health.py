"""`luna reward health`: the Reward Health Index of a generation, from the ledger or measured now."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import typer
from rich.table import Table

from curriculum.reward.points import COMPONENTS, health_course
from jobs.context import HOME_OPTION, JSON_OPTION, friendly_errors, gen_number, out, resolve_home
from jobs.generation.engine import generation_rows, open_generation_engine
from ledger.errors import LunaError
from ledger.home import Home
from ledger.records import EvalRecord
from ledger.roles import ROLES
from ledger.rules.gates import health_problem
from ledger.store import Ledger

logger = logging.getLogger(__name__)

NAMES = {
    "rhi": "RHI, the index",
    "dcs": "DCS, dimensions pull one way",
    "gvs": "GVS, gradients agree",
    "mss": "MSS, as the parent saw it",
    "cdrs": "CDRS, the judge agrees with itself",
    "lrps": "LRPS, beginnings as the whole",
}


def health(
    gen: str | None = typer.Argument(None, help="A generation, G2 or 2; default the head."),
    measure: bool = typer.Option(
        False, "--measure", help="Measure it now (not stored), instead of reading the ledger."
    ),
    json_: bool = JSON_OPTION,
    home: Path | None = HOME_OPTION,
) -> None:
    """The Reward Health Index of a generation by role and component, and what its course asks for."""
    from cluster.settings import settings_of

    with friendly_errors():
        place = resolve_home(home)
        gen_id = generation_rows(place, None if gen is None else gen_number(gen))[0].gen_id
        records = measured_now(place, gen_id) if measure else recorded(place, gen_id)
        advice = course_advice(place)
        if json_:
            content = {"gen_id": gen_id, "records": [r.model_dump(mode="json") for r in records], "advice": advice}
            out.print_json(json.dumps(content, ensure_ascii=False))
            return
        out.print(f"[bold]G{gen_id}[/], judged by the reward model {_index(records).details['reward_sha'][:12]}")
        out.print(health_table(records))
        bound = settings_of(place).health.rhi_min
        for record in records:
            if record.eval == "rhi" and (problem := health_problem(record, bound)):
                out.print(f"{record.role}: {problem}", markup=False)
        if advice:
            out.print(advice, markup=False, soft_wrap=True)


def recorded(home: Home, gen_id: int) -> list[EvalRecord]:
    """The stored records of health of a generation.

    Raises:
        LunaError: it has none.
    """
    with Ledger.open(home) as ledger:
        found = [score for score in ledger.evals(gen_id) if score.eval in NAMES]
    if not found:
        raise LunaError(
            f"G{gen_id} has no recorded reward health: it was raised without a reward model, or on an engine that "
            "cannot be measured. `--measure` measures it now."
        )
    return found


def measured_now(home: Home, gen_id: int) -> list[EvalRecord]:
    """Measure a generation with the reward model in use; nothing is stored in the ledger.

    Raises:
        LunaError: the home has no reward model, an adapter is missing, or the engine cannot be measured.
    """
    from cluster.settings import settings_of
    from trainers.health.probe import HealthPlan
    from trainers.health.report import measure_health
    from trainers.reward.model import current_model

    reward_model = current_model(home)
    rows = generation_rows(home, gen_id)
    settings = settings_of(home)
    plans = [
        HealthPlan(
            role=row.role,
            child=home.adapter_dir(row.child_sha),
            parent=None if row.parent_gen is None else home.adapter_dir(row.parent_sha),
            seed=row.seed,
            text=settings.text,
        )
        for row in rows
    ]
    logger.info(f"measuring G{gen_id} with the reward model {reward_model.name[:12]}")
    engine = open_generation_engine(home, rows[0])
    curves = home.run_dir(f"health-g{gen_id}")
    records, reason = measure_health(engine.lean, plans, reward_model, gen_id, curves, settings.health)
    if reason:
        raise LunaError(reason + ".")
    return records


def home_evals(home: Home) -> list[EvalRecord]:
    """Every score of the current lineage, oldest generation first; none where the home has no ledger yet."""
    if not home.db.exists():
        return []
    with Ledger.open(home) as ledger:
        return ledger.all_evals() if ledger.lineages() else []


def course_advice(home: Home) -> str:
    """What the slow loop asks for after the generations so far; empty if nothing."""
    from cluster.settings import settings_of
    from trainers.health.gate import reduction

    settings = settings_of(home)
    indices = [step["rhi"] for step in health_course(home_evals(home))]
    lr = max(settings.train.of_child().lr_of(role) for role in ROLES)
    asked = reduction(indices, lr, settings.lora.rank, settings.health)
    return asked.reason if asked else ""


def health_table(records: Sequence[EvalRecord]) -> Table:
    """Components down, roles across."""
    roles = list(dict.fromkeys(record.role for record in records))
    values = {(record.eval, record.role): record.value for record in records}
    table = Table("component", *roles)
    for name in ("rhi", *COMPONENTS):
        table.add_row(NAMES[name], *(f"{values[name, role]:.3f}" for role in roles))
    return table


def _index(records: Sequence[EvalRecord]) -> EvalRecord:
    return next(record for record in records if record.eval == "rhi")
