"""`luna ledger`: read, check and export the record."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path

import typer

from jobs.context import HOME_OPTION, JSON_OPTION, NO, friendly_errors, out, resolve_home
from ledger.database.csv_export import csv_text
from ledger.errors import LunaError
from ledger.files import write_atomic
from ledger.store import Ledger

app = typer.Typer(no_args_is_help=True, help="Read, check and export the record.")
logger = logging.getLogger(__name__)


@app.command()
def show(
    last: int = typer.Option(20, min=1, help="Show this many generations, the newest."),
    all_: bool = typer.Option(False, "--all", help="Show every generation."),
    json_: bool = JSON_OPTION,
    home: Path | None = HOME_OPTION,
) -> None:
    """The newest generations as the CSV has them, of all lineages in the order recorded."""
    with friendly_errors():
        with Ledger.open(resolve_home(home)) as ledger:
            rows, more = ledger.latest_rows(None if all_ else last)
        if json_:
            out.print_json(json.dumps([row.model_dump(mode="json") for row, _ in rows]))
        else:
            typer.echo(csv_text(rows), nl=False)
        if more:
            logger.info("these are the newest %d; there are earlier ones, which --all or --last shows", last)


@app.command()
def verify(json_: bool = JSON_OPTION, home: Path | None = HOME_OPTION) -> None:
    """Recompute every hash, link and training schedule; name what is wrong. Exit status 3 if anything is."""
    from cluster.steps.verify_plan import plan_problems
    from ledger.verification.ledger import verify as problems_of

    with friendly_errors():
        place = resolve_home(home)
        problems = problems_of(place)
        if not any(problem.where == place.db.name for problem in problems):  # nothing can be read of a broken one
            problems += plan_problems(place)
        if json_:
            out.print_json(json.dumps([asdict(problem) for problem in problems]))
        else:
            for problem in problems:
                out.print(str(problem), markup=False, soft_wrap=True)
            out.print(
                f"{len(problems)} problems" if problems else "the ledger is whole: every hash, link and schedule holds"
            )
        if problems:
            raise typer.Exit(NO)


@app.command()
def export(
    target: Path = typer.Argument(..., help="A .csv or .json file to write."), home: Path | None = HOME_OPTION
) -> None:
    """Write the rows to a file: .csv as the ledger's CSV has them, .json the current lineage's with their scores."""
    with friendly_errors():
        with Ledger.open(resolve_home(home)) as ledger:
            everything, _ = ledger.latest_rows(None)
            rows, scores = ledger.rows(), ledger.all_evals()
        if target.suffix == ".csv":
            write_atomic(target, csv_text(everything))
        elif target.suffix == ".json":
            content = {
                "rows": [row.model_dump(mode="json") for row in rows],
                "evals": [score.model_dump(mode="json") for score in scores],
            }
            write_atomic(target, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        else:
            raise LunaError(f"cannot export to {target}; name a file that ends in .csv or .json.")
        logger.info("wrote %s", target)
