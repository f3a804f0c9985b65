"""What the ledger records. Every record is frozen, refuses unknown keys, and holds finite numbers only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ledger.errors import LunaError
from ledger.intervals import wilson_interval
from ledger.roles import ROLES, Role

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Signed = Annotated[float, Field(ge=-1.0, le=1.0)]
TurnId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Timestamp = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|\+00:00)$")]
"""ISO-8601 in UTC, for instance ``2026-03-01T12:00:00Z``."""

Verdict = Literal["accepted", "rejected"]


class Record(BaseModel):
    """Shared settings of everything below."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class GenerationRow(Record):
    """One role of one generation as it was trained and judged. The field order is the CSV's column order."""

    gen_id: int = Field(ge=0)
    """Number of the generation inside its lineage; ``G0`` is 0."""
    parent_sha: Sha256
    """The parent's ``child_sha`` for this role; without a parent the base's SHA."""
    child_sha: Sha256
    """SHA-256 of the judged adapter's ``adapter_model.safetensors``."""
    data_delta_sha: Sha256
    """SHA-256 of the frozen data delta, ``data/<sha>.parquet``: the new examples that were trained on."""
    steps: int = Field(ge=0)
    """Optimizer steps as planned; those that the health gate skipped are counted too."""
    lr: float = Field(ge=0)
    """Peak learning rate."""
    walltime_min: float = Field(ge=0)
    """Minutes of training, all parts of the run before and after a pause together, the pause itself not."""
    loss_start: float
    """Mean training loss over the first steps, at most ten, in nats per completion token; stored, never judged."""
    loss_end: float
    """The same over the last steps."""
    eval_recall: Fraction | None
    """Share passed of items that its line was trained on earlier; ``None`` if it was not measured."""
    eval_generalization: Fraction | None
    """Share passed of the delta's held-out items; ``None`` if it was not measured."""
    eval_style_drift: Fraction | None
    """Share of probe answers with a corporate phrase; ``None`` if it was not measured."""
    role: Role
    """Which of the three voices this row is about."""
    verdict: Verdict
    """The generation's verdict, the same in its three rows."""
    reason: str = Field(pattern=r"^[^\r\n]*$")
    """Why, in one line: which gates failed, or that all passed."""
    base_sha: Sha256
    """SHA-256 of the base's weights (:func:`ledger.verification.weights.weights_sha`)."""
    config_sha: Sha256
    """SHA-256 of the settings the generation was trained under."""
    seed: int
    """Seed of the adapter's initialisation and of the data order."""
    trained_at: Timestamp
    """When training ended."""
    parent_gen: int | None
    """Number of the parent generation; ``None`` if trained from the base alone."""
    holdout_sha: Sha256 | Literal[""] = ""
    """SHA-256 of the frozen held-out items that were asked; empty if there are none."""
    train_sha: Sha256
    """SHA-256 of the frozen training set: the rows of every step, role by role, in the order they were taken."""
    alpha: float = Field(default=1.0, gt=0.0, le=1.0)
    """Blend of parent (0) and trained adapter (1); 1.0 means the adapter as trained."""
    n_delta: int = Field(ge=0)
    """Rows of this role in the training file that came from the delta; an example met twice is two rows."""
    n_replay: int = Field(ge=0)
    """Rows of this role in the training file that are replayed: what its line was trained on, what the base says."""
    engine: str
    """Training engine: ``fused`` or ``trl``."""
    device: str
    """Device that trained the row, ``cpu`` or ``cuda``."""
    dtype: str
    """Number format of the base while training, for instance ``bfloat16``."""
    threads: int = Field(ge=1)
    """CPU threads of the training process; byte equality holds only for the same number."""
    placement: str
    """Roles trained together on this row's device, joined by ``+``."""
    lineage: str = Field(min_length=1)
    """Name of the lineage."""
    run_id: str
    """Run that trained it; its folder may have been deleted."""
    trained_sha: Sha256
    """SHA-256 of the adapter as trained, before any blend."""
    pref_sha: Sha256 | Literal[""] = ""
    """SHA-256 of the frozen preference pairs it was trained on; empty if it learned from examples alone."""
    pref_holdout_sha: Sha256 | Literal[""] = ""
    """SHA-256 of the frozen held-out pairs; empty if there are none."""
    reward_sha: Sha256 | Literal[""] = ""
    """SHA of the reward model that weighted the data; empty if none did."""
    rewards_sha: Sha256 | Literal[""] = ""
    """SHA-256 of that model's frozen scores; empty if there are none."""
    collected_sha: Sha256 | Literal[""] = ""
    """SHA-256 of everything that was new when the generation was planned, taken or not; empty in rows of versions whose
    training file held more rows than their steps took."""
    view_sha: Sha256 | Literal[""] = ""
    """SHA-256 of what the parent made of earlier examples, which decided on replay; empty where it had no say."""
    rehearsed_sha: Sha256 | Literal[""] = ""
    """SHA-256 of what the base says itself, of which some rows are repeated; empty where nothing is rehearsed."""
    gpu: str = ""
    """Card that trained the row: name, capability, CUDA or HIP version, driver; empty on a CPU and in older rows."""

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        if self.alpha == 1.0 and self.trained_sha != self.child_sha:
            raise ValueError("alpha is 1.0, so trained_sha must equal child_sha")
        if self.parent_gen is None and self.parent_sha != self.base_sha:
            raise ValueError("without a parent generation parent_sha must equal base_sha")
        if self.parent_gen is not None and self.parent_gen >= self.gen_id:
            raise ValueError(f"the parent's number {self.parent_gen} must be below {self.gen_id}")
        return self


EvalMethod = Literal["exact", "better", "kept", "mixed", "prompts", "phrases", "pairs", "measured", "choice"]


class EvalRecord(Record):
    """One score of one role of one generation, with its size and Wilson interval."""

    gen_id: int = Field(ge=0)
    """Generation that was measured."""
    role: Role
    """Role that was measured."""
    eval: str = Field(min_length=1)
    """What was measured: a gate's name (``recall``), ``agl_accuracy``, ``tool_syntax`` and so on."""
    method: EvalMethod
    """How an item passes. ``exact``: the answer and its end as expected. ``better``: the true answer likelier than for
    the parent (for the base, without one). ``kept``: hardly less likely than for the generation that learned it.
    ``mixed``: exact and one of these in one set. ``prompts``: likelier under its own prompt than under similar ones.
    ``phrases``: found in the text. ``pairs``: the preferred of two answers is the likelier one. ``measured``: no share
    of items (health). ``choice``: the likeliest of four, in scores of earlier versions only."""
    value: Fraction
    """Share of items that succeed; for ``style_drift`` the share with a corporate phrase."""
    n: int = Field(ge=0)
    """Number of items; 0 only for a score set by definition (recall of a generation without parent)."""
    low: Fraction
    """Lower end of the 95 % Wilson interval; the value itself where it was ``measured``."""
    high: Fraction
    """Upper end of the 95 % Wilson interval; the value itself where it was ``measured``."""
    details: dict[str, Any] = Field(default_factory=dict)
    """Whatever explains the score, for instance one accuracy per puzzle family. JSON values only."""

    @classmethod
    def of_share(
        cls,
        gen_id: int,
        role: Role,
        name: str,
        method: EvalMethod,
        passed: Sequence[bool],
        details: dict[str, Any] | None = None,
    ) -> EvalRecord:
        """The share of items that passed, with its Wilson interval; `passed` has one entry an item.

        Raises:
            LunaError: there is no item.
        """
        if not passed:
            raise LunaError(f"there is no item to measure {name} of {role} on; give the set at least one.")
        low, high = wilson_interval(sum(passed), len(passed))
        return cls(
            gen_id=gen_id,
            role=role,
            eval=name,
            method=method,
            value=sum(passed) / len(passed),
            n=len(passed),
            low=low,
            high=high,
            details=details or {},
        )

    @classmethod
    def recall_by_definition(cls, gen_id: int, role: Role) -> EvalRecord:
        """Recall 1.0 of a generation without parent: there is nothing earlier that it could forget."""
        return cls(
            gen_id=gen_id,
            role=role,
            eval="recall",
            method="exact",
            value=1.0,
            n=0,
            low=1.0,
            high=1.0,
            details={"by_definition": "no earlier generation"},
        )


class HeadMove(Record):
    """The head of a lineage goes from one accepted generation to another."""

    from_gen: int | None
    """Head before the move; ``None`` if there was none."""
    to_gen: int = Field(ge=0)
    """Head after the move."""
    reason: str = Field(min_length=1)
    """``accepted``, ``rollback``, ``stop_rule`` or another word that says why."""
    at: Timestamp
    """When."""


class Stop(Record):
    """The stop rule fired: no further generation on this data."""

    reason: str = Field(min_length=1)
    """The sentence shown to the user."""
    data_delta_shas: tuple[Sha256, ...] = Field(min_length=1)
    """Names of the data refused from now on, by the examples in it: of each of the two generations, and of both."""


class Lineage(Record):
    """A chain of generations over one base."""

    name: str = Field(min_length=1)
    """Name, unique in its home."""
    base_sha: Sha256
    """The base under all of its generations."""


def generation_verdict(rows: Sequence[GenerationRow]) -> Verdict:
    """The one verdict of a generation's rows.

    Raises:
        LunaError: if the rows are not one row per role of one generation of one lineage with one verdict.
    """
    if Counter(row.role for row in rows) != Counter(ROLES):
        found = ", ".join(row.role for row in rows) or "none"
        raise LunaError(f"a judgement needs one row for each of {', '.join(ROLES)}; found {found}.")
    for field in ("gen_id", "lineage", "parent_gen", "base_sha", "verdict"):
        values = {getattr(row, field) for row in rows}
        if len(values) > 1:
            raise LunaError(f"the rows of a judgement differ in {field}: {sorted(map(str, values))}.")
    return rows[0].verdict
