"""Starting the server for a home.

Who writes the home is handed in by the caller: the coordinator itself talks to the running server, so nothing here
may import it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from cluster.calls import get, ledger_node
from cluster.server import client
from cluster.server.reward import loader
from cluster.settings import settings_of
from ledger.errors import LunaError
from ledger.home import Home
from serving import app
from serving.accepted import Coordinator, Line, Recorded
from serving.settings import ServingSettings, SharedSettings

_ANSWER_S = 60
_LOOK_S = 300
"""How long the coordinator may take to look at the cards of all nodes."""
_FREE_S = 15
"""How long a trainer that was ended may keep its card."""

FindCoordinator = Callable[..., Any]
"""Gives the coordinator that writes a home (:func:`cluster.coordinator.coordinator_for`)."""


def start(home: Home, coordinator_for: FindCoordinator) -> dict[str, Any]:
    """Serve a home's current lineage; returns the app's state.

    Raises:
        LunaError: nothing to serve, no room for the engine on the cards, or the app cannot be started.
    """
    served = to_serve(home, coordinator_for)
    settings = served.settings
    if app.running() is not None:
        found = client.state(home)
        if (found["host"], found["port"]) != (settings.host, settings.port):
            raise LunaError(
                f"Luna is served at {found['host']}:{found['port']} already; `luna serve --stop` first, to change "
                "the address."
            )
    else:
        _await_cards(served.places.engine.get("num_gpus", 0.0), settings.replicas)
    handle = app.run(home, *served, loader(home))
    return {**client.result(handle.state.remote()), "url": app.url(settings)}


class ToServe(NamedTuple):
    """What the apps are made from."""

    base_sha: str
    settings: ServingSettings
    shared: SharedSettings
    places: app.Places
    coordinator: Coordinator


def to_serve(home: Home, coordinator_for: FindCoordinator) -> ToServe:
    """What a home's current lineage is served with, and where.

    The coordinator is asked what the ledger says of it, since this may run on any node.

    Raises:
        LunaError: no generation was accepted yet, or there is no room for the engine on the cards.
    """
    whole = settings_of(home)
    coordinator = coordinator_for(home)  # it also brings an older home's database up to date
    line: Line = _asked(coordinator.line.remote())
    if line.head is None:
        raise LunaError("no generation was accepted yet, so there is nothing to serve; `luna demo` raises some.")
    recorded: Recorded = _asked(coordinator.recorded.remote(line.head))
    node: str = _asked(coordinator.node.remote())
    engine: dict[str, Any] = _asked(coordinator.lend.remote(recorded.base_sha), _LOOK_S)
    return ToServe(
        recorded.base_sha,
        whole.serving,
        SharedSettings(gates=whole.gates, text=whole.text),
        app.Places(ledger_node(node), engine),
        partial(coordinator_for, home, node),
    )


def _asked(answer: Any, timeout_s: float = _ANSWER_S) -> Any:
    """The coordinator's answer.

    Raises:
        LunaError: what it refuses, or it does not answer.
    """
    try:
        return get(answer, timeout_s)
    except (GetTimeoutError, RayActorError) as error:
        raise LunaError(
            f"the coordinator does not answer ({type(error).__name__}); look at its log in the Ray dashboard, then "
            "`luna serve` again."
        ) from error


def _await_cards(each: float, replicas: int) -> None:
    """Wait until trainers that were ended have given back what the engine asks for.

    Raises:
        LunaError: others hold it.
    """
    needed, deadline = each * replicas, time.monotonic() + _FREE_S
    while (free := ray.available_resources().get("GPU", 0.0)) < needed - 1e-3:
        if time.monotonic() > deadline:
            raise LunaError(
                f"the engine asks for {replicas} x {each:g} GPU and {free:g} are free: a generation that is being "
                "raised, or another program on this cluster, holds the others. Wait for it or stop it, then "
                "`luna serve` again; `luna status` shows it."
            )
        time.sleep(0.1)
