"""Scores of answers: what is asked and answered over HTTP, and the scoring of every answer after it was given.

Free of Ray: who judges is asked through a small protocol.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter, Gauge
from pydantic import BaseModel, ConfigDict, Field

from curriculum.reward import RewardOutput, example_weight, gate
from ledger.clock import utc_now
from ledger.conversations import Turn
from ledger.scores import Score
from serving.api.errors import Refused

logger = logging.getLogger(__name__)

NO_REWARD = (
    "there is no reward model yet, so nothing can be scored; labels that users give are stored and will train one."
)

MOST_PAIRS = 128
"""Pairs in one request."""

_AT_ONCE = 16
"""Answers that are scored in the background together."""

_QUEUE_LENGTH = 256
"""Answers that may wait for their score; more are left unscored and counted."""

Text = Annotated[str, Field(min_length=1, max_length=20_000)]
Pair = tuple[str, str]
"""(prompt, answer)."""


@dataclass(frozen=True)
class Judged:
    """One judgement, and by which model."""

    model: str
    """SHA of the reward model."""
    reward: RewardOutput


class Judge(Protocol):
    """Who judges."""

    def exists(self) -> bool:
        """Whether there is a reward model; cheap, asked before every answer is queued."""
        ...

    async def score(self, pairs: Sequence[Pair]) -> list[Judged]:
        """A judgement for each pair, in order.

        Raises:
            Refused: there is no reward model, or it does not answer.
        """
        ...


class RewardRequest(BaseModel):
    """An answer to score."""

    model_config = ConfigDict(extra="forbid")

    prompt: Text = Field(examples=["Is 7 an even number?"])
    response: Text = Field(examples=["No. Shall we look at why?"])


class RewardAnswer(BaseModel):
    """What the reward model makes of it."""

    model: str
    """SHA of the reward model."""
    reward: RewardOutput
    """Seven dimensions, intensity, safety, and one number for the whole (docs/explanation/reward-manifold.md)."""
    gate: float
    """Share of a weight that the safety score lets through."""
    example_weight: float
    """Weight that the example would have in training: intensity · gate."""


def add_reward(app: FastAPI, judge: Judge) -> None:
    """The path /reward."""

    @app.post("/reward", summary="Score an answer, or a list of them")
    async def reward(
        request: RewardRequest | Annotated[list[RewardRequest], Field(min_length=1, max_length=MOST_PAIRS)],
    ) -> RewardAnswer | list[RewardAnswer]:
        asked = request if isinstance(request, list) else [request]
        judged = await judge.score([(one.prompt, one.response) for one in asked])
        answers = [reward_answer(one) for one in judged]
        return answers if isinstance(request, list) else answers[0]


def reward_answer(judged: Judged) -> RewardAnswer:
    """A judgement as it is answered."""
    value = judged.reward
    return RewardAnswer(
        model=judged.model,
        reward=value,
        gate=gate(value.safety_score),
        example_weight=example_weight(value.reward_intensity, value.safety_score),
    )


def score_of(turn_id: str, judged: Judged) -> Score:
    """A judgement as it is stored."""
    values = judged.reward.model_dump()
    return Score(turn_id=turn_id, model=judged.model, **values, gate=gate(judged.reward.safety_score), at=utc_now())


def worth_scoring(turn: Turn) -> bool:
    """Whether an answer is one: not broken off, and not empty."""
    return turn.finish_reason != "aborted" and bool(turn.answer.strip())


class Background:
    """Scores answers after they were given. It neither delays an answer nor fails one.

    What it cannot score, because the queue is full or the model does not answer, is counted and stays without a score;
    `luna reward score-conversations` makes up for it.

    Args:
        store: stores scores.
        queue_length: answers that may wait.
    """

    def __init__(
        self,
        judge: Judge,
        store: Callable[[Sequence[Score]], Awaitable[None]],
        registry: CollectorRegistry,
        queue_length: int = _QUEUE_LENGTH,
    ):
        self._judge, self._store, self._queue_length = judge, store, queue_length
        self._waiting: deque[Turn] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._counted = Counter("luna_scores", "Answers scored in the background", ["outcome"], registry=registry)
        for outcome in ("stored", "failed", "dropped"):
            self._counted.labels(outcome)
        waiting = Gauge("luna_scores_waiting", "Answers that wait for their score", registry=registry)
        waiting.set_function(lambda: len(self._waiting))

    def take(self, turn: Turn) -> None:
        """Have a stored answer scored some time soon."""
        if not worth_scoring(turn) or not self._judge.exists():
            return
        if len(self._waiting) >= self._queue_length:
            self._counted.labels("dropped").inc()
            return
        self._waiting.append(turn)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.ensure_future(self._work())

    async def _work(self) -> None:
        while self._waiting:
            turns = [self._waiting.popleft() for _ in range(min(_AT_ONCE, len(self._waiting)))]
            try:
                judged = await self._judge.score([(turn.message, turn.answer) for turn in turns])
                await self._store([score_of(turn.id, one) for turn, one in zip(turns, judged, strict=True)])
            except Exception as error:  # whatever it was, answers go on
                self._counted.labels("failed").inc(len(turns))
                if not isinstance(error, Refused):
                    logger.exception("an answer could not be scored")
            else:
                self._counted.labels("stored").inc(len(turns))
