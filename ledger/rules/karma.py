"""Karma: what an answer earns, and how much of it buys the next age (DESIGN section 8)."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

FIRST_THRESHOLDS: tuple[int, ...] = (100, 250, 500, 1000)
"""Karma for the first four steps up; every later step costs twice the one before."""


class KarmaSettings(BaseModel):
    """The `[karma]` table: what an answer earns and costs, in karma."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reward: float = Field(1.0, ge=0, allow_inf_nan=False)
    """For an answer that the reward model prefers with 1; with -1 it loses as much."""
    valence: float = Field(0.5, ge=0, allow_inf_nan=False)
    """For each step of a user's valence, -2 to +2."""
    token_cost: float = Field(0.0002, ge=0, allow_inf_nan=False)
    """For each token of the answer."""
    second_cost: float = Field(0.005, ge=0, allow_inf_nan=False)
    """For each second from the question to the end of the answer."""
    cost_most: float = Field(0.25, ge=0, allow_inf_nan=False)
    """Most that tokens and time of one answer can cost, so that a slow machine can still grow."""


class AnswerState(BaseModel):
    """What is known of one answer, as far as karma goes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    preference: float = Field(ge=-1, le=1)
    """The reward model's one number for the whole."""
    gate: float = Field(ge=0, le=1)
    """Share that its safety lets through; 0: unsafe."""
    valence: int = Field(ge=-2, le=2)
    """The user's; 0 where there is none."""
    tokens: int = Field(ge=0)
    seconds: float = Field(ge=0)


class KarmaTerms(AnswerState):
    """An answer's karma and the terms that it is made of."""

    reward: float
    label: float
    """The reward model's and the user's part, before the gate."""
    cost: float
    karma: float
    """gated(reward + label) - cost."""


def answer_karma(answer: AnswerState, settings: KarmaSettings) -> KarmaTerms:
    """What an answer in this state earns.

    karma = gate · max(0, earned) + min(0, earned) - cost, where earned = reward · preference + valence · steps and
    cost = min(cost_most, token_cost · tokens + second_cost · seconds). So an unsafe answer (gate 0) earns nothing
    positive, more reward or a better label never earns less, and more tokens or time never earn more.
    """
    reward, label = settings.reward * answer.preference, settings.valence * answer.valence
    earned = reward + label
    cost = min(settings.cost_most, settings.token_cost * answer.tokens + settings.second_cost * answer.seconds)
    karma = (answer.gate * earned if earned > 0 else earned) - cost
    return KarmaTerms(**answer.model_dump(), reward=reward, label=label, cost=cost, karma=karma)


def karma_threshold(age: int) -> int:
    """Karma that leads from ``age`` (0 or more) to the next one: 100, 250, 500, 1000, 2000 and so on."""
    if age < 0:
        raise ValueError(f"age must be 0 or more; got {age}")
    if age < len(FIRST_THRESHOLDS):
        return FIRST_THRESHOLDS[age]
    return FIRST_THRESHOLDS[-1] * 2 ** (age - len(FIRST_THRESHOLDS) + 1)


@dataclass(frozen=True)
class KarmaState:
    """Karma earned since the last age, and what the next one costs."""

    earned: float
    threshold: int

    @property
    def progress(self) -> float:
        """Share of the way, in [0, 1]. Karma can be negative (answers cost some); that is no progress."""
        return min(max(self.earned / self.threshold, 0.0), 1.0)

    @property
    def missing(self) -> float:
        """Karma still to earn, 0 when the age-up is due."""
        return max(self.threshold - self.earned, 0.0)

    @property
    def due(self) -> bool:
        return self.earned >= self.threshold


def karma_state(earned: float, age: int) -> KarmaState:
    """The state at ``age`` with ``earned`` karma."""
    return KarmaState(earned, karma_threshold(age))
