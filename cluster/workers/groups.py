"""Several groups of workers at once: a thread waits for each, and what they tell comes out of one."""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from cluster.placement import Placement
from cluster.store.reach import Setup
from cluster.workers.follow import Follower, merge_progress
from cluster.workers.train_group import train_in_group
from trainers.job import StepTooLarge, TrioJob, TrioOutcome, TrioProgress

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0


def train_groups(
    jobs: Mapping[Placement, TrioJob], setup: Setup, follow: Follower, stop: threading.Event
) -> dict[Placement, TrioOutcome]:
    """Train all of them to the end; a step that is too large is cut in more micro-batches. Where one fails, the others
    save a checkpoint and end before its error is raised.

    Raises:
        Paused, LunaError: as :func:`cluster.workers.train_group.train_in_group`.
    """
    jobs, outcomes = dict(jobs), dict[Placement, TrioOutcome]()
    latest, halt = dict[Placement, TrioProgress](), threading.Event()

    def trained(group: Placement) -> TrioOutcome:
        def note(progress: TrioProgress) -> None:
            latest[group] = progress

        return train_in_group(group, setup, jobs[group], note, halt)

    with ThreadPoolExecutor(max(1, len(jobs))) as threads:

        def asked(group: Placement) -> Future[TrioOutcome]:
            return threads.submit(contextvars.copy_context().run, trained, group)  # with the log's lineage and run

        working = {asked(group): group for group in jobs}
        try:
            while working:
                for future in wait(working, _LOOK_EVERY_S, FIRST_COMPLETED).done:
                    group = working.pop(future)
                    try:
                        outcomes[group] = future.result()
                    except StepTooLarge as error:
                        jobs[group] = jobs[group].cut_smaller(error)
                        logger.info("%s: %s", group.name, error)
                        follow.on_micro_batches(group, jobs[group].micro_batches)
                        working[asked(group)] = group
                    else:
                        follow.on_outcome(group, outcomes[group])
                if stop.is_set():
                    halt.set()
                if latest:
                    follow.on_progress(merge_progress(list(latest.values())))
        finally:
            halt.set()
    return outcomes
