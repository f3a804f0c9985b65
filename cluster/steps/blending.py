"""What is held against the gates: the child as trained, and where it fails, blends between its parent and it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.request import RunSpec
from cluster.steps.measuring import Examiner
from ledger.files import publish_dir
from ledger.records import EvalRecord
from ledger.rules.blends import largest_that_passes
from ledger.rules.gates import Judgement, judge
from trainers.models.adapter_set import AdapterSet

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """Adapters that were measured, with what the gates say of them."""

    adapters: AdapterSet
    alpha: float
    """1.0 for the child as trained; less for parent + alpha (child - parent)."""
    evals: Sequence[EvalRecord]
    judgement: Judgement


def judged(spec: RunSpec, evals: Sequence[EvalRecord], has_parent: bool) -> Judgement:
    """What the gates say of these scores."""
    rhi_min = spec.settings.health.rhi_min if spec.settings.health.gate else None
    return judge(evals, spec.settings.gates, has_parent=has_parent, rhi_min=rhi_min)


def best_blend(examiner: Examiner, child: Candidate) -> Candidate | None:
    """The blend with the largest alpha that passes every gate, published in the home; None if there is none."""
    blends = examiner.spec.settings.blends
    if not examiner.parents.shas or not blends.enabled:
        return None
    return largest_that_passes(blends.alphas, lambda alpha: _passing_blend(examiner, child, alpha))


def _passing_blend(examiner: Examiner, child: Candidate, alpha: float) -> Candidate | None:
    spec = examiner.spec
    logger.info("not accepted (%s); trying parent + %s (child - parent)", child.judgement.reason, alpha)
    trial = spec.folder / "blends" / f"{alpha}"
    blend = examiner.session.blend(examiner.parents, child.adapters, alpha, trial)
    evals = examiner.scores(blend)
    judgement = judged(spec, evals, has_parent=True)
    if judgement.accepted:  # what nothing else keeps out has a health of its own
        evals += examiner.health(blend)
        judgement = judged(spec, evals, has_parent=True)
    if not judgement.accepted:
        shutil.rmtree(trial, ignore_errors=True)
        return None
    for sha in blend.shas.values():
        publish_dir(trial / sha, spec.home.adapter_dir(sha))
    return Candidate(spec.published(blend.shas), alpha, evals, judgement)
