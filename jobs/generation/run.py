"""Asking the coordinator for a generation and waiting for its verdict."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ledger.errors import LunaError
from ledger.home import Home

logger = logging.getLogger(__name__)

_ADMISSION_S = 1800.0
"""Longest wait until data is read, compared with what was taken, and split."""


def raise_generation(
    home: Home,
    address: str | None,
    data: tuple[str, ...] | None = None,
    overrides: dict[str, Any] | None = None,
    note: str = "",
    preferences: Sequence[Path] = (),
) -> dict[str, Any]:
    """Ask the coordinator for a generation and follow it to its end.

    Args:
        data: inbox files by SHA; None takes the whole inbox. Conversations join them by the settings.
        overrides: settings on top of `luna.toml`, for this generation only.
        preferences: further files of preference pairs, for a generation with two channels.

    Returns:
        gen_id, run_id, and how it ended: verdict, reason, alphas, stopped.

    Raises:
        LunaError: it could not start, failed, or was interrupted; the message says how to go on.
    """
    from cluster.client.coordinator import ask, coordinator_for
    from cluster.ray_head import connect
    from cluster.request import GenerationRequest, PinnedBase
    from cluster.settings import settings_of
    from jobs.generation.follow import follow
    from jobs.generation.preferences import frozen_preferences
    from trainers.models.frozen import prepare_base

    settings = settings_of(home, overrides)
    base = prepare_base(settings.base, home)
    shas = data if data is not None else tuple(sorted(path.stem for path in home.inbox_dir.glob("*.parquet")))
    pairs_sha = frozen_preferences(home, settings, preferences)
    pinned = PinnedBase(source=base.source, sha=base.sha)
    request = GenerationRequest(settings=settings, base=pinned, data=shas, preferences=pairs_sha, note=note)
    rig = connect(address)
    if rig.dashboard:
        logger.info(f"Ray at {rig.address}, dashboard {rig.dashboard}")
    coordinator = coordinator_for(home)
    admitted = ask(coordinator, "submit", request, timeout_s=_ADMISSION_S)
    if admitted.resumed:
        run = f"G{admitted.gen_id} (run {admitted.run_id})"
        logger.info(f"resuming {run} at {admitted.next_step}; then ask again")
    ended = follow(admitted.run_id)
    if ended.state == "paused":
        raise LunaError(ended.reason)
    if ended.judged is None:
        hint = "" if ended.state == "failed" else " Run `luna generation run` to resume."
        raise LunaError(f"G{admitted.gen_id} did not finish: {ended.reason}{hint}")
    return {**dict(admitted), **dict(ended.judged)}
