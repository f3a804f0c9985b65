"""Starting the server for a home.

Who writes the home is handed in by the caller: the coordinator itself talks to the running server, so nothing here
may import it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from cluster.server import client
from cluster.server.reward import loader
from cluster.settings import settings_of
from ledger.errors import LunaError
from ledger.home import Home
from ledger.store import Ledger
from serving import app
from serving.settings import ServingSettings, SharedSettings


def start(home: Home, coordinator_for: Callable[[Home], Any]) -> dict[str, Any]:
    """Serve a home's current lineage; returns the app's state.

    Args:
        coordinator_for: gives the coordinator that writes a home (:func:`cluster.client.coordinator.coordinator_for`).

    Raises:
        LunaError: nothing to serve, or the app cannot be started.
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
    handle = app.run(home, *served, partial(coordinator_for, home), loader(home))
    return {**client.result(handle.state.remote()), "url": app.url(settings)}


class ToServe(NamedTuple):
    """What the apps are made from."""

    base_sha: str
    settings: ServingSettings
    shared: SharedSettings


def to_serve(home: Home, coordinator_for: Callable[[Home], Any]) -> ToServe:
    """What a home's current lineage is served with.

    Raises:
        LunaError: no generation was accepted yet.
    """
    whole = settings_of(home)
    coordinator_for(home)  # will store what is said; it also brings an older home's database up to date
    with Ledger.open(home) as ledger:
        head = ledger.head()
        if head is None:
            raise LunaError("no generation was accepted yet, so there is nothing to serve; `luna demo` raises some.")
        base_sha = ledger.generation(head)[0].base_sha
    return ToServe(base_sha, whole.serving, SharedSettings(gates=whole.gates, text=whole.text))
