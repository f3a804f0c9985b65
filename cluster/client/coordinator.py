"""The coordinator as others see it: found, started where there is none, and asked."""

from __future__ import annotations

import time
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from cluster.calls import get, ledger_node, waits_to_start
from cluster.ray_head import NAMESPACE
from ledger.errors import LunaError
from ledger.home import Home

NAME = "luna-coordinator"

_ANSWER_S = 60
"""Longest wait for an answer that takes no work; a process may have to start for it."""

_GONE_S = 10

_LOOKS, _BETWEEN_LOOKS_S = 4, 2.0
"""How often a coordinator that has just died is looked for again before its death is told."""


class CoordinatorDied(LunaError):
    """The coordinator's process ended over a question."""


def find_coordinator() -> Any | None:
    """The coordinator of this cluster, or None."""
    try:
        return ray.get_actor(NAME, namespace=NAMESPACE)
    except ValueError:
        return None


def coordinator_for(home: Home, node: str = "") -> Any:
    """The coordinator that writes this home: the running one, or a new one.

    An idle coordinator of another home makes room; a busy one does not. One that was killed a moment ago keeps its name
    until Ray has started it again or given it up, so that a dead one is looked for again.

    Args:
        node: Ray's id of the node that has the home's `luna.db`; by default as :func:`ledger_node`.

    Raises:
        LunaError: another home's generation is running here, or another process holds this home's ledger.
    """
    root = str(home.root.resolve())
    for _ in range(_LOOKS - 1):
        try:
            return _coordinator_of(root, node)
        except CoordinatorDied:
            time.sleep(_BETWEEN_LOOKS_S)
    return _coordinator_of(root, node)


def _coordinator_of(root: str, node: str) -> Any:
    actor = find_coordinator()
    if actor is not None and (writes := _home_of(actor)) is not None:
        if writes == root:
            ask(actor, "open")
            return actor
        _make_room(actor)
    created = _create(root, node)
    try:
        ask(created, "open")
    except LunaError:
        ray.kill(created, no_restart=True)  # it holds nothing, and would stand in the way of another try
        raise
    return created


def _home_of(actor: Any) -> str | None:
    """The home that a coordinator writes. None where it waits to be started again on a node that is gone; it is ended.

    Raises:
        LunaError: it runs and does not answer.
    """
    try:
        home: str = ask(actor, "home", timeout_s=_ANSWER_S)
    except CoordinatorDied:
        raise
    except LunaError:
        if not waits_to_start(actor):
            raise
        _end(actor)
        return None
    return home


def _create(root: str, node: str) -> Any:
    """Start one where the ledger's SQLite file is on a disk of its own, not behind NFS."""
    from cluster.coordinator import Coordinator  # only here: it brings torch, and a running one needs no class

    remote = ray.remote(Coordinator).options(
        name=NAME,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,  # two commands may ask at once
        num_cpus=0,
        max_restarts=-1,
        max_concurrency=16,
        **ledger_node(node),
    )
    return remote.remote(root)


def _make_room(actor: Any) -> None:
    """Let the idle coordinator of another home go."""
    try:
        ask(actor, "close")
    except CoordinatorDied:
        raise
    except LunaError as error:
        raise LunaError(f"this cluster works for another home, {ask(actor, 'home')}: {error}") from error
    _end(actor)


def _end(actor: Any) -> None:
    """End it for good, and wait until its name is free."""
    ray.kill(actor, no_restart=True)
    deadline = time.monotonic() + _GONE_S
    while find_coordinator() is not None and time.monotonic() < deadline:
        time.sleep(0.05)


def ask(actor: Any, method: str, *arguments: Any, timeout_s: float = _ANSWER_S) -> Any:
    """What the coordinator answers.

    Raises:
        LunaError: what it refuses, that it does not answer in time, or that it died over it.
    """
    try:
        return get(getattr(actor, method).remote(*arguments), timeout_s)
    except GetTimeoutError as error:
        raise LunaError(
            f"the coordinator does not answer within {timeout_s:g} s; look at its log in the Ray dashboard."
        ) from error
    except RayActorError as error:
        raise CoordinatorDied(
            "the coordinator's process ended before it answered; perhaps memory ran out (the Ray dashboard has its "
            "log). Ray starts it again: look at `luna status`, then ask again."
        ) from error
