"""What is written of a judged generation: its rows in the ledger, and what its adapters say about themselves."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.judging.blending import Candidate
from cluster.request import RunSpec
from cluster.steps.records import Collected, Planned, Trained
from curriculum.parquet import read_examples
from ledger.metadata import build_metadata, capabilities, capability_minimums, write_metadata
from ledger.records import EvalRecord, GenerationRow
from ledger.roles import ROLES
from ledger.store import Ledger


def rows_of(
    spec: RunSpec, collected: Collected, planned: Planned, trained: Trained, candidate: Candidate
) -> list[GenerationRow]:
    """One row of the ledger for each role. Pure."""
    values = {(score.role, score.eval): score.value for score in candidate.evals}
    blends = [f"{role} at alpha {alpha}" for role, alpha in candidate.alphas.items() if alpha != 1.0]
    reason = ", ".join([candidate.judgement.reason, *blends])
    train = spec.settings.train if collected.parent_gen is None else spec.settings.train.of_child()
    rows = []
    for role in ROLES:
        made = trained.roles[role]
        outcome, engine = made.outcome, made.engine
        rows.append(
            GenerationRow(
                gen_id=spec.gen_id,
                parent_sha=collected.parent_shas.get(role, spec.base.sha),
                child_sha=candidate.adapters.shas[role],
                data_delta_sha=planned.examples.delta_sha,
                steps=outcome.steps,
                lr=train.lr_of(role),
                walltime_min=round(made.seconds / 60, 4),
                loss_start=outcome.loss_start,
                loss_end=outcome.loss_end,
                eval_recall=values[role, "recall"],
                eval_generalization=values[role, "generalization"],
                eval_style_drift=values[role, "style_drift"],
                role=role,
                verdict=candidate.judgement.verdict,
                reason=reason,
                base_sha=spec.base.sha,
                config_sha=spec.config_sha,
                seed=spec.settings.seed,
                trained_at=trained.trained_at,
                parent_gen=collected.parent_gen,
                holdout_sha=planned.examples.holdout_sha,
                train_sha=planned.examples.train_sha,
                alpha=candidate.alphas[role],
                n_delta=planned.examples.n_delta[role],
                n_replay=planned.examples.n_replay[role],
                engine=engine.engine,
                device=engine.device,
                dtype=engine.dtype,
                threads=engine.threads,
                placement=made.placement,
                lineage=spec.lineage,
                run_id=spec.run_id,
                trained_sha=outcome.adapter_sha,
                collected_sha=collected.collected_sha,
                view_sha=planned.view_sha,
                rehearsed_sha=planned.rehearsed_sha,
                gpu=str(engine.card or ""),
                **dict(planned.channels),
            )
        )
    return rows


def write_adapter_metadata(
    spec: RunSpec, ledger: Ledger, rows: Sequence[GenerationRow], evals: Sequence[EvalRecord]
) -> None:
    """Let each adapter of the generation say in its folder what it is and what it can."""
    minimums = capability_minimums(spec.settings.gates)
    train = read_examples(spec.home.data_file(rows[0].train_sha))
    parent = rows[0].parent_gen
    age = 0 if parent is None else len(ledger.parent_chain(parent, spec.lineage))
    for row in rows:
        passed = capabilities([score for score in evals if score.role == row.role], minimums)
        talks = sum(e.role == row.role and e.stage == "conversations" for e in train)
        metadata = build_metadata(row, n_conversations=talks, passed=passed, age=age)
        write_metadata(spec.home.adapter_dir(row.child_sha), metadata)
