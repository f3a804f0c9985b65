"""The age-up job: the next generation from what was said since the last one, when karma or the cadence calls for it.

    luna age-up                      asks once
    luna submit age-up -- --watch    on the cluster; asks every minute until it is stopped

What users liked or corrected and what the reward model liked is the lesson; a recipe with a new seed fills each role up
to what the gates need. Acceptance takes karma back to 0; after a rejection the next try waits for new conversations.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from jobs.context import ADDRESS_OPTION, HOME_OPTION, NO, friendly_errors, resolve_home
from ledger.errors import LunaError
from ledger.home import Home
from ledger.roles import ROLES
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
    sha = write_examples(home.inbox_dir, [*lessons, *filling(home, lessons, settings)])
    result = raise_generation(home, address, (sha,), note="age-up")
    # Frozen under its own hash by now; in the inbox it would join the user's next generation.
    (home.inbox_dir / f"{sha}.parquet").unlink(missing_ok=True)
    return f"G{result['gen_id']}: {result['verdict']} ({result['reason']})", result["verdict"] == "rejected"


def lessons_due(home: Home, settings: Settings, now: bool) -> tuple[str, list[Example]]:
    """(why a generation is due, what it learns from conversations), or (why it is not, nothing).

    Raises:
        LunaError: `now`, and there is nothing to learn from.
    """
    from curriculum.conversations.lessons import conversation_examples
    from jobs.status import cadence_of, karma_of
    from ledger.rules.age_up import age_up_reason, was_tried

    with Stores.open(home) as stores:
        karma, turns = karma_of(stores), stores.conversations.new_turns(stores.ledger.current_lineage())
        rows = stores.ledger.rows()
    cadence, _ = cadence_of(turns, settings.cadence)
    reason, lessons = age_up_reason(karma, cadence), conversation_examples(turns)
    nothing = "nobody liked or corrected an answer, and the reward model liked none"
    if now and not lessons:
        raise LunaError(f"there is nothing to learn from: {nothing}. Talk (`luna chat`) and label what you hear.")
    if now:
        return f"age-up as asked: {len(lessons)} lessons from {len(turns)} answers", lessons
    if not reason:
        return f"not yet: karma {karma.earned:.1f} of {karma.threshold}, {len(turns)} new answers", []
    if cadence.quiet:
        return f"due ({reason}), but these are quiet hours", []
    if not lessons:
        return f"due ({reason}), but {nothing}", []
    tried = examples_of(home, rows[-1].data_delta_sha, rows[-1].holdout_sha) if rows else set()
    if rows and rows[-1].verdict == "rejected" and was_tried([lesson.id for lesson in lessons], tried):
        return f"due ({reason}), but G{rows[-1].gen_id} tried all of it and was rejected; talk on, or correct more", []
    return f"age-up: {reason}; {len(lessons)} lessons from {len(turns)} answers", lessons


def examples_of(home: Home, *shas: str | None) -> set[str]:
    """Ids of the examples in these data files."""
    from curriculum.parquet import read_examples

    return {example.id for sha in shas if sha for example in read_examples(home.data_file(sha))}


def filling(home: Home, lessons: Sequence[Example], settings: Settings) -> list[Example]:
    """Of each role's recipe what is missing to a holdout that the gates accept, none of it seen before."""
    from cluster.steps.data import seen_ids
    from curriculum.recipes.build import build_recipe
    from ledger.rules.age_up import examples_needed

    with Ledger.open(home) as ledger:
        lineage = ledger.current_lineage()
        seen, seed = seen_ids(home, ledger, lineage), settings.seed + ledger.next_gen_id(lineage)
    needed = examples_needed(settings.gates.min_items, settings.data.holdout_percent)
    have = Counter(lesson.role for lesson in lessons)
    found: list[Example] = []
    for role in ROLES:
        missing = max(0, needed - have[role])
        fresh = [example for example in build_recipe(role, 2 * needed, seed) if example.id not in seen]
        found += [fresh[i * len(fresh) // missing] for i in range(min(missing, len(fresh)))]
    return found
