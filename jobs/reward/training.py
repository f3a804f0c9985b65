"""Training the home's reward model and putting it to use."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.context import log_some
from ledger.errors import LunaError
from ledger.home import Home

if TYPE_CHECKING:
    from cluster.settings import Settings
    from trainers.reward.rows import RewardRows

logger = logging.getLogger(__name__)


def reward_settings(home: Home, overrides: dict[str, Any]) -> Settings:
    """The home's settings where it has any, else the defaults; `overrides` are of the table [reward]."""
    from cluster.settings import Settings, settings_of

    if home.settings_file.exists():
        return settings_of(home, {"reward": overrides})
    return Settings.model_validate({"reward": overrides})


def rows_of(
    home: Home, settings: Settings, labels: list[Path] | None, preferences: list[Path] | None
) -> tuple[RewardRows, dict[str, Any]]:
    """The rows of all files, and what was found out of range or unreadable in them; that is also said."""
    from curriculum.reward import read_labels, read_preferences
    from trainers.reward.rows import pairs_of_labels, reward_rows

    files = labels or sorted(home.data_dir.glob("teacher/*/labels.jsonl"))
    if not files:
        raise LunaError(f"{home.root} has no labels; run `luna teach label`, or name files with --labels.")
    reports = [read_labels(file, out_of_range=settings.reward.out_of_range) for file in files]
    pair_reports = [read_preferences(file) for file in preferences or []]
    outside = [value for report in reports for value in report.out_of_range]
    bad = [line for report in reports for line in report.bad_lines]
    bad += [line for report in pair_reports for line in report.bad_lines]
    log_some(f"values out of range ({settings.reward.out_of_range})", outside)
    log_some("lines left out", bad)
    found = [label for report in reports for label in report.labels]
    if not found:
        raise LunaError(f"{', '.join(map(str, files))}: no usable label; run `luna teach label` again.")
    pairs = [pair for report in pair_reports for pair in report.pairs] if preferences else pairs_of_labels(found)
    by_source = {source: sum(label.source == source for label in found) for source in {f.source for f in found}}
    notes = {
        "out_of_range": len(outside),
        "out_of_range_rule": settings.reward.out_of_range,
        "lines_left_out": len(bad),
        "labels_by_source": dict(sorted(by_source.items())),
    }
    return reward_rows(found, pairs), notes


def train_here(home: Home, settings: Settings, rows: RewardRows, notes: dict[str, Any], seed: int) -> Path:
    """Train a model on the rows and put it to use in this home; returns its folder.

    Raises:
        LunaError: as `trainers.reward.train.train_reward_model`.
    """
    from trainers.reward.model import make_current
    from trainers.reward.train import train_reward_model

    run_dir = home.run_dir(f"reward-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{seed}")
    started = time.monotonic()
    folder = train_reward_model(rows, settings.reward, seed, home.rewards_dir, run_dir, notes)
    make_current(home, folder)
    logger.info(f"trained in {time.monotonic() - started:.0f} s; curves: tensorboard --logdir {run_dir}")
    return folder


def model_folder(home: Home, sha: str | None) -> Path:
    """A model of the home by the first characters of its SHA; None means the one in use."""
    from trainers.reward.model import current_model

    if sha is None:
        return current_model(home)
    found = sorted(path for path in home.rewards_dir.glob(f"{sha}*") if path.is_dir())
    if len(found) != 1:
        raise LunaError(f"{sha!r} names {len(found)} models under {home.rewards_dir}; give more of the SHA.")
    return found[0]


def serve_it(home: Home) -> None:
    """Have a server that may be running score with the home's current model; what goes wrong there is only said."""
    from cluster.ray_head import join_running

    if not home.serving_file.exists() or not join_running():
        return
    from cluster.server.reward import follow_reward

    try:
        served = follow_reward(home)
    except LunaError as error:
        logger.info(f"the server does not score with it: {error}")
    else:
        logger.info(f"the server scores with {served[:12]}" if served else "nothing is being served now")
