"""`luna generation`, `luna reproduce` and `luna regress`.

    luna generation run                                           here
    luna submit generation -- --profile tiny --total 1000         the same as a Ray job

`--profile` and `--total` make a home and its data where there are none, so that it runs on a bare cluster.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from jobs.context import (
    ADDRESS_OPTION,
    GEN_ARGUMENT,
    HOME_OPTION,
    JSON_OPTION,
    NO,
    err,
    friendly_errors,
    gen_number,
    out,
    resolve_home,
)

app = typer.Typer(no_args_is_help=True, help="Raise and look at generations.")


@app.command()
def run(
    data: list[str] = typer.Option(
        None, "--data", help="Inbox files by SHA alone; default the whole inbox and what conversations teach."
    ),
    steps: int | None = typer.Option(None, min=1, help="Optimizer steps, instead of the settings'."),
    seed: int | None = typer.Option(None, help="Seed, instead of the settings'."),
    interpolation: bool = typer.Option(True, help="Try blends of parent and child before a rejection."),
    channels: str | None = typer.Option(
        None, help="sft: examples alone; dual: preference pairs as well. Default the settings'."
    ),
    preferences: list[Path] = typer.Option(
        None, help="Files of preference pairs beside what the home has of labels and corrections."
    ),
    profile: str | None = typer.Option(None, help="Where there is no home yet: make one of this profile first."),
    total: int | None = typer.Option(
        None, min=1, help="Where the inbox is empty: fill it with so many recipe examples a role first."
    ),
    home: Path | None = HOME_OPTION,
    address: str | None = ADDRESS_OPTION,
) -> None:
    """Raise the next generation on what is new, or resume one that was interrupted. Exit status 3 if it is rejected."""
    from jobs.curriculum import build_into_inbox
    from jobs.generation.run import raise_generation
    from jobs.generation.show import print_generation
    from jobs.home import make_home

    with friendly_errors():
        place = resolve_home(home)
        if profile is not None and not place.settings_file.exists():
            make_home(place, profile, address)
        if total is not None and not any(place.inbox_dir.glob("*.parquet")):
            build_into_inbox(place, "recipe", total, seed=1)
        overrides: dict[str, Any] = {"train": {"steps": steps}} if steps is not None else {}
        if seed is not None:
            overrides["seed"] = seed
        if not interpolation:
            overrides["blends"] = {"enabled": False}
        if channels is not None:
            overrides["channels"] = {"mode": channels}
        chosen = tuple(data) if data else None
        if chosen is not None:
            overrides["data"] = {"conversations": False}
        result = raise_generation(place, address, chosen, overrides, preferences=preferences or ())
        print_generation(place, result["gen_id"], out)
        err.print(f"G{result['gen_id']}: {result['verdict']}")
        if result["verdict"] == "rejected":
            raise typer.Exit(NO)


@app.command()
def show(gen: str = GEN_ARGUMENT, json_: bool = JSON_OPTION, home: Path | None = HOME_OPTION) -> None:
    """One generation with every score."""
    from jobs.generation.show import print_generation

    with friendly_errors():
        print_generation(resolve_home(home), gen_number(gen), out, json_)


@app.command("list")
def list_(json_: bool = JSON_OPTION, home: Path | None = HOME_OPTION) -> None:
    """All generations of the current lineage, rejected ones too."""
    from jobs.generation.show import print_generations

    with friendly_errors():
        print_generations(resolve_home(home), out, json_)


@app.command()
def abandon(home: Path | None = HOME_OPTION, address: str | None = ADDRESS_OPTION) -> None:
    """Give up an interrupted run; its number is not used again."""
    from cluster.client.coordinator import ask, coordinator_for
    from cluster.ray_head import connect

    with friendly_errors():
        connect(address)
        out.print(f"abandoned {ask(coordinator_for(resolve_home(home)), 'abandon')}")


def reproduce(gen: str = GEN_ARGUMENT, home: Path | None = HOME_OPTION) -> None:
    """Train a generation again from its record and compare child_sha. Exit status 3 if one differs."""
    from jobs.generation.reproduce import reproduce as again

    with friendly_errors():
        results = again(resolve_home(home), gen_number(gen))
        for role, (recorded, found) in results.items():
            word = "equal" if recorded == found else "DIFFERENT"
            out.print(f"{role:<12} recorded {recorded}  found {found}  {word}", soft_wrap=True)
        if any(recorded != found for recorded, found in results.values()):
            err.print("the bytes differ: other hardware, thread count or library versions, or a changed record.")
            raise typer.Exit(NO)


def regress(
    gen: str = GEN_ARGUMENT,
    against: str | None = typer.Option(None, help="The generation to compare with; default the parent."),
    prompts: Path | None = typer.Option(None, help="A TOML file of prompts; default those that Luna ships."),
    json_: bool = JSON_OPTION,
    home: Path | None = HOME_OPTION,
) -> None:
    """Run a generation against prompts kept by hand, and show what changed. Exit status 3 if one broke."""
    from jobs.generation.regress import print_regression
    from jobs.generation.regress import regress as answers_beside

    with friendly_errors():
        other = None if against is None else gen_number(against)
        found = answers_beside(resolve_home(home), gen_number(gen), other, prompts)
        if json_:
            out.print_json(json.dumps(found, ensure_ascii=False))
        else:
            print_regression(found, out)
        if any(outcome["verdict"] == "broken" for outcome in found["outcomes"]):
            raise typer.Exit(NO)
