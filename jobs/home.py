"""`luna init`: make a home with its settings, base, ledger and first lineage, or begin another lineage in it."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import typer

from jobs.context import ADDRESS_OPTION, HOME_OPTION, friendly_errors, out, resolve_home
from ledger.errors import LunaError
from ledger.home import Home
from ledger.store import Ledger

logger = logging.getLogger(__name__)

FIRST_LINEAGE = "main"


def init(
    profile: str | None = typer.Option(None, help="A file under configs/: tiny, smol, rig, rig-1b. Default smol."),
    lineage: str | None = typer.Option(None, help="Name of the lineage to begin; default main."),
    home: Path | None = HOME_OPTION,
    address: str | None = ADDRESS_OPTION,
) -> None:
    """Make a home. On an existing one nothing is changed, unless you name another lineage, which becomes current."""
    with friendly_errors():
        place = resolve_home(home)
        there, current = lineages_of(place)
        if there and place.settings_file.exists() and lineage is None:
            _refuse_other_profile(place, profile)
            _restore_base(place)
            out.print(described(place), soft_wrap=True, markup=False)
            out.print(
                f"nothing was changed; luna init --lineage NAME begins another lineage (there: {', '.join(there)})"
            )
        else:
            make_home(place, profile, address, lineage or current or FIRST_LINEAGE)


def lineages_of(home: Home) -> tuple[list[str], str]:
    """Names of the lineages of a home, oldest first, and the current one's; nothing where there is no ledger yet."""
    if not home.db.exists():
        return [], ""
    with Ledger.open(home) as ledger:
        names = [lineage.name for lineage in ledger.lineages()]
        return names, ledger.current_lineage() if names else ""


def described(home: Home) -> str:
    """A home that exists, in one line."""
    from cluster.settings import settings_of

    with Ledger.open(home) as ledger:
        lineage, head = ledger.current_lineage(), ledger.head()
    stands = "no generation accepted yet" if head is None else f"head G{head}"
    return f"home {home.root}: profile {settings_of(home).profile}, current lineage {lineage}, {stands}"


def _restore_base(home: Home) -> None:
    """Prepare the current lineage's base again if its folder is missing."""
    with Ledger.open(home) as ledger:
        current = ledger.current_lineage()
        (sha,) = (lineage.base_sha for lineage in ledger.lineages() if lineage.name == current)
    if not home.base_dir(sha).is_dir():
        from cluster.settings import settings_of
        from trainers.models.frozen import prepare_base

        prepare_base(settings_of(home).base, home)


def make_home(
    home: Home,
    profile: str | None,
    address: str | None,
    lineage: str = FIRST_LINEAGE,
    overrides: dict[str, Any] | None = None,
) -> None:
    """Write `luna.toml`, prepare the base, and have the coordinator create the ledger and the lineage, if need be.

    The lineage becomes the current one. What is there already stays as it is.

    Raises:
        LunaError: the home exists with another profile, the base cannot be had, or a generation runs in it that the
            change of lineage would disturb.
    """
    from cluster.client.coordinator import ask, coordinator_for
    from cluster.ray_head import connect
    from cluster.settings import settings_of, write_settings
    from trainers.models.frozen import prepare_base

    home.create()
    _refuse_other_profile(home, profile)
    if not home.settings_file.exists():
        write_settings(home, profile or "smol", overrides)
    with ThreadPoolExecutor(1) as beside:
        # Starting Ray and preparing the base take half a minute each, on different cores.
        rig = beside.submit(connect, address)
        base = prepare_base(settings_of(home).base, home)
        rig.result()
    ask(coordinator_for(home), "create_lineage", lineage, base.sha)
    logger.info(f"{described(home)}, base {base.source} ({base.sha[:12]})")


def _refuse_other_profile(home: Home, profile: str | None) -> None:
    from cluster.settings import settings_of

    if profile is None or not home.settings_file.exists():
        return
    present = settings_of(home).profile
    if present != profile:
        raise LunaError(
            f"{home.root} is a home of profile {present!r} already; edit its luna.toml, or name another home."
        )
