"""What a verdict does to the lineage: the head moves, or the stop rule sets it back."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.request import RunSpec
from cluster.steps.data import brought_shas
from cluster.steps.records import Judged
from ledger.clock import utc_now
from ledger.records import EvalRecord, GenerationRow, HeadMove, Stop
from ledger.rules.stop_rule import generation_scores, stop_decision
from ledger.store import Ledger


def consequences(
    spec: RunSpec, ledger: Ledger, rows: Sequence[GenerationRow], evals: Sequence[EvalRecord]
) -> tuple[HeadMove | None, Stop | None]:
    """The head's move and the stop that follow from a generation's rows and scores, in this order."""
    head, gen_id = rows[0].parent_gen, rows[0].gen_id
    decision = stop_decision(
        [*ledger.stop_window(gen_id, head, spec.lineage), generation_scores(rows, evals)],
        ledger.last_stop_gen(spec.lineage),
        spec.settings.stop_rule,
    )
    if decision is None:
        accepted = rows[0].verdict == "accepted"
        return (HeadMove(from_gen=head, to_gen=gen_id, reason="accepted", at=utc_now()) if accepted else None), None
    earlier = [ledger.generation(gen, spec.lineage)[0] for gen in decision.generations if gen != gen_id]
    # The data of both together is refused as well: once both are undone, collecting finds just that.
    stop = Stop(reason=decision.reason, data_delta_shas=brought_shas(spec.home, [*earlier, rows[0]]))
    if decision.head == head:
        return None, stop
    return HeadMove(from_gen=head, to_gen=decision.head, reason="stop_rule", at=utc_now()), stop


def recorded_verdict(spec: RunSpec, ledger: Ledger) -> Judged | None:
    """The verdict that a run recorded before it was cut off; None if it did not come so far.

    Judging again would hold the generation against itself in the stop rule.
    """
    if not ledger.is_judged(spec.gen_id, spec.lineage):
        return None
    rows = ledger.generation(spec.gen_id, spec.lineage)
    stop = ledger.stop_of(spec.lineage) if ledger.last_stop_gen(spec.lineage) == spec.gen_id else None
    ledger.derive_csv()  # it comes after the transaction, so it may be missing
    return Judged(
        verdict=rows[0].verdict,
        reason=rows[0].reason,
        alphas={row.role: row.alpha for row in rows},
        stopped=stop.reason if stop else "",
    )
