"""How a candidate's reward health is measured, and what follows from it. Free of torch, which `index` needs."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from ledger.records import Fraction


class HealthSettings(BaseModel):
    """What is measured of a candidate's reward health, and what follows from it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gate: bool = True
    """Whether a measured index decides over acceptance; off, it is measured and stored only."""
    rhi_min: Fraction = 0.70
    """The index of every role must be above this."""
    prompts: int = Field(15, ge=10)
    """Seed prompts that a candidate answers, spread evenly over their categories."""
    answer_tokens: int = Field(20, ge=4)
    """Longest answer to a probe prompt."""
    seed: int = Field(20_260_301, ge=0)
    """Draws the prompts and the signs of the sketch; fixed, so that generations are asked the same."""
    sketch: int = Field(2048, ge=64)
    """Numbers that a row's gradient is reduced to; a cosine of two sketches is off by about 1 / sqrt(sketch)."""
    micro_batches: int = Field(15, ge=2)
    """Parts that the answers are dealt into for the gradient's variance; 15 of 15 makes each answer one."""
    layer_share: float = Field(0.5, gt=0, le=1)
    """Depth of the states that are compared with the parent's: 0.5 is after half of the blocks."""
    noise_half: float = Field(0.5, gt=0)
    """Calibration of GVS: variance over squared mean norm of the micro-batches' gradients at which it is one half."""
    curvature_half: float = Field(2.0, gt=0)
    """Calibration of MSS: spread of the answers' relative curvatures at which its part is one half."""
    skip_below: float = Field(0.50, ge=0, le=2)
    """An update is skipped where DCS + GVS is below this; a frozen run goes on once it is reached again."""
    roll_back_below: float = Field(0.30, ge=0, le=2)
    """The last update is taken back below this."""
    freeze_below: float = Field(0.20, ge=0, le=2)
    """Training is frozen below this."""
    online_every: int = Field(10, ge=0)
    """Steps from one online measurement to the next in a run of two channels with a reward model; 0: none."""
    online_rows: int = Field(10, ge=4)
    """Scored examples of a role that are asked online."""
    falling_runs: int = Field(3, ge=2)
    """Runs over which a falling index asks for smaller steps."""
    reduce_factor: float = Field(0.5, gt=0, lt=1)
    """What the learning rate, or at its floor the adapter's rank, is then multiplied by."""
    lr_floor: float = Field(2e-5, gt=0)
    """Learning rate below which the adapter is made smaller instead."""
    rank_floor: int = Field(4, ge=1)
    """Smallest rank that is proposed."""

    def model_post_init(self, _: object) -> None:
        if not self.freeze_below <= self.roll_back_below <= self.skip_below:
            raise ValueError("freeze_below, roll_back_below and skip_below must rise in this order")
