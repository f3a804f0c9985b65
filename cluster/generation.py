"""A generation, step by step: collect, plan, train, measure, judge, deploy (DESIGN section 3).

Every step is recorded before and after it runs, with its result. A run that was cut off anywhere goes on at the first
step without a result; inside training it goes on from the last checkpoint. Steps may run twice, so each is idempotent:
files are named by their content, and the judgement is one transaction that the ledger refuses to repeat differently.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, TypeVar

from pydantic import ValidationError

from cluster.attempts import begin_step
from cluster.judging.blending import candidate_of
from cluster.judging.measuring import Examiner
from cluster.judging.rows import rows_of, write_adapter_metadata
from cluster.request import RunSpec
from cluster.server.client import follow_head, retire_candidate
from cluster.steps.admission import check_exam
from cluster.steps.consequences import consequences, recorded_verdict
from cluster.steps.data import collect, taken_by
from cluster.steps.everyday import everyday_of
from cluster.steps.planning import make_plan
from cluster.steps.records import Collected, Deployed, Judged, Measured, Planned, StepRecord, Trained
from cluster.steps.training import NotedTraining, trained_roles, trio_jobs
from cluster.trainer_pool import TrainerPool
from cluster.workers.follow import Follower
from ledger.journal import Step
from ledger.store import Stores
from trainers.job import TrioProgress

logger = logging.getLogger(__name__)

Given = ParamSpec("Given")
Result = TypeVar("Result", bound=StepRecord)


@dataclass
class Watcher:
    """What a run tells the outside beside its log, and how it is asked to stop."""

    on_step: Callable[[Step], None]
    on_progress: Callable[[TrioProgress], None]
    stop: threading.Event


class GenerationRun:
    """One generation of one lineage, resumable at every step."""

    def __init__(self, spec: RunSpec, stores: Stores, pool: TrainerPool, watcher: Watcher):
        self.spec, self.watcher = spec, watcher
        self.stores, self.ledger, self.journal = stores, stores.ledger, stores.journal
        self.notes = NotedTraining(self.journal, spec.run_id)
        self.session = pool.open(spec.home, spec.base, spec.settings, self.notes.groups)

    def run(self) -> Judged:
        """Take the steps that have no result yet."""
        collected = self._once(Collected, self.collect)
        planned = self._once(Planned, self.plan, collected)
        trained = self._once(Trained, self.train, collected, planned)
        measured = self._once(Measured, self.measure, collected, planned, trained)
        verdict = self._once(Judged, self.judge, collected, planned, trained, measured)
        self._once(Deployed, self.deploy, verdict)
        self.session.leave_shared_cards()
        return verdict

    def _once(
        self, kind: type[Result], do: Callable[Given, Result], *given: Given.args, **options: Given.kwargs
    ) -> Result:
        run_id, step = self.spec.run_id, kind.step
        known = self.journal.step_result(run_id, step)
        if known is not None:
            with suppress(ValidationError):  # an earlier version's, without what this one needs: taken again
                return kind.model_validate(known)
        self.watcher.on_step(step)
        begin_step(self.journal, run_id, step, self.spec.folder)
        result = do(*given, **options)
        self.journal.record_step(run_id, step, "after", result.model_dump(mode="json"))
        return result

    def collect(self) -> Collected:
        """Pin the parent, the head of this moment; freeze what its line has not taken yet, split in two sides."""
        collected = collect(self.spec.home, self.stores, self.spec.lineage, self.spec.request)
        logger.info("%d new examples, %d more held out", collected.n_new, collected.n_held_out)
        if collected.joined or collected.torn:
            logger.info("%d stand with near copies, %d of both sides are left out", collected.joined, collected.torn)
        return collected

    def plan(self, collected: Collected) -> Planned:
        """Fix and freeze the rows of every step and the items to ask; for a second channel its pairs and weights."""
        rehearsed = everyday_of(self.spec, self.session).rehearsed
        ask = partial(self.session.view, self.spec.published(collected.parent_shas))
        planned = make_plan(self.spec, self.ledger, collected, rehearsed, ask)
        examiner = Examiner(self.spec, self.ledger, self.session, collected, planned)
        check_exam(examiner.plans, examiner.learned, self.spec.settings.gates)
        return planned

    def train(self, collected: Collected, planned: Planned) -> Trained:
        """Train the three roles from the parent's adapters, in the groups that the run began with."""
        self.notes.begin(self.session.groups)
        follow = Follower(self.watcher.on_progress, self.notes.add_outcome, self.notes.add_micro_batches)
        self.session.train(trio_jobs(self.spec, self.notes.known, collected, planned), follow, self.watcher.stop)
        return trained_roles(self.notes.known)

    def measure(self, collected: Collected, planned: Planned, trained: Trained) -> Measured:
        """Take every score of the adapters as trained, beside their parent's on the same items."""
        examiner = Examiner(self.spec, self.ledger, self.session, collected, planned)
        return examiner.measured(self.spec.published(trained.shas))

    def judge(self, collected: Collected, planned: Planned, trained: Trained, measured: Measured) -> Judged:
        """Hold the scores against the gates; try blends where a role fails; record it all in one transaction."""
        if (before := recorded_verdict(self.spec, self.ledger)) is not None:
            return before
        examiner = Examiner(self.spec, self.ledger, self.session, collected, planned)
        candidate = candidate_of(examiner, self.spec.published(trained.shas), measured)
        rows = rows_of(self.spec, collected, planned, trained, candidate)
        move, stop = consequences(self.spec, self.ledger, rows, candidate.evals)
        write_adapter_metadata(self.spec, self.ledger, rows, candidate.evals)
        self.ledger.record_judgement(rows, candidate.evals, move, stop, taken_by(self.spec.home, rows[0]))
        return Judged(
            verdict=rows[0].verdict,
            reason=rows[0].reason,
            alphas=dict(candidate.alphas),
            stopped=stop.reason if stop else "",
        )

    def deploy(self, verdict: Judged) -> Deployed:
        """Let the server, where one runs, answer with the head; checkpoints are no longer needed."""
        for checkpoint in self.spec.folder.glob("*/**/checkpoint-*"):
            shutil.rmtree(checkpoint, ignore_errors=True)
        home, gen_id = self.spec.home, self.spec.gen_id
        if verdict.verdict == "rejected" or set(verdict.alphas.values()) != {1.0}:
            retire_candidate(home, gen_id)  # under its number stands nothing, or something else from now on
        return Deployed.model_validate(follow_head(home, self.ledger.head(self.spec.lineage)))
