"""The teacher: have answers written and judged, and look at the labels.

    luna teach label --teacher rules              offline, from a clean home
    luna teach label                              by the endpoint of [teacher] in luna.toml
    luna submit teach -- label                    the same as a Ray job

A set is a folder `data/teacher/<set>/` of the home with `candidates.jsonl` and `labels.jsonl`. Both grow row by row,
and a run that was killed goes on where it stopped. Every request stands in `*.requests.jsonl` beside them.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from jobs.context import HOME_OPTION, JSON_OPTION, NO, friendly_errors, log_some, out, printable, resolve_home
from ledger.errors import LunaError
from ledger.home import Home

if TYPE_CHECKING:
    from curriculum.reward import TeacherLabel
    from curriculum.teacher.seed_prompts import SeedPrompt
    from curriculum.teacher.settings import TeacherSettings

logger = logging.getLogger(__name__)

app = typer.Typer(no_args_is_help=True, help="Have answers written and judged by a teacher, and look at the labels.")

TEACHERS = ("endpoint", "rules")
"""Who judges: a model behind an endpoint, or the offline rules, whose labels say so."""

SET_OPTION = typer.Option("seed", "--set", help="Name of the set under data/teacher/.")
TEACHER_OPTION = typer.Option("endpoint", "--teacher", help="endpoint ([teacher] in luna.toml), or rules (offline).")
BASE_URL_OPTION = typer.Option(None, "--base-url", help="Instead of [teacher] base_url.")
MODEL_OPTION = typer.Option(None, "--model", help="Instead of [teacher] model.")


@app.command()
def generate(
    teacher: str = TEACHER_OPTION,
    candidates: int | None = typer.Option(None, help="Answers a prompt, instead of [teacher] candidates."),
    prompts: Path | None = typer.Option(None, help="TOML file of prompts; default the shipped ones."),
    limit: int | None = typer.Option(None, help="Only the first so many prompts."),
    set_: str = SET_OPTION,
    base_url: str | None = BASE_URL_OPTION,
    model: str | None = MODEL_OPTION,
    home: Path | None = HOME_OPTION,
) -> None:
    """Have several answers to each prompt written: the candidates that are judged later."""
    from jobs.teacher.tasks import write_candidates

    with friendly_errors():
        place = resolve_home(home)
        settings = _settings(place, base_url, model)
        if candidates is not None:
            settings = settings.model_copy(update={"candidates": _at_least_one("--candidates", candidates)})
        path = write_candidates(place, set_, _teacher(teacher), settings, _prompts(prompts, limit))
        out.print(str(path), soft_wrap=True, markup=False)


@app.command()
def label(
    teacher: str = TEACHER_OPTION,
    candidates: Path | None = typer.Option(None, help="JSONL with prompt and response; default the set's own."),
    prompts: Path | None = typer.Option(None, help="TOML file of prompts, if candidates are written first."),
    limit: int | None = typer.Option(None, help="Only the first so many answers."),
    set_: str = SET_OPTION,
    base_url: str | None = BASE_URL_OPTION,
    model: str | None = MODEL_OPTION,
    home: Path | None = HOME_OPTION,
) -> None:
    """Have the candidates judged. A set without candidates gets them first, by the same teacher."""
    from curriculum.teacher.candidates import read_candidates
    from jobs.teacher.tasks import is_done, label_candidates, set_folder, write_candidates

    with friendly_errors():
        place, who = resolve_home(home), _teacher(teacher)
        settings = _settings(place, base_url, model)
        source = candidates or set_folder(place, set_) / "candidates.jsonl"
        if candidates is None and not is_done(source, who):
            write_candidates(place, set_, who, settings, _prompts(prompts, None))
        answers, bad = read_candidates(source)
        log_some(f"lines of {source.name} left out", bad)
        if limit is not None:
            answers = answers[: _at_least_one("--limit", limit)]
        path = label_candidates(place, set_, who, settings, answers)
        out.print(str(path), soft_wrap=True, markup=False)


@app.command()
def validate(
    labels: Path | None = typer.Argument(None, help="JSONL of labels; default the set's."),
    set_: str = SET_OPTION,
    json_: bool = JSON_OPTION,
    home: Path | None = HOME_OPTION,
) -> None:
    """Check a file of labels: every value in its range, every line a label. Exit status 3 if anything is wrong."""
    from curriculum.reward import RANGES
    from curriculum.reward.labels import inspect_labels
    from jobs.teacher.tasks import set_folder

    with friendly_errors():
        path = labels or set_folder(resolve_home(home), set_) / "labels.jsonl"
        report = inspect_labels(path, "drop")
        scale = [f"this is another scale: {report.other_scale}"] if report.other_scale else []
        problems = [*scale, *map(str, report.out_of_range), *map(str, report.bad_lines), *_judged_twice(report.labels)]
        sources = Counter(f"{one.source}{f' ({one.teacher})' if one.teacher else ''}" for one in report.labels)
        if json_:
            out.print_json(json.dumps({"labels": len(report.labels), "sources": sources, "problems": problems}))
        else:
            for problem in problems:
                out.print(problem, markup=False, soft_wrap=True)
            told = ", ".join(f"{count} by {name}" for name, count in sorted(sources.items()))
            out.print(f"{len(report.labels)} labels within {len(RANGES)} ranges: {told}", markup=False, soft_wrap=True)
            out.print(f"{len(problems)} problems" if problems else "no problems")
        if problems:
            raise typer.Exit(NO)


@app.command()
def sample(
    labels: Path | None = typer.Argument(None, help="JSONL of labels; default the set's."),
    n: int = typer.Option(3, help="How many."),
    seed: int = typer.Option(1, help="Equal seeds draw the same."),
    category: str | None = typer.Option(None, help="Only this category."),
    set_: str = SET_OPTION,
    json_: bool = JSON_OPTION,
    home: Path | None = HOME_OPTION,
) -> None:
    """Show some labels as a person would check them: prompt, answer, values, rationale."""
    from random import Random

    from curriculum.reward import read_labels
    from jobs.teacher.tasks import set_folder

    with friendly_errors():
        path = labels or set_folder(resolve_home(home), set_) / "labels.jsonl"
        read = read_labels(path, out_of_range="drop").labels
        if not read:
            raise LunaError(f"{path} has no label yet; run `luna teach label`.")
        found = [one for one in read if category in (None, one.category)]
        if not found:
            known = sorted({one.category for one in read})
            raise LunaError(f"{path} has no label of category {category!r}; use one of {', '.join(known)}.")
        drawn = Random(seed).sample(found, min(_at_least_one("--n", n), len(found)))
        if json_:
            out.print_json(json.dumps([one.model_dump(mode="json") for one in drawn], ensure_ascii=False))
        else:
            for one in drawn:
                _show(one)


@app.command()
def pairs(
    labels: Path | None = typer.Argument(None, help="JSONL of labels; default the set's."),
    role: str = typer.Option("dialectical", help="Whose pairs they become: creative, logical or dialectical."),
    min_margin: float = typer.Option(0.25, help="Smallest difference of the means of the seven dimensions."),
    per_prompt: int = typer.Option(6, help="Most pairs of a prompt, the widest first."),
    set_: str = SET_OPTION,
    home: Path | None = HOME_OPTION,
) -> None:
    """Make preference pairs of a file of labels, frozen under data/; prints their SHA."""
    from curriculum.preferences.pairs import freeze_preferences, label_pairs, merge
    from curriculum.reward import read_labels
    from jobs.teacher.tasks import set_folder
    from ledger.roles import ROLES

    with friendly_errors():
        if role not in ROLES:
            raise LunaError(f"there is no role {role!r}; use one of {', '.join(ROLES)}.")
        place = resolve_home(home)
        report = read_labels(labels or set_folder(place, set_) / "labels.jsonl", out_of_range="drop")
        for problem in (*report.out_of_range, *report.bad_lines):
            logger.info("left out: %s", problem)
        made = merge(label_pairs(report.labels, role, min_margin=min_margin, per_prompt=per_prompt))
        if not made:
            raise LunaError(f"no two answers to one prompt lie {min_margin:g} apart; label more candidates a prompt.")
        weighty = sum(pair.weight > 0 for pair in made)
        prompts = len({pair.prompt for pair in made})
        logger.info("%d pairs of %d prompts, %d with a weight above 0", len(made), prompts, weighty)
        out.print(freeze_preferences(made, place.create()), soft_wrap=True)


def _settings(home: Home, base_url: str | None, model: str | None) -> TeacherSettings:
    """The home's `[teacher]`; the defaults where the home has no settings yet."""
    from curriculum.teacher.settings import TeacherSettings

    given = {key: value for key, value in (("base_url", base_url), ("model", model)) if value is not None}
    if not home.settings_file.exists():
        return TeacherSettings(**given)
    from cluster.settings import settings_of

    return settings_of(home).teacher.model_copy(update=given)


def _teacher(name: str) -> str:
    if name not in TEACHERS:
        raise LunaError(f"there is no teacher {name!r}; use one of {', '.join(TEACHERS)}.")
    return name


def _prompts(path: Path | None, limit: int | None) -> list[SeedPrompt]:
    from curriculum.teacher.seed_prompts import read_prompts, seed_prompts

    found = seed_prompts() if path is None else read_prompts(path)
    return found if limit is None else found[: _at_least_one("--limit", limit)]


def _at_least_one(option: str, value: int) -> int:
    if value < 1:
        raise LunaError(f"{option} is {value}; ask for at least one.")
    return value


def _judged_twice(labels: Sequence[TeacherLabel]) -> list[str]:
    """Answers that one judge labelled more than once."""
    seen = Counter((one.source, one.teacher, one.prompt, one.response) for one in labels)
    return [
        f"{count} labels by {source} {teacher} for one answer to {prompt[:60]!r}"
        for (source, teacher, prompt, _), count in seen.items()
        if count > 1
    ]


def _show(label: TeacherLabel) -> None:
    from curriculum.reward import VALUES

    out.rule(f"{label.prompt_id}  by {label.source} {label.teacher}", characters="─")
    out.print(printable(label.prompt), style="bold", markup=False)
    out.print(printable(label.response), markup=False)
    values = "  ".join(f"{name} {value:+.2f}" for name, value in zip(VALUES, label.reward.values(), strict=True))
    out.print(values, style="cyan", markup=False)
    if label.rationale:
        out.print(printable(label.rationale), style="dim", markup=False)
