"""The serving app as the coordinator and the command line see it: start it, and tell it what to serve."""

from __future__ import annotations

from typing import Any

from cluster.settings import settings_of
from ledger.errors import LunaError
from ledger.home import Home
from ledger.store import Ledger
from serving import app

_ANSWER_S = 60


def start(home: Home) -> dict[str, Any]:
    """Serve a home's current lineage; returns the app's state.

    Raises:
        LunaError: nothing to serve, or the app cannot be started.
    """
    with Ledger.open(home) as ledger:
        head = ledger.head()
        if head is None:
            raise LunaError("no generation was accepted yet, so there is nothing to serve; `luna demo` raises some.")
        base_sha = ledger.generation(head)[0].base_sha
    settings = settings_of(home).serving
    if app.running() is not None and (found := _result(serving(home).state.remote())["url"]) != app.url(settings):
        raise LunaError(f"Luna is served at {found} already; `luna serve --stop` first, to change the address.")
    handle = app.run(home, base_sha, settings)
    state: dict[str, Any] = _result(handle.state.remote())
    return state


def serving(home: Home) -> Any:
    """The handle of the app that serves this home.

    Raises:
        LunaError: none runs, or it serves another home.
    """
    handle = app.running()
    if handle is None:
        raise LunaError("Luna is not being served; start it with `luna serve`.")
    other = _result(handle.state.remote())["home"]
    if other != str(home.root):
        raise LunaError(f"the server on this cluster serves {other}; stop it with `luna serve --stop` first.")
    return handle


def deploy(home: Home, gen: int) -> dict[str, Any]:
    """Serve a recorded generation as the current one."""
    changed: dict[str, Any] = _result(serving(home).deploy.remote(gen))
    return changed


def load(home: Home, gen: int) -> None:
    """Serve a recorded generation under its own number only."""
    _result(serving(home).deploy.remote(gen, None, False))


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


def _result(response: Any) -> Any:
    """What the app answers, a user's error unwrapped."""
    from ray.exceptions import RayError

    try:
        return response.result(timeout_s=_ANSWER_S)
    except TimeoutError as error:
        raise LunaError(f"the server did not answer within {_ANSWER_S} s; `luna serve` starts it again.") from error
    except RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, LunaError):
            raise cause from None
        raise LunaError(f"the server failed: {str(error).strip().splitlines()[-1]}") from error
