"""`luna curriculum`: build recipes, import one's own data, look inside."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jobs.context import HOME_OPTION, JSON_OPTION, friendly_errors, out, printable, resolve_home
from jobs.imported import data_lines, sample_lines, summary_lines
from ledger.errors import LunaError
from ledger.home import Home
from ledger.roles import ROLES, Role

if TYPE_CHECKING:
    from curriculum.importing import ImportReport
    from curriculum.inspect import Summary

logger = logging.getLogger(__name__)

app = typer.Typer(no_args_is_help=True, help="Build, import and inspect training data.")

SETS = ("recipe", "agl", "dialogues", "phase0", "phase1", "phase2")
"""What `build` knows: role recipes, pure puzzles, sample dialogues, the tabula-rasa phases."""


def build_examples(kind: str, total: int | None, seed: int) -> list[Any]:
    """`total` examples for each role, of one of the known sets; None is a recipe's own size, or 1,200."""
    from curriculum.agl.puzzles import distinct_puzzles, puzzle_examples
    from curriculum.conversations.dialogues import dialogue_examples
    from curriculum.phases import build_phase
    from curriculum.recipes.build import TOTALS, build_recipe

    if kind not in SETS:
        raise LunaError(f"there is no set {kind!r}; use one of {', '.join(SETS)}.")
    examples: list[Any] = []
    for role in ROLES:
        count = total or (TOTALS[role] if kind == "recipe" else 1200)
        if kind == "recipe":
            examples += build_recipe(role, count, seed)
        elif kind == "agl":
            examples += puzzle_examples(distinct_puzzles(seed, count), role)
        elif kind == "dialogues":
            examples += dialogue_examples(role)[:count]
        else:
            examples += build_phase(int(kind.removeprefix("phase")), role, seed, count)
    return examples


def build_into_inbox(home: Home, kind: str, total: int | None, seed: int) -> str:
    """Build a set and leave it in the home's inbox; returns its SHA."""
    from curriculum.parquet import write_examples

    home.create()
    examples = build_examples(kind, total, seed)
    sha = write_examples(home.inbox_dir, examples)
    logger.info(f"{len(examples)} examples ({kind}) in the inbox as {sha[:12]}")
    return sha


@app.command()
def build(
    kind: str = typer.Argument("recipe", help=f"One of {', '.join(SETS)}."),
    total: int | None = typer.Option(None, help="Examples a role; a recipe has its own number for each, others 1200."),
    seed: int = typer.Option(1, help="Equal seeds give equal files."),
    home: Path | None = HOME_OPTION,
) -> None:
    """Build a set of examples into the inbox, from where the next generation takes it."""
    with friendly_errors():
        if total is not None and total < 1:
            raise LunaError(f"--total is {total}; ask for at least one example a role.")
        out.print(build_into_inbox(resolve_home(home), kind, total, seed), soft_wrap=True)


@app.command("import")
def import_(
    paths: list[str] = typer.Argument(..., help="Files, folders, zip archives; - is standard input."),
    role: str = typer.Option("all", help="Role of records that name none: all gives each to every role."),
    on_error: str = typer.Option("continue", help="At a bad line: continue (and say which) or stop."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Show what an import would take, and import nothing."),
    keep_personal_data: bool = typer.Option(
        False, "--keep-personal-data", help="Do not mask addresses, numbers, keys and tokens."
    ),
    home: Path | None = HOME_OPTION,
) -> None:
    """Bring your own data: docs/how-to/own-data.md has the formats."""
    from curriculum.importing.files import ImportOptions, OnError, import_paths

    with friendly_errors():
        roles = ROLES if role == "all" else (cast(Role, role),)  # both words are checked where they are used
        options = ImportOptions(roles, cast(OnError, on_error), keep_personal_data=keep_personal_data)
        report = import_paths(paths, options)
        place = resolve_home(home)
        said = [*summary_lines(report), *data_lines(place, report)]
        if dry_run:
            for line in [*said, *sample_lines(report), "nothing was imported (--dry-run)"]:
                out.print(printable(line), markup=False, soft_wrap=True)
            return
        for line in said:
            logger.info(line)
        for sha in keep(place.create(), report):
            out.print(sha, soft_wrap=True)


def keep(home: Home, report: ImportReport) -> list[str]:
    """Put what was imported into the inbox; returns the SHAs of the files, that of the examples first.

    Raises:
        LunaError: there is nothing.
    """
    from curriculum.parquet import write_examples
    from curriculum.preferences.pairs import write_preferences

    if not (report.kept or report.pairs):
        raise LunaError("no record could be used, and nothing was imported; the lines above say why.")
    shas = []
    if report.kept:
        shas.append(write_examples(home.inbox_dir, report.whole()))
        logger.info(f"{len(report.kept)} examples in the inbox as {shas[-1][:12]}")
    if report.pairs:
        shas.append(write_preferences(home.pairs_dir, report.pairs))
        logger.info(f"{len(report.pairs)} preference pairs in the inbox as {shas[-1][:12]}; a generation learns from "
                    "them with --channels dual")  # fmt: skip
    return shas


@app.command()
def inspect(
    what: str = typer.Argument(..., help="A Parquet file, or the first characters of a SHA under data/."),
    json_: bool = JSON_OPTION,
    home: Path | None = HOME_OPTION,
) -> None:
    """Counts, lengths and variety of a set of examples."""
    from dataclasses import asdict

    from curriculum.inspect import summarise
    from curriculum.parquet import read_examples

    with friendly_errors():
        summary = summarise(read_examples(_find(resolve_home(home), what)))
        if json_:
            out.print_json(json.dumps(asdict(summary), ensure_ascii=False))
        else:
            print_summary(summary, out)


def print_summary(summary: Summary, out: Console) -> None:
    """A data set in numbers."""
    out.print(f"{summary.examples} examples, {summary.distinct_inputs} distinct inputs")
    for name in ("roles", "stages", "kinds", "scorings", "sources"):
        counts = getattr(summary, name)
        out.print(f"{name}: " + ", ".join(f"{printable(key)} {count}" for key, count in counts.items()), markup=False)
    out.print(f"conversations and documents: {summary.groups}")
    for name in ("input_words", "output_words"):
        words = getattr(summary, name)
        out.print(f"{name.replace('_', ' ')}: {words.shortest} to {words.longest}, mean {words.mean:.1f}")
    out.print(f"most used template: {printable(summary.top_template)} ({summary.top_template_share:.1%})", markup=False)
    table = Table("category", "examples")
    for category, count in summary.categories.items():
        table.add_row(escape(printable(category)), str(count))
    out.print(table)


def _find(home: Home, what: str) -> Path:
    if Path(what).is_file():
        return Path(what)
    found = sorted({path.name: path for path in home.data_dir.rglob(f"{what}*.parquet")}.values())
    if len(found) != 1:
        raise LunaError(
            f"{what!r} is no file and names {len(found)} data files under {home.data_dir}; give more of the SHA."
        )
    return found[0]
