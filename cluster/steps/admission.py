"""What is refused before anything is trained: data of which no verdict could come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cluster.attempts import HopelessError
from ledger.errors import LunaError
from ledger.rules.gates import LEAST_PART, GateSettings
from trainers.evals.exam import RolePlan
from trainers.models.adapter_set import AdapterSet


def check_exam(plans: Sequence[RolePlan], learned: Mapping[int, AdapterSet], gates: GateSettings) -> None:
    """Whether each role is asked enough for the gates, and the generations are there that recall is measured against.

    Raises:
        HopelessError: a set is too small.
        LunaError: an adapter is missing.
    """
    for gen_id, adapters in learned.items():
        for role in adapters.shas:
            if not adapters.path(role).is_dir():
                raise LunaError(
                    f"recall is measured against G{gen_id}, whose {role} adapter {adapters.path(role)} is missing; "
                    f"restore it from a backup, or train it again with `luna reproduce G{gen_id}`."
                )
    needed = gates.min_items
    for plan in plans:
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
        closed = sum(item.category in plan.closed for item in plan.generalization)
        if max(closed, len(plan.generalization) - closed) < LEAST_PART:
            raise HopelessError(
                f"{plan.role} has {closed} held-out questions with closed answers and "
                f"{len(plan.generalization) - closed} with open ones, and it takes {LEAST_PART} of one kind to tell "
                "whether anything was learned. Bring more examples of either kind."
            )
