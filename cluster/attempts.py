"""How often a step is tried: one that begins three times at the same place and never ends is given up."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from ledger.errors import LunaError
from ledger.journal import Attempt, RunJournal, Step

MOST = 3

_KILLED = "its process was killed; perhaps memory ran out (the Ray dashboard has the logs)"


class HopelessError(LunaError):
    """No further try can end otherwise: the run is closed as failed."""


def begin_step(journal: RunJournal, run_id: str, step: Step, folder: Path) -> None:
    """Note that a step of a run begins.

    Args:
        folder: the run's, where training leaves its checkpoints.

    Raises:
        HopelessError: it began often enough.
    """
    if reason := why_given_up(journal, run_id, step, folder):
        raise HopelessError(reason)
    journal.record_step(run_id, step, "before", {"reached": _reached(journal, run_id, step, folder)})


def why_given_up(journal: RunJournal, run_id: str, step: Step, folder: Path) -> str | None:
    """Why a step of a run is not begun once more; None if it may be."""
    return tried_enough(step, journal.attempts(run_id, step), _reached(journal, run_id, step, folder))


def _reached(journal: RunJournal, run_id: str, step: Step, folder: Path) -> str:
    """Checkpoints, and the groups of roles that have finished."""
    if step != "train":
        return ""
    done = (journal.notes(run_id, step) or {}).get("done", {})
    return ",".join([*filter(None, [reached_in(folder)]), *sorted(done)])


def reached_in(folder: Path) -> str:
    """What of a training is on disk and will not be trained again: a resume that finds more of it has come further."""
    marks = [*folder.glob("**/checkpoint-*"), *folder.glob("**/role.json")]
    return ",".join(sorted(mark.relative_to(folder).as_posix() for mark in marks))


def tried_enough(step: Step, attempts: Sequence[Attempt], reached: str) -> str | None:
    """Why a step without a result is not begun again at this place; None if it may be. Pure.

    A pause is no failure and does not count. Attempts that came further between each other do not count together:
    a training of days may meet more than three power cuts.
    """
    tried = [attempt for attempt in reversed(attempts) if attempt.ended != "paused"]
    here = list(takewhile(lambda attempt: attempt.reached == reached, tried))
    if len(here) < MOST:
        return None
    ends = dict.fromkeys(attempt.error or _KILLED for attempt in here)
    return (
        f"{step} was begun {len(here)} times and never came to an end, so it is given up. It ended with: "
        f"{'; '.join(end.rstrip('.') for end in ends)}. The head stays where it is; change what was wrong and ask for "
        "a new generation (`luna generation run`)."
    )
