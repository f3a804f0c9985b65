"""What is held against the gates: the child as trained, and for roles that fail blends between their parent and it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cluster.judging.measuring import Examiner
from cluster.request import RunSpec
from cluster.server.candidate_eval import ServerFailedError
from cluster.server.client import retire_candidate
from cluster.steps.records import TRAINER, Measured
from ledger.files import publish_dir
from ledger.records import EvalRecord
from ledger.roles import ROLES, Role
from ledger.rules.blends import blends_by_role, blends_may_help
from ledger.rules.gates import Judgement, judge
from trainers.evals.exam import Half
from trainers.models.adapter_set import AdapterSet

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """Adapters that were measured, with what the gates say of them."""

    adapters: AdapterSet
    alphas: Mapping[Role, float]
    """1.0 for an adapter as trained; less for parent + alpha (child - parent)."""
    evals: Sequence[EvalRecord]
    judgement: Judgement


@dataclass(frozen=True)
class Blend:
    """A role's parent + alpha (child - parent), with the scores that confirm it."""

    sha: str
    alpha: float
    evals: Sequence[EvalRecord]
    judgement: Judgement


def candidate_of(examiner: Examiner, child: AdapterSet, measured: Measured) -> Candidate:
    """The child as trained; where it fails, with blends of the roles that failed if each of these is confirmed.

    One judgement is taken with one engine: if the server that measured the child fails at a blend, everything is
    measured again with the trainers' own model.
    """
    try:
        return _candidate(examiner, child, measured)
    except ServerFailedError as error:
        logger.warning("%s The whole judgement is taken again with the trainers' own model.", error)
        return _candidate(examiner, child, examiner.measured_through(TRAINER, child))


def judged(
    spec: RunSpec,
    evals: Sequence[EvalRecord],
    has_parent: bool,
    roles: Sequence[Role] = ROLES,
    half: Half | None = None,
) -> Judgement:
    """What the gates say of these scores."""
    rhi_min = spec.settings.health.rhi_min if spec.settings.health.gate else None
    gates = spec.settings.gates
    return judge(evals, gates, has_parent=has_parent, rhi_min=rhi_min, half=half is not None, roles=roles)


def _candidate(examiner: Examiner, child: AdapterSet, measured: Measured) -> Candidate:
    spec, has_parent = examiner.spec, bool(examiner.parents.shas)
    judgement = judged(spec, measured.evals, has_parent)
    whole = Candidate(child, dict.fromkeys(ROLES, 1.0), measured.evals, judgement)
    if not blends_may_help(judgement) or not spec.settings.blends.enabled:
        return whole
    logger.info("not accepted: %s", judgement.reason)
    found = _confirmed_blends(examiner, child, judgement.failed_roles, measured.through)
    return whole if found is None else _blended(spec, whole, found, has_parent)


def _blended(spec: RunSpec, whole: Candidate, found: Mapping[Role, Blend], has_parent: bool) -> Candidate:
    """The child with blends in place of the roles that failed; all gates are passed then."""
    others = [score for score in whole.evals if score.role not in found]
    told = [judged(spec, others, has_parent, [role for role in ROLES if role not in found])]
    told += [blend.judgement for blend in found.values()]
    return Candidate(
        adapters=spec.published({**whole.adapters.shas, **{role: blend.sha for role, blend in found.items()}}),
        alphas={**whole.alphas, **{role: blend.alpha for role, blend in found.items()}},
        evals=[*others, *(score for blend in found.values() for score in blend.evals)],
        judgement=Judgement((), tuple(remark for one in told for remark in one.remarks)),
    )


def _confirmed_blends(
    examiner: Examiner, child: AdapterSet, failed: Sequence[Role], engine: str
) -> dict[Role, Blend] | None:
    """A confirmed blend for each of these roles, or None. They are published, where the server finds them as well;
    what is not accepted is removed again."""
    spec, tried, found = examiner.spec, set[str](), None
    has_parent = bool(examiner.parents.shas)
    parent = "parent" if has_parent else "base"

    def blend(role: Role, alpha: float) -> AdapterSet:
        folder = spec.folder / "blends" / f"{role}-{alpha}"
        sha = examiner.session.blend(examiner.parents.of([role]), child.of([role]), alpha, folder).shas[role]
        published, ours = spec.home.adapter_dir(sha), folder / "ours"
        if not published.exists():  # else it is the parent's own, or another's: not ours to remove
            ours.touch()  # a judgement that is taken again after a kill finds it published
        if ours.exists():
            tried.add(sha)
        publish_dir(folder / sha, published)
        return spec.published({**child.shas, role: sha})

    def ask(role: Role, alpha: float, half: Half) -> Blend:
        adapters = blend(role, alpha)
        evals = examiner.scores(engine, adapters, [role], half)
        judgement = judged(spec, evals, has_parent, [role], half)
        if judgement.accepted:  # what nothing else keeps out has a health of its own
            evals += examiner.health(adapters, [role])
            judgement = judged(spec, evals, has_parent, [role], half)
        return Blend(adapters.shas[role], alpha, evals, judgement)

    def passes(role: Role, alpha: float) -> bool:
        logger.info("%s: trying %s + %s (child - %s)", role, parent, alpha, parent)
        return ask(role, alpha, "choose").judgement.accepted

    def confirmed(role: Role, alpha: float) -> Blend | None:
        asked = ask(role, alpha, "confirm")
        logger.info("%s: alpha %s on the other half: %s", role, alpha, asked.judgement.reason)
        return asked if asked.judgement.accepted else None

    try:
        found = blends_by_role(failed, spec.settings.blends.alphas, passes, confirmed)
        return found
    finally:
        retire_candidate(spec.home, spec.gen_id)
        for sha in tried - {one.sha for one in (found or {}).values()}:
            _remove(spec.home.adapter_dir(sha), spec.folder / "blends" / sha)


def _remove(adapter: Path, aside: Path) -> None:
    """Take it from its place at once: half of an adapter that a kill left there would pass for the whole of it."""
    shutil.rmtree(aside, ignore_errors=True)
    with suppress(OSError):
        adapter.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)
