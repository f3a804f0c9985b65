"""`luna demo`."""

from __future__ import annotations

from pathlib import Path

import typer

from jobs.context import ADDRESS_OPTION, HOME_OPTION, friendly_errors, resolve_home


def demo(
    fresh: bool = typer.Option(False, "--fresh", help="Raise a new lineage even if the demo was finished here."),
    profile: str = typer.Option("smol", help="Profile of the demo's home."),
    home: Path | None = HOME_OPTION,
    address: str | None = ADDRESS_OPTION,
) -> None:
    """Raise G0, G1 and G2 of a real trio, have one bad generation rejected, and show the record."""
    from jobs.demo.run import run_demo

    with friendly_errors():
        run_demo(resolve_home(home), profile, address, fresh)
