"""`luna plan` and `luna doctor`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import typer

from jobs.context import HOME_OPTION, JSON_OPTION, NO, friendly_errors, out, resolve_home


def plan_command(
    serve: bool | None = typer.Option(
        None, "--serve/--no-serve", help="With the server on the same rig; default: where the home was ever served."
    ),
    json_: bool = JSON_OPTION,
    home: Path | None = HOME_OPTION,
) -> None:
    """Show where the next generation would train, in how many bytes and seconds. Exit status 3 if it does not fit."""
    from jobs.rig.plan import plain, plan_of_home, print_plan

    with friendly_errors():
        place = resolve_home(home)
        planned = plan_of_home(place, place.serving_file.exists() if serve is None else serve)
        if json_:
            out.print_json(json.dumps(plain(planned)))
        else:
            print_plan(planned, out)
        if not planned.fits:
            raise typer.Exit(NO)


def doctor_command(
    install_dashboard: bool = typer.Option(
        False, "--install-dashboard", help="Put Luna's Grafana board beside those of the running Ray instead."
    ),
    json_: bool = JSON_OPTION,
    home: Path | None = HOME_OPTION,
) -> None:
    """Show what Ray, torch and the drivers see, and check the home and its runs. Exit status 3 if anything is wrong."""
    from jobs.dashboard import install
    from jobs.rig.doctor import examine, print_examined

    with friendly_errors():
        if install_dashboard:
            out.print(f"wrote {install()}", soft_wrap=True)
            return
        found = examine(resolve_home(home))
        if json_:
            out.print_json(json.dumps(asdict(found)))
        else:
            print_examined(found, out)
        if any(check.is_problem for check in found.checks):
            raise typer.Exit(NO)
