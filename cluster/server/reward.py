"""The reward model behind the server: how it is loaded there, and how a new version is taken over."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from cluster.server import client
from ledger.conversations import Turn
from ledger.errors import LunaError
from ledger.home import Home
from ledger.scores import Score
from serving import app


def loader(home: Home) -> Any:
    """What loads the home's current reward model in a process of the server."""
    return partial(load_scorer, str(home.root))


def load_scorer(root: str) -> Any | None:
    """The home's current reward model, ready to score on the CPU; None where the home has none yet.

    Raises:
        LunaError: its files were changed.
    """
    home = Home(Path(root))
    if not home.reward_pointer.exists():  # asked before torch is imported
        return None
    import torch

    from serving.reward_app import Scorer
    from trainers.reward.model import current_model, load_reward_model

    torch.set_num_threads(1)  # batches run side by side instead
    model = load_reward_model(current_model(home))
    return Scorer(model.metadata["sha"], model.score)


def follow_reward(home: Home) -> str | None:
    """Let the server, where one serves this home, score with its current reward model.

    Returns:
        The model's SHA, or None where nothing is served or there is no model yet.

    Raises:
        LunaError: the server works for another home, or the model cannot be loaded; the one before goes on.
    """
    if app.running() is None:
        return None
    client.state(home)  # which refuses another home's server
    handle = app.reward_running()
    if handle is None:
        raise LunaError("the server was started without its reward app; `luna serve` again starts it.")
    sha: str | None = client.everywhere(handle, "take_over")["model"]
    return sha


def score_turns(home: Home, turns: list[Turn]) -> list[Score]:
    """What the served reward model makes of stored answers.

    Raises:
        LunaError: no reward model is served, or the server works for another home.
    """
    from serving.api.reward import score_of

    client.state(home)
    handle = app.reward_running()
    if handle is None:
        raise LunaError("no reward model is being served; train one (`luna reward train`), then `luna serve`.")
    judged = client.asked_one(handle, "score", [(turn.message, turn.answer) for turn in turns])
    return [score_of(turn.id, one) for turn, one in zip(turns, judged, strict=True)]
