"""Pure checks of a judgement before it enters the ledger; each failure says what does not fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from ledger.errors import LunaError
from ledger.records import EvalRecord, GenerationRow, HeadMove, Lineage, generation_verdict

Generations = Mapping[int, Sequence[GenerationRow]]
"""Judged generations of one lineage by number: the newest, and those that a judgement or move names."""


def already_judged(rows: Sequence[GenerationRow], generations: Generations) -> bool:
    """Whether the ledger already holds this judgement: the same adapters, the same verdict.

    Raises:
        LunaError: if it holds another judgement under the same number.
    """
    recorded = generations.get(rows[0].gen_id)
    if recorded is None:
        return False
    if _identity(recorded) == _identity(rows):
        return True
    raise LunaError(
        f"G{rows[0].gen_id} of lineage {rows[0].lineage!r} has been judged already, with other adapters or "
        "another verdict. The ledger is append-only: take the next generation number."
    )


def _identity(rows: Sequence[GenerationRow]) -> set[tuple[str, str, str]]:
    return {(row.role, row.child_sha, row.verdict) for row in rows}


def check_judgement(
    rows: Sequence[GenerationRow],
    evals: Sequence[EvalRecord],
    head_move: HeadMove | None,
    lineage: Lineage,
    generations: Generations,
    head: int | None,
) -> None:
    """Whether a new judgement fits its lineage.

    Raises:
        LunaError: if it does not.
    """
    gen_id = rows[0].gen_id
    if generations and gen_id < max(generations):
        raise LunaError(f"G{gen_id} comes after G{max(generations)} was judged; numbers only grow.")
    for row in rows:
        _check_descent(row, lineage, generations)
    _check_evals(evals, rows)
    if head_move is not None:
        check_head_move(head_move, head, {**generations, gen_id: rows})


def _check_descent(row: GenerationRow, lineage: Lineage, generations: Generations) -> None:
    who = f"G{row.gen_id} {row.role}"
    if row.base_sha != lineage.base_sha:
        raise LunaError(
            f"{who} was trained on the base {row.base_sha[:12]}, but lineage {lineage.name!r} stands on "
            f"{lineage.base_sha[:12]}. Begin a new lineage for another base."
        )
    if row.parent_gen is None:
        return
    parents = {parent.role: parent for parent in generations.get(row.parent_gen, ())}
    parent = parents.get(row.role)
    if parent is None or parent.verdict != "accepted":
        raise LunaError(f"{who} names G{row.parent_gen} as its parent, which was never accepted.")
    if row.parent_sha != parent.child_sha:
        raise LunaError(
            f"{who} was trained from {row.parent_sha[:12]}, but G{row.parent_gen}'s {row.role} adapter is "
            f"{parent.child_sha[:12]}."
        )


def _check_evals(evals: Sequence[EvalRecord], rows: Sequence[GenerationRow]) -> None:
    gen_id = rows[0].gen_id
    if strays := {score.gen_id for score in evals} - {gen_id}:
        raise LunaError(f"the scores of G{gen_id} name other generations: {sorted(strays)}.")
    twice = [key for key, count in Counter((score.role, score.eval) for score in evals).items() if count > 1]
    if twice:
        raise LunaError(f"G{gen_id} has more than one score for {' '.join(twice[0])}.")
    by_role = {row.role: row for row in rows}
    for score in evals:
        column = getattr(by_role[score.role], f"eval_{score.eval}", score.value)
        if column != score.value:
            raise LunaError(
                f"G{gen_id} {score.role}: the row says eval_{score.eval} {column}, its score says {score.value}."
            )


def check_head_move(move: HeadMove, head: int | None, generations: Generations) -> None:
    """Whether the head can make this move.

    Raises:
        LunaError: if the target was not accepted, or the head is elsewhere.
    """
    if move.from_gen != head:
        raise LunaError(
            f"the head is {_name(head)}, not {_name(move.from_gen)}; it has moved meanwhile. "
            "Look at `luna status` and ask again."
        )
    if move.to_gen not in generations:
        raise LunaError(f"there is no judged generation {_name(move.to_gen)} to move the head to.")
    if generation_verdict(generations[move.to_gen]) != "accepted":
        raise LunaError(f"{_name(move.to_gen)} was rejected; the head only points at accepted generations.")


def _name(gen_id: int | None) -> str:
    return "unset" if gen_id is None else f"G{gen_id}"
