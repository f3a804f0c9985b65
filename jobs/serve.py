"""`luna serve` and `luna deploy`: start answering users, and choose which generation answers."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console

from jobs.context import say
from ledger.home import Home


def serve(home: Home, address: str | None, out: Console) -> None:
    """Start the apps (or replace running ones) and say where they are. They outlive this command."""
    from cluster.coordinator import coordinator_for
    from cluster.ray_head import connect
    from cluster.server.start import start

    began = time.monotonic()
    connect(address)
    say("starting the engine; on a CPU this takes about a minute")
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


def stop(address: str | None) -> None:
    """Take Luna's apps down; what else Ray Serve runs goes on."""
    from cluster.ray_head import connect
    from jobs.status import join_running_ray
    from serving import app

    if address is not None:
        connect(address)
    elif not join_running_ray():  # Ray is not started to find that nothing runs on it
        say("Luna was not being served")
        return
    say("Luna is no longer served" if app.stop() else "Luna was not being served")


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
