"""What the steps of a generation hand each other: frozen records that the run journal keeps as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from pydantic import Field

from cluster.placement import Groups, Placement
from ledger.journal import Step
from ledger.records import EvalRecord, Record, Sha256, Timestamp, Verdict
from ledger.roles import Role
from trainers.config import ShardedSettings
from trainers.job import EngineInfo, MicroBatches, RoleOutcome, TrioOutcome


class StepRecord(Record):
    """The result of one step."""

    step: ClassVar[Step]
    """The step's name in the run journal."""


class Parent(Record):
    """The generation that a new one starts from."""

    gen_id: int
    shas: dict[Role, Sha256]
    """Adapter of each role."""


class Collected(StepRecord):
    """The parent, pinned; the new data, split and frozen."""

    step = "collect"

    parent: Parent | None
    """The head at that moment; None for a lineage's first generation."""
    collected_sha: Sha256
    """All new examples, with the side of each (`curriculum.parquet.NewData`)."""
    n_new: int
    """Examples that may be trained on."""
    n_held_out: int
    joined: int = 0
    """Items that stand with another group's, being near copies of them."""
    torn: int = 0
    """Items left out, since the line has what belongs to them on both sides."""
    pairs_sha: Sha256 | Literal[""] = ""
    """Preference pairs that may be trained on; empty if there are none."""
    held_out_pairs_sha: Sha256 | Literal[""] = ""

    @property
    def parent_gen(self) -> int | None:
        return self.parent.gen_id if self.parent else None

    @property
    def parent_shas(self) -> dict[Role, Sha256]:
        return self.parent.shas if self.parent else {}


class TrainingSet(Record):
    """The rows of every step of every role, and the items to be asked."""

    train_sha: Sha256
    """Every row that will be trained on, role by role in its order; a repeated one again."""
    delta_sha: Sha256
    """The different new examples among them."""
    holdout_sha: Sha256
    """The held-out items that generalization is measured on."""
    steps: dict[Role, int]
    n_delta: dict[Role, int]
    """Rows of each role with new examples."""
    n_replay: dict[Role, int]
    """Rows of each role with examples of earlier generations or the base's own words."""


class ChannelFiles(Record):
    """What a generation with two channels froze; empty where there is none. The fields are columns of the ledger."""

    pref_sha: Sha256 | Literal[""] = ""
    pref_holdout_sha: Sha256 | Literal[""] = ""
    reward_sha: Sha256 | Literal[""] = ""
    rewards_sha: Sha256 | Literal[""] = ""


class Planned(StepRecord):
    """What will be trained on."""

    step = "plan"

    examples: TrainingSet
    channels: ChannelFiles
    view_sha: Sha256 | Literal[""] = ""
    """What the parent made of what could be replayed (`curriculum.parent_view`); empty where it had no say."""
    rehearsed_sha: Sha256 | Literal[""] = ""
    """What the base says itself and may repeat; empty where nothing is rehearsed."""


class TrainingNotes(Record):
    """What is known of a training before its end; the journal keeps it with the step's beginning, for every resume."""

    placements: tuple[Placement, ...]
    """The groups that the run began with."""
    done: dict[str, TrioOutcome] = Field(default_factory=dict)
    """Outcomes of the groups that have finished, by their names."""
    micro_batches: dict[str, MicroBatches] = Field(default_factory=dict)
    """What memory asks for above the settings, by the name of the group: as planned, and as raised where it ran out."""
    sharded: ShardedSettings | None = None
    """See :attr:`cluster.placement.Groups.sharded`."""

    @property
    def groups(self) -> Groups | None:
        """How the run began to train; None before it has."""
        return Groups(self.placements, self.micro_batches, self.sharded) if self.placements else None

    def begun(self, groups: Groups) -> Self:
        """The same for groups that are trained now."""
        cut = dict(groups.micro_batches)
        return self.model_copy(
            update={"placements": groups.placements, "micro_batches": cut, "sharded": groups.sharded}
        )

    def with_outcome(self, group: Placement, outcome: TrioOutcome) -> Self:
        """The same with one more group finished."""
        return self.model_copy(update={"done": {**self.done, group.name: outcome}})

    def with_micro_batches(self, group: Placement, raised: MicroBatches) -> Self:
        """The same with a group's steps cut in more parts."""
        return self.model_copy(update={"micro_batches": {**self.micro_batches, group.name: raised}})

    @property
    def left(self) -> tuple[Placement, ...]:
        """The groups that have not finished."""
        return tuple(group for group in self.placements if group.name not in self.done)

    @property
    def outcomes(self) -> Mapping[Placement, TrioOutcome]:
        """The finished groups'."""
        return {group: self.done[group.name] for group in self.placements if group.name in self.done}


class TrainedRole(Record):
    """One role's trained adapter, and where and how it was made."""

    outcome: RoleOutcome
    engine: EngineInfo
    placement: str
    """Roles that were trained together on its device, joined by ``+``."""
    seconds: float
    micro_batches: MicroBatches = ()
    """See :attr:`trainers.job.TrioJob.micro_batches`."""


class Trained(StepRecord):
    """The adapters as trained."""

    step = "train"

    roles: dict[Role, TrainedRole]
    trained_at: Timestamp

    @property
    def shas(self) -> dict[Role, Sha256]:
        return {role: trained.outcome.adapter_sha for role, trained in self.roles.items()}


TRAINER = "trainer"
"""The engine of a judgement that the trainers' own model is asked for, not a server's."""


class Measured(StepRecord):
    """Every score of the adapters as trained."""

    step = "measure"

    evals: tuple[EvalRecord, ...]
    through: str
    """The engine that answered, for all that were compared: the server's, or `TRAINER`."""


class Judged(StepRecord):
    """The verdict, which is in the ledger."""

    step = "judge"

    verdict: Verdict
    reason: str
    alphas: dict[Role, float]
    """1.0 where a role's adapter as trained was judged, less for a blend with its parent's."""
    stopped: str
    """Why the stop rule fired; empty if it did not."""


class Deployed(StepRecord):
    """Whether a server answers with the head now."""

    step = "deploy"

    served: bool
    generation: int | None = None
    reason: str = ""
    """Why it is not served."""
