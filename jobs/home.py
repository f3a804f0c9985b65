"""Making a home: settings, base, ledger, first lineage."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jobs.context import say
from ledger.errors import LunaError
from ledger.home import Home


def make_home(
    home: Home,
    profile: str,
    address: str | None,
    lineage: str = "main",
    overrides: dict[str, Any] | None = None,
) -> None:
    """Write `luna.toml`, prepare the base, and let the coordinator create the ledger and its first lineage.

    Doing it again with the same profile changes nothing.

    Raises:
        LunaError: the home exists with another profile, or the base cannot be had.
    """
    from cluster.calls import get
    from cluster.coordinator import coordinator_for
    from cluster.ray_head import connect
    from cluster.settings import settings_of, write_settings
    from trainers.models.frozen import prepare_base

    home.create()
    if home.settings_file.exists():
        present = settings_of(home).profile
        if present != profile:
            raise LunaError(
                f"{home.root} is a home of profile {present!r} already; edit its luna.toml, or name another home."
            )
    else:
        write_settings(home, profile, overrides)
    with ThreadPoolExecutor(1) as beside:
        # Starting Ray and preparing the base take half a minute each, on different cores.
        rig = beside.submit(connect, address)
        base = prepare_base(settings_of(home).base, home)
        rig.result()
    get(coordinator_for(home).create_lineage.remote(lineage, base.sha))
    say(f"home {home.root}: profile {profile}, base {base.source} ({base.sha[:12]}), lineage {lineage}")
