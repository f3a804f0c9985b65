"""The interface of an engine: what a training job is, what it reports, what comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from curriculum.transcript import LengthSettings
from ledger.errors import LunaError
from ledger.roles import Role
from trainers.config import ChannelSettings, LoraSettings, TrainSettings
from trainers.driver import Card
from trainers.generator import Generator
from trainers.health.settings import HealthSettings
from trainers.models.adapter_set import AdapterSet

if TYPE_CHECKING:  # a command that follows a run needs no torch
    from trainers.lean.base import LeanBase

Channel = Literal["sft", "dpo", "kl"]
MicroBatches = tuple[tuple[int, int], ...]
"""(step, parts): from that step on, counted from 0, a step is cut in no fewer micro-batches."""


@dataclass(frozen=True)
class TrioJob:
    """The roles of one device, trained from their parents on one ordered file of examples.

    Everything that decides the resulting bytes is here or in :class:`EngineInfo`.
    """

    roles: tuple[Role, ...]
    parents: Mapping[Role, str | None]
    """SHA of each role's parent adapter; None starts a fresh one from the seed."""
    train_file: str
    """Parquet of the rows to train on, role by role: those of every step in their order, a repeated one again."""
    role_steps: Mapping[Role, int]
    """Optimizer steps of each role. A step takes the next `batch_size` of its rows, the last one what is left."""
    adapters_dir: str
    """Where adapters are read and published, one folder a SHA."""
    run_dir: str
    """Checkpoints and TensorBoard events of these roles; may be deleted when the job is done."""
    seed: int
    train: TrainSettings
    lora: LoraSettings
    channels: ChannelSettings = field(default_factory=ChannelSettings)
    preference_file: str | None = None
    """Parquet of the preference pairs to train on, all roles in one file; read in `dual` mode only."""
    rewards_file: str | None = None
    """Parquet of a reward model's scores of examples (`curriculum.reward.scores`); their weights are in `train_file`.
    The online gate of a dual run asks the scored examples."""
    health: HealthSettings = field(default_factory=HealthSettings)
    """The online gate's bounds."""
    delta_file: str | None = None
    """Parquet of the new examples among the rows, the others being replayed; read where `train.kl_weight` is above 0.
    None: nothing is replayed."""
    text: LengthSettings = field(default_factory=LengthSettings)
    """How long a prompt and its answer may be."""
    micro_batches: MicroBatches = ()
    """What was raised above the settings where memory ran out. The gradient is the same; its sums have another order,
    so that the bytes depend on it."""

    @property
    def steps(self) -> int:
        """Steps of the role that has most."""
        return max(self.role_steps.values())

    def cut_smaller(self, error: StepTooLarge) -> TrioJob:
        """The job with which to train again; what was raised before stays where it asks for more."""
        rest = [one for one in self.micro_batches if one[0] < error.step or one[1] > error.parts]
        return replace(self, micro_batches=tuple(sorted([*rest, (error.step, error.parts)])))

    def least_parts(self, step: int) -> int:
        """In how many micro-batches a step is cut at least."""
        return max((parts for first, parts in self.micro_batches if first <= step), default=1)


@dataclass(frozen=True)
class TrioProgress:
    """Where training stands; one for each engine step."""

    step: int
    steps: int
    losses: dict[Role, float]
    """Loss of each role's latest step: nats a token, or with several channels what they come to together."""
    examples_per_s: float
    """All roles together, over this process's part of the run; of a role without examples its pairs."""
    seconds_left: float
    role_steps: dict[Role, int]
    role_totals: dict[Role, int]
    channels: dict[Channel, dict[Role, float]] = field(default_factory=dict)
    """With several channels the loss of each by role: `sft` and `kl` in nats a token, `dpo` in nats a pair."""
    tokens_per_s: float | None = None
    """Of the examples trained on, prompts and answers, each row counted whole; None where the engine does not count."""


@dataclass(frozen=True)
class RoleOutcome:
    """One role's trained adapter and its loss curve's ends."""

    role: Role
    adapter_sha: str
    steps: int
    """As planned; `skipped_updates` of them changed nothing."""
    examples: int
    """Rows that were trained on; an example that was met twice counts twice, one of weight 0 not at all."""
    loss_start: float
    """Mean over the first up to ten steps of what is minimised: nats a token, or all channels together."""
    loss_end: float
    """Mean over the last up to ten steps."""
    skipped_updates: Mapping[str, int] = field(default_factory=dict)
    """Updates that were not made: by what the online health gate did instead, and `learned` where the loss was no more
    than the settings' least."""

    @classmethod
    def of(
        cls,
        job: TrioJob,
        role: Role,
        adapter_sha: str,
        rows: int,
        losses: Sequence[float],
        skipped_updates: Mapping[str, int] | None = None,
    ) -> RoleOutcome:
        """The outcome of a finished job: so many rows of the role were trained on, `losses` has every step's."""
        window = max(1, min(10, len(losses) // 2))  # a short course is halved: a start that is the end says nothing
        first, last = losses[:window], losses[-window:]
        return cls(
            role=role,
            adapter_sha=adapter_sha,
            steps=job.role_steps[role],
            examples=rows,
            loss_start=sum(first) / len(first),
            loss_end=sum(last) / len(last),
            skipped_updates=dict(skipped_updates or {}),
        )


@dataclass(frozen=True)
class EngineInfo:
    """What equal bytes depend on besides the job."""

    engine: Literal["fused", "trl", "sharded"]
    device: str
    """Device type as torch names it: `cpu` or `cuda`."""
    dtype: str
    """Number format of the base, `float32` or `bfloat16`."""
    threads: int
    """CPU threads of the training process."""
    versions: Mapping[str, str]
    """Of the libraries that compute, and the machine's architecture."""
    graphs: bool = False
    """Whether a step is replayed from CUDA graphs, whose sums have another order."""
    card: Card | None = None
    """The card that computed; None on a CPU."""
    workers: tuple[tuple[int, int], ...] = ((0, 1),)
    """Processes that shared the rows of a step, as (first step, processes); more than one entry where a worker was lost
    or came in between. Sums over processes have another order."""


@dataclass(frozen=True)
class TrioOutcome:
    roles: dict[Role, RoleOutcome]
    seconds: float
    """Of training, over all parts of the run: up to each pause, and up to the last checkpoint before a crash. The time
    in which nothing was trained is not in it."""
    engine: EngineInfo


class Paused(LunaError):
    """Training was asked to stop; a checkpoint holds where it was."""


class StepTooLarge(LunaError):
    """Memory ran out in a step that can be cut in more micro-batches: train again with these `micro_batches` as well.

    The job goes on from its checkpoint, or from its start.
    """

    def __init__(self, step: int, parts: int, said: str):
        super().__init__(step, parts, said)  # what pickle makes it again from
        self.step, self.parts, self.said = step, parts, said

    def __str__(self) -> str:
        return (
            f"memory ran out at step {self.step + 1} ({self.said}); it is to be cut in {self.parts} micro-batches and "
            "trained again."
        )


class NonFiniteError(LunaError):
    """A loss or gradient was not a number; nothing is published."""


class Engine(Protocol):
    """Trains jobs and answers as the model, with the base kept loaded between calls."""

    name: str

    @property
    def lean(self) -> LeanBase | None:
        """The base for what needs its gradients and hidden states; None with an engine that has no lean forward."""
        ...

    @property
    def info(self) -> EngineInfo:
        """What this engine computes with."""
        ...

    def train(
        self,
        job: TrioJob,
        on_progress: Callable[[TrioProgress], None],
        should_stop: Callable[[], bool],
    ) -> TrioOutcome:
        """Train to the end, from the job's last checkpoint if there is one.

        Raises:
            Paused: `should_stop` became true; call again with the same job to go on.
            StepTooLarge: memory ran out; call again with what it says.
            NonFiniteError: naming the role, the step and the examples of the batch.
            LunaError: a parent adapter or the training file is missing, broken or foreign.
        """
        ...

    def generator(self, adapters: AdapterSet) -> Generator:
        """The base with these adapters; a role without one answers as the base."""
        ...

    def blended(self, parents: AdapterSet, children: AdapterSet, alpha: float, into: Path) -> AdapterSet:
        """Write parent + alpha (child - parent) for each of the children's roles under `into`; a role without a parent
        has the base for one."""
        ...
