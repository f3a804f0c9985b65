"""What the commands share: which home they work on, how they speak, and with which exit status they end.

Standard output has a command's answer (tables, JSON); what it tells along the way is logged, to standard error.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from ledger.errors import LunaError
from ledger.home import Home
from ledger.logs import LineHandler, listening

logger = logging.getLogger(__name__)

_SHOWN_PROBLEMS = 5

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""All but line feed and tab; and what reverses the direction of writing, and halves of characters."""

out = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
"""Results: standard output."""

err = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 120)
"""Chatter, progress and errors: standard error."""

ERROR, USAGE, NO, INTERRUPTED = 1, 2, 3, 130
"""Exit statuses beside 0. NO: the command ran, and the answer is no (rejected, broken, different, corrupt)."""

EXIT_STATUSES = (
    f"Exit status: 0 done; {ERROR} error; {USAGE} wrong usage; {NO} it ran, and the answer is no (a generation was "
    f"rejected, a regression broke, bytes differ, a record is corrupt); {INTERRUPTED} interrupted."
)


def _or_before_the_command(context: typer.Context, parameter: typer.CallbackParam, value: Any) -> Any:
    """`luna --home X status` means `luna status --home X`."""
    return context.find_root().params.get(parameter.name) if value is None else value


HOME_OPTION = typer.Option(
    None,
    "--home",
    help="Home folder; default $LUNA_HOME, else ./home.",
    show_default=False,
    callback=_or_before_the_command,
)
ADDRESS_OPTION = typer.Option(
    None, "--address", help="Ray cluster; default this machine.", show_default=False, callback=_or_before_the_command
)
JSON_OPTION = typer.Option(False, "--json", help="Print JSON.")
GEN_ARGUMENT = typer.Argument(..., help="A generation, G2 or 2.")


class UsageError(LunaError):
    """A command that cannot be meant so."""


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
        logger.info("LUNA_HOME is not set for this job; using %s", home.root)
        return home
    return Home((Path.cwd() / "home").resolve())


@contextmanager
def friendly_errors() -> Iterator[None]:
    """Show what is logged; a user's error becomes one line and an exit status. Anything else is a bug and keeps its
    traceback."""
    try:
        with listening(_TERMINAL):
            yield
    except LunaError as error:
        err.print(f"[bold red]error:[/] {escape(printable(str(error)))}", soft_wrap=True)
        raise typer.Exit(USAGE if isinstance(error, UsageError) else ERROR) from None
    except KeyboardInterrupt:
        err.print("interrupted")
        raise typer.Exit(INTERRUPTED) from None


def log_some(what: str, problems: Sequence[object]) -> None:
    """Log the first of many problems, and how many there are."""
    for problem in problems[:_SHOWN_PROBLEMS]:
        logger.info(str(problem))
    if problems:
        logger.info(f"{len(problems)} {what}" + (", the first shown" if len(problems) > _SHOWN_PROBLEMS else ""))


def _tell(record: logging.LogRecord) -> None:
    err.print(printable(record.getMessage()), markup=False, soft_wrap=True)


_TERMINAL = LineHandler(_tell)


def printable(text: str) -> str:
    """Without control characters, which could move about in the reader's terminal."""
    return _CONTROL.sub("?", text)


def is_terminal() -> bool:
    """Whether progress may redraw itself."""
    return sys.stderr.isatty() and "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ
