"""What is refused before anything is trained: data and settings of which no verdict could come. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from cluster.steps.attempts import HopelessError
from curriculum.example import Example
from ledger.roles import ROLES
from ledger.rules.gates import GateSettings
from trainers.evals.closed import FEWEST_ANSWERS, by_scoring, fewest_answers
from trainers.evals.scoring import RolePlan


def check_answers(
    holdout: Sequence[Example], known: Sequence[Example], earlier: Callable[[], Iterable[Example]] = list
) -> None:
    """Whether what is held out can be asked; `known` is what else the roles have been given.

    Args:
        earlier: reads what the line was trained on, whose answers may stand among the wrong ones; only if need be.

    Raises:
        HopelessError: a role has too few different answers.
    """
    for role in ROLES:
        asked, own = ([e for e in items if e.role == role] for items in (holdout, known))
        if _too_few(asked, own) is not None:
            _check_answers(role, asked, [*own, *(e for e in earlier() if e.role == role)])


def check_exam(plans: Sequence[RolePlan], gates: GateSettings) -> None:
    """Whether what the roles will be asked can be asked, and is enough for the gates.

    Raises:
        HopelessError: a set is too small, or has too few different answers.
    """
    for plan in plans:
        needed = gates.min_items
        if plan.recall is not None and len(plan.recall) < needed:
            raise HopelessError(
                f"only {len(plan.recall)} examples of earlier generations are left to ask {plan.role} about (the "
                f"others are replayed now), and the gates need {needed}. Replay less ([data] in luna.toml), or lower "
                "[gates] min_items and know that the score means less."
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
            f"the examples of {role} have only {fewest} different answers to choose from; scoring by choice needs "
            f"{FEWEST_ANSWERS}, and they are no short labels that could be asked as a whole. Add more varied examples."
        )


def _too_few(asked: Sequence[Example], known: Sequence[Example]) -> int | None:
    fewest = fewest_answers(by_scoring(asked, known))
    return fewest if fewest is not None and fewest < FEWEST_ANSWERS else None
