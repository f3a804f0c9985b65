"""The Ray Serve app `luna-reward`: the reward model at /reward and by handle, in batches that Ray Serve makes.

It has its own route, so that a request passes no second process on its way. Serving does not know the trainers, so how
a model is loaded is handed in by whoever starts the app.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from starlette.types import ASGIApp, Receive, Scope, Send

from curriculum.reward import VALUES, RewardOutput
from ledger.errors import LunaError
from ledger.home import Home
from serving.api.errors import Refused, add_error_handlers
from serving.api.guard import guarded
from serving.api.reward import NO_REWARD, Judged, Pair, add_reward
from serving.settings import ServingSettings

REWARD_APP = "luna-reward"
REWARD_ROUTE = "/reward"

_ANSWER_S = 30
_PAIR_S = 0.1
"""What a pair may take beyond `_ANSWER_S`, on a slow machine."""
_BATCH_PAIRS = 16
"""Pairs that are scored together at most."""
_BATCH_WAIT_S = 0.005
"""How long the first pair of a batch waits for others."""
_BATCHES_AT_ONCE = 2
"""Batches that are scored side by side, each on one thread."""
_HEALTH_PAIR = ("Are you well?", "Yes, thank you.")


@dataclass(frozen=True)
class Scorer:
    """A reward model, loaded on the CPU: it is small, and cards are for training and for the engine."""

    sha: str
    score: Callable[[Sequence[str], Sequence[str]], list[RewardOutput]]
    """Prompts and answers to judgements; may be called from several threads."""


Load = Callable[[], Scorer | None]
"""Loads the home's current reward model, None where it has none yet; its libraries are imported only then."""


class RewardReplica:
    """One copy of the reward model, or the place where one will be."""

    def __init__(self, load: Load, settings: dict[str, Any], key: str | None):
        self._settings, self._key = ServingSettings.model_validate(settings), key
        self._load, self._scorer = load, load()
        self._threads = ThreadPoolExecutor(_BATCHES_AT_ONCE)
        self._taking = asyncio.Lock()
        self._one = serve.batch(
            max_batch_size=_BATCH_PAIRS,
            batch_wait_timeout_s=_BATCH_WAIT_S,
            max_concurrent_batches=_BATCHES_AT_ONCE,
        )(self._batch)

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        app = FastAPI(title="Luna's reward model", docs_url=None, redoc_url=None, openapi_url=None)
        add_reward(app, self)
        add_error_handlers(app)

        async def whole_path(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, "root_path": ""}, receive, send)  # Serve says /reward, which the route holds itself

        return guarded(whole_path, self._settings, self._key)

    def exists(self) -> bool:
        """Whether there is a model."""
        return self._scorer is not None

    async def score(self, pairs: Sequence[Pair]) -> list[Judged]:
        """A judgement for each pair, in order. Pairs of several requests are scored together.

        Raises:
            Refused: there is no model yet.
        """
        if not self.exists():
            raise Refused(503, NO_REWARD)
        return list(await asyncio.gather(*(self._one(pair) for pair in pairs)))

    async def _batch(self, pairs: list[Pair]) -> list[Judged]:
        scorer = self._scorer  # One batch has one model, whatever is taken over meanwhile.
        assert scorer is not None
        found = await asyncio.get_running_loop().run_in_executor(self._threads, _scored, scorer, pairs)
        return [Judged(scorer.sha, reward) for reward in found]

    async def take_over(self) -> dict[str, Any]:
        """Load the home's current model, then answer with it: requests meanwhile get the one before.

        Raises:
            LunaError: it cannot be loaded; the one before stays.
        """
        async with self._taking:
            began = time.perf_counter()
            self._scorer = await asyncio.to_thread(self._load)
            return {**self.state(), "load_s": time.perf_counter() - began}

    def state(self) -> dict[str, Any]:
        """Which model answers, in which process."""
        return {"model": None if self._scorer is None else self._scorer.sha, "pid": os.getpid()}

    async def check_health(self) -> None:
        """Ray Serve replaces this replica when a judgement is missing or no number."""
        if not self.exists():
            return
        (found,) = await self.score([_HEALTH_PAIR])
        if not all(math.isfinite(getattr(found.reward, name)) for name in VALUES):
            raise RuntimeError("the reward model's judgement holds no numbers")


def _scored(scorer: Scorer, pairs: list[Pair]) -> list[RewardOutput]:
    return scorer.score([prompt for prompt, _ in pairs], [answer for _, answer in pairs])


class RemoteJudge:
    """The reward model through its Ray handle: how the gateway has answers scored."""

    def __init__(self, home: Home):
        self._home = home
        self._known: Any = None

    def exists(self) -> bool:
        return self._home.reward_pointer.exists()

    async def score(self, pairs: Sequence[Pair]) -> list[Judged]:
        if not self.exists():
            raise Refused(503, NO_REWARD)
        try:
            if self._known is None:
                self._known = await asyncio.to_thread(serve.get_app_handle, REWARD_APP)
            answer_s = _ANSWER_S + _PAIR_S * len(pairs)
            found: list[Judged] = await asyncio.wait_for(self._known.score.remote(pairs), answer_s)
        except Exception as error:
            self._known = None
            raise _refusal(error) from error
        return found


def _refusal(error: Exception) -> Refused:
    """What a user is told when the reward model does not answer."""
    cause = getattr(error, "cause", None)
    if isinstance(error, RayError) and isinstance(cause, LunaError):
        return Refused(400, str(cause))
    return Refused(
        503,
        f"the reward model does not answer ({type(error).__name__}); it may be starting, or `luna serve` starts it.",
        {"retry-after": "5"},
    )


def reward_deployment(settings: ServingSettings, place: Mapping[str, Any]) -> Any:
    """The deployment, to be bound and run under the name `REWARD_APP` at `REWARD_ROUTE`.

    It scores on the CPU (:class:`Scorer`), so it asks for no GPU.

    Args:
        place: options of the actors that keep them where the home's files are.
    """
    return serve.deployment(
        serve.ingress()(RewardReplica),
        name="reward",
        health_check_period_s=10,
        health_check_timeout_s=30,
        graceful_shutdown_timeout_s=10,
        max_ongoing_requests=2 * settings.max_concurrent_requests + _BATCH_PAIRS * _BATCHES_AT_ONCE,
        ray_actor_options={"num_cpus": 0, "num_gpus": 0, **place},
    )
