"""`luna serve`, `luna deploy`, `luna rollback`: answer users, and choose which generation answers.

:func:`engine_app`, :func:`gateway_app` and :func:`reward_app` are for those who declare what Ray Serve runs (`serve
deploy`, RayService): each is an `import_path` of a Serve config, whose argument `home` names the home's folder.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from jobs.context import ADDRESS_OPTION, GEN_ARGUMENT, HOME_OPTION, friendly_errors, gen_number, out, resolve_home
from ledger.home import Home
from ledger.store import Ledger

logger = logging.getLogger(__name__)

_ROLLBACK_S = 300.0
"""Longest wait until every replica of the server answers with the earlier generation."""


def serve_command(
    stop: bool = typer.Option(False, "--stop", help="Take the server down."),
    home: Path | None = HOME_OPTION,
    address: str | None = ADDRESS_OPTION,
) -> None:
    """Answer users: an OpenAI-compatible API over the current lineage."""
    with friendly_errors():
        if stop:
            stop_serving(address)
        else:
            serve(resolve_home(home), address, out)


def deploy_command(
    gen: str = GEN_ARGUMENT, home: Path | None = HOME_OPTION, address: str | None = ADDRESS_OPTION
) -> None:
    """Serve another generation as luna-<role>; the ledger's head stays where it is."""
    with friendly_errors():
        deploy(resolve_home(home), gen_number(gen), address, out)


def rollback_command(
    gen: str = GEN_ARGUMENT, home: Path | None = HOME_OPTION, address: str | None = ADDRESS_OPTION
) -> None:
    """Move the head to an accepted generation; a running server follows."""
    from cluster.client.coordinator import ask, coordinator_for
    from cluster.ray_head import connect

    with friendly_errors():
        place = resolve_home(home)
        Ledger.open(place).close()
        connect(address)
        moved = ask(coordinator_for(place), "rollback", gen_number(gen), timeout_s=_ROLLBACK_S)
        out.print(f"head: G{moved['from_gen']} → G{moved['to_gen']}" + (", served" if moved["served"] else ""))


def serve(home: Home, address: str | None, out: Console) -> None:
    """Start the apps (or replace running ones) and say where they are. They outlive this command."""
    from cluster.client.coordinator import coordinator_for
    from cluster.ray_head import connect
    from cluster.server.start import start

    began = time.monotonic()
    connect(address)
    logger.info("starting the engine; on a CPU this takes about a minute")
    state = start(home, coordinator_for)
    url = state["url"]
    out.print(f"Luna is at {url} after {time.monotonic() - began:.0f} s ({state['engine']}): {_names(state)}")
    for gen, problem in state["problems"].items():
        out.print(f"{gen} is not served: {problem}", markup=False, soft_wrap=True)
    if home.reward_pointer.exists():
        out.print("answers are scored by the reward model, which may take a few seconds more to start")
    out.print(f"the page: {url}/ · the API for OpenAI's clients: {url}/v1", soft_wrap=True)
    out.print(
        f"  curl {url}/v1/chat/completions -H 'content-type: application/json' \\\n"
        '    -d \'{"model": "luna-dialectical", "max_tokens": 40, '
        '"messages": [{"role": "user", "content": "Hello!"}]}\'',
        markup=False,
        soft_wrap=True,
    )
    out.print("next: luna deploy G1 · luna serve --stop")


def stop_serving(address: str | None) -> None:
    """Take Luna's apps down; what else Ray Serve runs goes on."""
    from cluster.ray_head import connect, join_running
    from serving import app

    if address is not None:
        connect(address)
    elif not join_running():  # Ray is not started to find that nothing runs on it
        logger.info("Luna was not being served")
        return
    logger.info("Luna is no longer served" if app.stop() else "Luna was not being served")


def deploy(home: Home, gen: int, address: str | None, out: Console) -> None:
    """Let `luna-<role>` mean another generation; the ledger's head stays."""
    from cluster.ray_head import connect
    from cluster.server.client import deploy as tell

    connect(address)
    changed = tell(home, gen)
    out.print(
        f"{_names(changed)}; loaded in {changed['load_s']:.2f} s, switched in {1000 * changed['switch_s']:.1f} ms"
    )


def _names(state: dict[str, Any]) -> str:
    current = "none" if state["current"] is None else f"G{state['current']}"
    others = ", ".join(f"G{gen}" for gen in state["generations"] if gen != state["current"])
    return f"luna-<role> is {current}" + (f", also served: {others}" if others else "") + ", base"


def engine_app(args: dict[str, str]) -> Any:
    """The engine behind /v1, as an application that is not started.

    Raises:
        LunaError: nothing to serve, or an address that others reach without LUNA_API_KEY.
    """
    return _applications(args)[0]


def gateway_app(args: dict[str, str]) -> Any:
    """The gateway behind everything else; raises as :func:`engine_app`."""
    return _applications(args)[1]


def reward_app(args: dict[str, str]) -> Any:
    """The reward model behind /reward; without a model yet it waits for one."""
    from cluster.calls import get, ledger_node
    from cluster.client.coordinator import coordinator_for
    from cluster.server.reward import loader
    from cluster.settings import settings_of
    from serving import app

    home = Home(Path(args["home"]))
    settings = settings_of(home).serving
    node = get(coordinator_for(home).node.remote())
    return app.reward_app(settings, app.Places(ledger_node(node)), loader(home), app.key_for(settings))


def _applications(args: dict[str, str]) -> tuple[Any, Any]:
    from cluster.client.coordinator import coordinator_for
    from cluster.server.start import to_serve
    from serving.app import applications

    home = Home(Path(args["home"]))
    return applications(home, *to_serve(home, coordinator_for))
