"""The age-up job: the next generation from what was said since the last one, when karma or the cadence calls for it.

    luna age-up                      asks once
    luna submit age-up -- --watch    on the cluster; asks every minute until it is stopped

What users liked or corrected and what the reward model liked is the lesson; a recipe with a new seed fills each role up
to what the gates need. Acceptance takes karma back to 0; after a rejection the next try waits for new conversations.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from jobs.context import ADDRESS_OPTION, HOME_OPTION, NO, friendly_errors, resolve_home
from ledger.errors import LunaError
from ledger.home import Home
from ledger.store import Ledger, Stores

if TYPE_CHECKING:
    from cluster.settings import Settings
    from curriculum.example import Example

logger = logging.getLogger(__name__)

_ASK_EVERY_S = 60.0


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
    """Raise a generation if it is time (or `now`).

    Returns:
        how it ended, or why it is not time; and whether one was rejected.

    Raises:
        LunaError: `now` with nothing to learn from, or the generation could not finish.
    """
    from cluster.settings import settings_of
    from curriculum.parquet import write_examples
    from jobs.generation.run import raise_generation

    settings = settings_of(home)
    why, lessons = lessons_due(home, settings, now)
    if not lessons:
        return why, False
    logger.info(why)
    sha = write_examples(home.inbox_dir, [*lessons, *_filling(home, lessons, settings)])
    result = raise_generation(home, address, (sha,), note="age-up")
    if not result["resumed"]:  # Frozen under its own hash by now; in the inbox it would join the next generation.
        (home.inbox_dir / f"{sha}.parquet").unlink(missing_ok=True)
    return f"G{result['gen_id']}: {result['verdict']} ({result['reason']})", result["verdict"] == "rejected"


def lessons_due(home: Home, settings: Settings, now: bool) -> tuple[str, list[Example]]:
    """(why a generation is due, what it learns from conversations), or (why it is not, nothing).

    Raises:
        LunaError: `now`, and there is nothing to learn from.
    """
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
        raise LunaError(f"there is nothing to learn from: {nothing}. Talk (`luna chat`) and label what you hear.")
    if now:
        return f"age-up as asked: {len(lessons)} new lessons", lessons
    if not reason:
        return f"not yet: karma {karma.earned:.1f} of {karma.threshold}, {len(lessons)} new lessons", []
    if cadence.quiet:
        return f"due ({reason}), but these are quiet hours", []
    if not lessons:
        return f"due ({reason}), but {nothing}", []
    tried = examples_of(home, rows[-1].data_delta_sha, rows[-1].holdout_sha) if rows else set()
    if rows and rows[-1].verdict == "rejected" and was_tried([lesson.id for lesson in lessons], tried):
        return f"due ({reason}), but G{rows[-1].gen_id} tried all of it and was rejected; talk on, or correct more", []
    return f"age-up: {reason}; {len(lessons)} new lessons", lessons


def examples_of(home: Home, *shas: str | None) -> set[str]:
    """Ids of the examples in these data files."""
    from curriculum.parquet import read_examples

    return {example.id for sha in shas if sha for example in read_examples(home.data_file(sha))}


def _filling(home: Home, lessons: Sequence[Example], settings: Settings) -> list[Example]:
    from cluster.steps.filling import filling
    from curriculum.split import split_holdout

    with Ledger.open(home) as ledger:
        percent = settings.data.holdout_percent
        lineage = ledger.current_lineage()
        return filling(ledger, lineage, settings, lessons, lambda examples: split_holdout(examples, percent)[1])
