"""The preference pairs of a generation with two channels: from files, from teacher labels, from conversations."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.context import log_some
from ledger.errors import LunaError
from ledger.home import Home

if TYPE_CHECKING:
    from cluster.settings import Settings
    from curriculum.preferences.pairs import Preference

logger = logging.getLogger(__name__)


def frozen_preferences(home: Home, settings: Settings, files: Sequence[Path]) -> str:
    """Put all pairs together, freeze them under `data/`, and return their SHA; empty if there are none, or one channel.

    Raises:
        LunaError: a file holds no pair, or files are named for a generation that learns from examples alone.
    """
    from curriculum.preferences.pairs import freeze_preferences

    if settings.channels.mode != "dual":
        if files:
            raise LunaError(f"{files[0]} has preference pairs, and this generation learns from examples alone; add "
                            "--channels dual, or set [channels] mode in luna.toml.")  # fmt: skip
        return ""
    pairs = gather(home, settings, files)
    told = Counter(pair.origin for pair in pairs)
    by_origin = "".join(f", {count} {origin}" for origin, count in sorted(told.items()))
    logger.info("%d preference pairs%s", len(pairs), by_origin)
    return freeze_preferences(pairs, home) if pairs else ""


def gather(home: Home, settings: Settings, files: Sequence[Path]) -> list[Preference]:
    """Every pair of the files, of the home's inbox, its label files and its conversations, merged."""
    from curriculum.preferences.pairs import correction_pairs, merge, read_preference_set, valence_pairs
    from curriculum.preferences.sources import judged_turns, labelled_pairs, read_pairs
    from curriculum.reward import read_labels
    from ledger.store import Stores

    sets: list[list[Preference]] = []
    for file in files:
        pairs, bad = read_pairs(file)
        log_some(f"lines of {file.name} left out", bad)
        sets.append(pairs)
    sets += [read_preference_set(file) for file in sorted(home.pairs_dir.glob("*.parquet"))]
    for file in sorted(home.data_dir.glob("teacher/*/labels.jsonl")):
        report = read_labels(file, out_of_range=settings.reward.out_of_range)
        log_some(f"values and lines of {file} are not as they should be", [*report.out_of_range, *report.bad_lines])
        sets.append(labelled_pairs(report.labels, settings.channels.min_margin, settings.channels.pairs_per_prompt))
    if home.db.exists():
        with Stores.open(home) as stores:
            turns = judged_turns(stores.conversations.labelled_turns())
        sets += [correction_pairs(turns), valence_pairs(turns)]
    return merge(*sets)
