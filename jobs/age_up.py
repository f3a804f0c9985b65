"""The age-up job: the next generation from what was said since the last one, when karma or the cadence calls for it.

    luna age-up                      asks once
    luna submit age-up -- --watch    on the cluster; asks every minute until it is stopped

What users liked or corrected and what the reward model liked is the lesson; the coordinator collects it, and recipes
fill each role up to what the gates need. The inbox waits for `luna generation run`. After a rejection the next try
waits for a new lesson.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from jobs.context import ADDRESS_OPTION, HOME_OPTION, NO, friendly_errors, resolve_home
from ledger.errors import LunaError
from ledger.home import Home
from ledger.store import Stores

if TYPE_CHECKING:
    from cluster.settings import Settings
    from curriculum.example import Example
    from ledger.records import GenerationRow

logger = logging.getLogger(__name__)

_ASK_EVERY_S = 60.0

_FROM_CONVERSATIONS = {"data": {"conversations": True, "fill": True}}
"""Settings of a generation that learns from conversations alone, whatever luna.toml says of other generations."""


def main(
    now: bool = typer.Option(False, "--now", help="Even if neither karma nor the cadence calls for it."),
    watch: bool = typer.Option(False, "--watch", help="Ask again every minute, until stopped."),
    home: Path | None = HOME_OPTION,
    address: str | None = ADDRESS_OPTION,
) -> None:
    """Raise the next generation from conversations, if it is time for one. Exit status 3 if it is rejected."""
    with friendly_errors():
        place, said = resolve_home(home), ""
        while True:
            told, rejected = age_up(place, address, now)
            if told != said:
                logger.info(told)
            if not watch:
                raise typer.Exit(NO if rejected else 0)
            said = told
            time.sleep(_ASK_EVERY_S)


def age_up(home: Home, address: str | None, now: bool = False) -> tuple[str, bool]:
    """Raise a generation if it is time (or `now`). A run that was begun earlier is finished first, and said so.

    Returns:
        how it ended, or why it is not time; and whether one was rejected.

    Raises:
        LunaError: `now` with nothing to learn from, or the generation could not finish.
    """
    from cluster.settings import settings_of
    from jobs.generation.run import raise_generation

    ended: tuple[str, bool] | None = None
    while True:
        why, lessons = lessons_due(home, settings_of(home), now)
        if not lessons:
            if now and ended is None:
                raise LunaError(why)
            return ended or (why, False)
        logger.info(why)
        result = raise_generation(home, address, (), _FROM_CONVERSATIONS, note="age-up")
        ended = f"G{result['gen_id']}: {result['verdict']} ({result['reason']})", result["verdict"] == "rejected"
        if not result["resumed"]:
            return ended
        logger.info(f"{ended[0]}; this run was begun earlier, asking again for what is new")


def lessons_due(home: Home, settings: Settings, now: bool) -> tuple[str, list[Example]]:
    """(why a generation is due, what it learns from conversations), or (why it is not, nothing)."""
    from cluster.steps.lessons import news
    from jobs.status import cadence_of, karma_of
    from ledger.rules.age_up import age_up_reason, was_tried

    with Stores.open(home) as stores:
        karma, new = karma_of(stores), news(stores, stores.ledger.current_lineage())
        rows = stores.ledger.last_judged()
    cadence, lessons = cadence_of(new, settings.cadence), list(new.lessons)
    reason = age_up_reason(karma, cadence)
    nothing = "no answer that was liked or corrected, or that the reward model liked, is new"
    if now and not lessons:
        return f"there is nothing to learn from: {nothing}. Talk (`luna chat`) and label what you hear.", []
    if now:
        return f"age-up as asked: {len(lessons)} new lessons", lessons
    if not reason:
        return f"not yet: karma {karma.earned:.1f} of {karma.threshold}, {len(lessons)} new lessons", []
    if cadence.quiet:
        return f"due ({reason}), but these are quiet hours", []
    if not lessons:
        return f"due ({reason}), but {nothing}", []
    if rows and rows[-1].verdict == "rejected" and was_tried([e.id for e in lessons], _collected(home, rows[-1])):
        return f"due ({reason}), but G{rows[-1].gen_id} tried all of it and was rejected; talk on, or correct more", []
    return f"age-up: {reason}; {len(lessons)} new lessons", lessons


def _collected(home: Home, row: GenerationRow) -> set[str]:
    """Ids of the examples that were new to a generation."""
    from curriculum.parquet import read_examples, read_new_data

    if row.collected_sha:
        new = read_new_data(home.data_file(row.collected_sha))
        return {example.id for example in (*new.train, *new.holdout)}
    shas = [sha for sha in (row.data_delta_sha, row.holdout_sha) if sha]
    return {example.id for sha in shas for example in read_examples(home.data_file(sha))}
