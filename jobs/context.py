"""Which home a command works on, and how it speaks."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console

from ledger.errors import LunaError
from ledger.home import Home

out = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
"""Results: standard output."""

err = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 120)
"""Chatter, progress and errors: standard error."""

HOME_OPTION = typer.Option(None, "--home", help="Home folder; default $LUNA_HOME, else ./home.", show_default=False)
ADDRESS_OPTION = typer.Option(None, "--address", help="Ray cluster; default this machine.", show_default=False)
JSON_OPTION = typer.Option(False, "--json", help="Print JSON.")


def say(text: str) -> None:
    """One line of chatter."""
    err.print(text, markup=False, soft_wrap=True)


def gen_number(text: str) -> int:
    """`G2`, `g2` or `2` as 2."""
    digits = text.lower().removeprefix("g")
    if not digits.isdigit():
        raise LunaError(f"{text!r} names no generation; write G2 or 2.")
    return int(digits)


def resolve_home(explicit: Path | None) -> Home:
    """--home, else LUNA_HOME, else ./home; inside a submitted job, whose folder is thrown away, ~/.luna/home."""
    if explicit is not None:
        return Home(explicit.expanduser().resolve())
    if named := os.environ.get("LUNA_HOME"):
        return Home(Path(named).expanduser().resolve())
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        home = Home(Path.home() / ".luna" / "home")
        say(f"LUNA_HOME is not set for this job; using {home.root}")
        return home
    return Home((Path.cwd() / "home").resolve())


@contextmanager
def friendly_errors() -> Iterator[None]:
    """A user's error becomes one line and exit status 1; anything else is a bug and keeps its traceback."""
    try:
        yield
    except LunaError as error:
        err.print(f"[bold red]error:[/] {_escaped(str(error))}")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        err.print("interrupted")
        raise typer.Exit(130) from None


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def is_terminal() -> bool:
    """Whether progress may redraw itself."""
    return sys.stderr.isatty() and "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ
