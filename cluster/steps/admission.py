"""What is refused before anything is trained: data of which no verdict could come."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

from cluster.attempts import HopelessError
from curriculum.example import Example
from ledger.roles import ROLES
from ledger.rules.gates import GateSettings
from trainers.evals.closed import FEWEST_ANSWERS, by_scoring, fewest_answers
from trainers.evals.scoring import RolePlan

logger = logging.getLogger(__name__)


def askable(
    holdout: Sequence[Example],
    known: Sequence[Example],
    needed: int,
    earlier: Callable[[], Iterable[Example]] = list,
) -> list[Example]:
    """The held-out examples that can be asked; the others wait until there are more different answers.

    Args:
        known: what else the roles are given.
        needed: the fewest that a role must keep.
        earlier: reads what the line was trained on, whose answers may stand among the wrong ones; only if need be.

    Raises:
        HopelessError: a role keeps too few.
    """
    waiting: set[str] = set()
    for role in ROLES:
        asked, pool = ([e for e in items if e.role == role] for items in (holdout, known))
        if _too_few(asked, pool) is None:
            continue
        pool += (e for e in earlier() if e.role == role)
        if _too_few(asked, pool) is None:
            continue
        by_choice = by_scoring(asked, pool).choice
        if len(asked) - len(by_choice) < needed:
            _check_answers(role, asked, pool)
        logger.info("%d held-out examples of %s wait for more different answers", len(by_choice), role)
        waiting |= {item.id for item in by_choice}
    return [item for item in holdout if item.id not in waiting]


def check_exam(plans: Sequence[RolePlan], gates: GateSettings) -> None:
    """Whether what the roles will be asked can be asked, and is enough for the gates.

    Raises:
        HopelessError: a set is too small, or has too few different answers.
    """
    for plan in plans:
        needed = gates.min_items
        if plan.recall is not None and len(plan.recall) < needed:
            raise HopelessError(
                f"only {len(plan.recall)} examples of earlier generations are left to ask {plan.role} about, and the "
                f"gates need {needed}: the line was trained on too few. Lower [gates] min_items in luna.toml and know "
                "that the score means less, or begin a lineage whose generations take more of their data."
            )
        if len(plan.generalization) < needed:
            raise HopelessError(
                f"only {len(plan.generalization)} held-out examples are left to ask {plan.role} about, and the gates "
                f"need {needed}. Bring more, or lower [gates] min_items and know that the score means less."
            )
        for items in (plan.recall or (), plan.generalization):
            _check_answers(plan.role, items, plan.distractor_pool)


def _check_answers(role: str, asked: Sequence[Example], known: Sequence[Example]) -> None:
    if (fewest := _too_few(asked, known)) is not None:
        raise HopelessError(
            f"the examples of {role} have too few different answers to choose from: {fewest}, and scoring by choice "
            f"needs {FEWEST_ANSWERS}; nor are they short labels that could be asked as a whole. Add more varied ones."
        )


def _too_few(asked: Sequence[Example], known: Sequence[Example]) -> int | None:
    fewest = fewest_answers(by_scoring(asked, known))
    return fewest if fewest is not None and fewest < FEWEST_ANSWERS else None
