"""`luna status`: what runs now, asked without starting anything, and what has grown since the last generation."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.context import HOME_OPTION, JSON_OPTION, friendly_errors, out, resolve_home
from ledger.home import Home
from ledger.rules.cadence import Cadence, CadenceSettings, cadence
from ledger.rules.karma import KarmaState, karma_state
from ledger.store import Ledger, Stores

if TYPE_CHECKING:
    from cluster.steps.lessons import News


def status(json_: bool = JSON_OPTION, home: Path | None = HOME_OPTION) -> None:
    """Head, age, karma, what is new, the last generation's gates, and what runs now."""
    from jobs.generation.show import print_status

    with friendly_errors():
        place = resolve_home(home)
        running, dashboard = running_now(place)
        print_status(place, running, dashboard, growth(place), out, json_)


def running_now(home: Home) -> tuple[dict[str, Any] | None, str]:
    """(the coordinator's state, dashboard URL); (None, "") when no Ray runs here or it works for another home."""
    Ledger.open(home).close()
    from cluster.ray_head import describe, join_running

    if not join_running():
        return None, ""
    from cluster.calls import get
    from cluster.client.coordinator import find_coordinator

    rig = describe(started=False)
    actor = find_coordinator()
    if actor is None or get(actor.home.remote(), 10) != str(home.root.resolve()):
        return None, rig.dashboard
    return get(actor.state.remote(), 10).model_dump(mode="json"), rig.dashboard


def growth(home: Home) -> dict[str, Any]:
    """Karma, and what conversations teach that the head's line has not taken (DESIGN section 8)."""
    from cluster.settings import settings_of
    from cluster.steps.lessons import news

    settings = settings_of(home).cadence
    with Stores.open(home) as stores:
        karma, new = karma_of(stores), news(stores, stores.ledger.current_lineage())
    now = cadence_of(new, settings)
    return {
        "karma": {"earned": karma.earned, "threshold": karma.threshold, "progress": karma.progress, "due": karma.due},
        "cadence": {
            "conversation_pairs": len(new.lessons), "conversation_pairs_needed": settings.memory_pairs,
            "preference_pairs": new.pairs, "preference_pairs_needed": settings.reward_pairs,
            "due": now.due, "quiet": now.quiet,
        },
    }  # fmt: skip


def karma_of(stores: Stores) -> KarmaState:
    """The current lineage's karma."""
    ledger = stores.ledger
    return karma_state(stores.conversations.karma_earned(ledger.current_lineage()), ledger.age() or 0)


def cadence_of(new: News, settings: CadenceSettings) -> Cadence:
    """Where the home stands at this hour."""
    return cadence(len(new.lessons), new.pairs, time.localtime().tm_hour, settings)
