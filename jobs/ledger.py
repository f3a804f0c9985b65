"""`luna ledger`: read, check and export the record."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path

import typer

from jobs.context import HOME_OPTION, JSON_OPTION, NO, friendly_errors, out, resolve_home
from ledger.errors import LunaError
from ledger.files import write_atomic
from ledger.store import Ledger

app = typer.Typer(no_args_is_help=True, help="Read, check and export the record.")
logger = logging.getLogger(__name__)


@app.command()
def show(json_: bool = JSON_OPTION, home: Path | None = HOME_OPTION) -> None:
    """The ledger as the CSV has it."""
    with friendly_errors():
        place = resolve_home(home)
        with Ledger.open(place) as ledger:
            rows = ledger.rows()
        if json_:
            out.print_json(json.dumps([row.model_dump(mode="json") for row in rows]))
        else:
            typer.echo(place.csv.read_text(encoding="utf-8"), nl=False)


@app.command()
def verify(json_: bool = JSON_OPTION, home: Path | None = HOME_OPTION) -> None:
    """Recompute every hash and link; name what is wrong. Exit status 3 if anything is."""
    from ledger.verification.ledger import verify as problems_of

    with friendly_errors():
        problems = problems_of(resolve_home(home))
        if json_:
            out.print_json(json.dumps([asdict(problem) for problem in problems]))
        else:
            for problem in problems:
                out.print(str(problem), markup=False, soft_wrap=True)
            out.print(f"{len(problems)} problems" if problems else "the ledger is whole: every hash and link holds")
        if problems:
            raise typer.Exit(NO)


@app.command()
def export(
    target: Path = typer.Argument(..., help="A .csv or .json file to write."), home: Path | None = HOME_OPTION
) -> None:
    """Write the rows and scores of the current lineage to a file."""
    with friendly_errors():
        place = resolve_home(home)
        with Ledger.open(place) as ledger:
            rows = ledger.rows()
            scores = [score for gen_id in dict.fromkeys(row.gen_id for row in rows) for score in ledger.evals(gen_id)]
        if target.suffix == ".csv":
            write_atomic(target, place.csv.read_bytes())
        elif target.suffix == ".json":
            content = {
                "rows": [row.model_dump(mode="json") for row in rows],
                "evals": [score.model_dump(mode="json") for score in scores],
            }
            write_atomic(target, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        else:
            raise LunaError(f"cannot export to {target}; name a file that ends in .csv or .json.")
        logger.info("wrote %s", target)
