"""The generation job: raise one generation and wait for its verdict.

    luna generation run
    ray job submit --working-dir . -- python -m jobs.generation.run --profile tiny

The second form makes the home and its data if they are missing, so that it runs on a bare cluster.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from jobs.context import ADDRESS_OPTION, HOME_OPTION, err, friendly_errors, out, resolve_home, say
from ledger.errors import LunaError
from ledger.home import Home

CHANNELS_OPTION = typer.Option(
    None, "--channels", help="sft: examples alone; dual: preference pairs as well. Default the settings'."
)
PREFERENCES_OPTION = typer.Option(
    None, "--preferences", help="Files of preference pairs beside what the home has of labels and corrections."
)


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
        data: inbox files by SHA; None takes the whole inbox.
        overrides: settings on top of `luna.toml`, for this generation only.
        preferences: further files of preference pairs, for a generation with two channels.

    Returns:
        gen_id, run_id, and how it ended: verdict, reason, alpha.

    Raises:
        LunaError: it could not start, failed, or was interrupted; the message says how to go on.
    """
    from cluster.calls import get
    from cluster.coordinator import coordinator_for
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
        say(f"Ray at {rig.address}, dashboard {rig.dashboard}")
    coordinator = coordinator_for(home)
    admitted = get(coordinator.submit.remote(request))
    if admitted.resumed:
        say(f"resuming G{admitted.gen_id} (run {admitted.run_id}) at {admitted.next_step}; then ask again")
    ended = follow(admitted.run_id)
    if ended.state == "paused":
        raise LunaError(ended.reason)
    if ended.judged is None:
        hint = "" if ended.state == "failed" else " Run `luna generation run` to resume."
        raise LunaError(f"G{admitted.gen_id} did not finish: {ended.reason}{hint}")
    return {**dict(admitted), **dict(ended.judged)}


def main(
    profile: str = typer.Option("tiny", help="Profile for a home that does not exist yet."),
    total: int = typer.Option(1000, help="Examples a role for a home whose inbox is empty."),
    steps: int | None = typer.Option(None, help="Optimizer steps, instead of the profile's."),
    channels: str | None = CHANNELS_OPTION,
    preferences: list[Path] = PREFERENCES_OPTION,
    home: Path | None = HOME_OPTION,
    address: str | None = ADDRESS_OPTION,
) -> None:
    """Raise one generation; make the home and a recipe for every role first where there is none."""
    from jobs.curriculum import build_into_inbox
    from jobs.generation.show import print_generation
    from jobs.home import make_home

    with friendly_errors():
        place = resolve_home(home)
        if not place.settings_file.exists():
            make_home(place, profile, address)
        if not any(place.inbox_dir.glob("*.parquet")):
            build_into_inbox(place, "recipe", total, seed=1)
        overrides: dict[str, Any] = {"train": {"steps": steps}} if steps else {}
        if channels is not None:
            overrides["channels"] = {"mode": channels}
        result = raise_generation(place, address, overrides=overrides, preferences=preferences or ())
        print_generation(place, result["gen_id"], out)
        err.print(f"G{result['gen_id']}: {result['verdict']}")


if __name__ == "__main__":
    typer.run(main)
