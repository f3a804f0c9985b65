"""The running server as the coordinator and the command line see it: what it serves, and telling it what to serve."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from ledger.errors import LunaError
from ledger.home import Home
from ledger.roles import Role
from serving import app
from serving.api.errors import Refused

_ANSWER_S = 60
_MEASURE_S = 600
"""How long one batch of an evaluation may take."""


def serving(home: Home) -> Any:
    """The handle of the app that serves this home.

    Raises:
        LunaError: none runs, or it serves another home.
    """
    return _found(home)[0]


def state(home: Home) -> dict[str, Any]:
    """What is served, as one replica says.

    Raises:
        LunaError: as :func:`serving`.
    """
    return _found(home)[1]


def _found(home: Home) -> tuple[Any, dict[str, Any]]:
    handle = app.running()
    if handle is None:
        raise LunaError("Luna is not being served; start it with `luna serve`.")
    told: dict[str, Any] = result(handle.state.remote())
    if told["home"] != str(home.root):
        raise LunaError(f"the server on this cluster serves {told['home']}; stop it with `luna serve --stop` first.")
    return handle, told


def deploy(home: Home, gen: int) -> dict[str, Any]:
    """Serve a recorded generation as the current one, in every replica: none switches before all are ready."""
    handle = serving(home)
    loaded = everywhere(handle, "load", gen)
    return {**everywhere(handle, "switch", gen), "load_s": loaded["load_s"]}


def load(home: Home, gen: int, shas: Mapping[Role, str] | None = None) -> None:
    """Serve a generation under its own number only: a recorded one, or a candidate by its adapters."""
    everywhere(serving(home), "load", gen, shas)


def retire_candidate(home: Home, gen: int) -> None:
    """Serve a candidate no longer, where a server runs; the current names never need it."""
    if app.running() is not None:
        with suppress(LunaError):  # a server of another home, or one that is being replaced: it does not hold it
            everywhere(serving(home), "retire", gen)


def asked_one(handle: Any, method: str, *arguments: Any) -> Any:
    """What one replica answers."""
    return result(getattr(handle, method).remote(*arguments))


def asker(home: Home) -> Callable[..., Any]:
    """Calls a method of one engine replica: `ask("score", ...)`."""
    handle = serving(home)
    return lambda method, *arguments: result(getattr(handle, method).remote(*arguments), _MEASURE_S)


def follow_head(home: Home, head: int | None) -> dict[str, Any]:
    """Serve the ledger's head, where a server runs. A server that refuses does not undo a verdict: it is told.

    Returns:
        served, and `reason` if not.
    """
    if head is None:
        return {"served": False, "reason": "there is no head"}
    try:
        deploy(home, head)
    except LunaError as error:
        return {"served": False, "reason": str(error)}
    return {"served": True, "generation": head}


def everywhere(handle: Any, method: str, *arguments: Any) -> dict[str, Any]:
    """What a replica answers; all that live are asked. One that starts reads from disk what the others serve."""
    from ray.exceptions import RayActorError

    def ask() -> list[dict[str, Any]]:
        found = handle.broadcast(method, *arguments).results(timeout_s=_ANSWER_S, return_exceptions=True)
        alive = [answer for answer in found if not isinstance(answer, RayActorError)]
        for answer in alive:
            if isinstance(answer, Exception):
                raise answer
        return alive

    answers: list[dict[str, Any]] = _asked(ask)
    if not answers:
        raise LunaError("no replica is ready; it starts by itself, try again in a minute.")
    return answers[-1]


def result(response: Any, timeout_s: float = _ANSWER_S) -> Any:
    """What one replica answers."""
    return _asked(lambda: response.result(timeout_s=timeout_s))


def _asked(ask: Callable[[], Any]) -> Any:
    """The answer, a user's error unwrapped."""
    from ray.exceptions import RayError

    try:
        return ask()
    except TimeoutError as error:
        raise LunaError("the server did not answer in time; `luna serve` starts it again.") from error
    except RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, LunaError):
            raise cause from None
        if isinstance(cause, Refused):
            raise LunaError(str(cause)) from None
        raise LunaError(f"the server failed: {app.last_line(error)}") from error
