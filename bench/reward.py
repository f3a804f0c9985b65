"""The reward model on labels of one's own: trained, timed, and measured on held-out prompts beside the baselines.

    python -m bench.reward LABELS.jsonl PREFERENCES.jsonl [--seed 1] [--splits 10]

The seed decides which fifth of the prompts is held out. `--splits` repeats the split with further seeds, to show what
one split is worth. Nothing of the files is kept but these figures.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", type=Path)
    parser.add_argument("preferences", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--splits", type=int, default=0, help="further splits, of seeds after --seed")
    arguments = parser.parse_args()

    from curriculum.reward import read_labels, read_preferences
    from trainers.config import RewardSettings
    from trainers.reward.rows import reward_rows

    settings = RewardSettings()
    labels = read_labels(arguments.labels, out_of_range=settings.out_of_range)
    pairs = read_preferences(arguments.preferences)
    rows = reward_rows(labels.labels, pairs.pairs)
    found = measured(rows, settings, arguments.seed)
    others = further_splits(rows, settings, range(arguments.seed + 1, arguments.seed + 1 + arguments.splits))
    left_out = len(labels.bad_lines) + len(pairs.bad_lines)
    held_out = f"{found['rows']} answers, {found['prompts']} prompts, {found['pairs']} pairs"
    notes = [
        f"{rows.labelled} labels, {len(rows.pairs)} pairs, {len(set(rows.groups))} prompts; {left_out} lines left out",
        f"{len(labels.out_of_range)} values out of range (rule: {settings.out_of_range})",
        f"held out by prompt with seed {arguments.seed}: {held_out}; 95 % bootstrap intervals over prompts",
        f"reading, training, measuring and saving took {found['wall_s']:.0f} s, {found['cpu_s']:.0f} CPU-seconds",
        "rank correlation ahead of {over}: {value:.3f} [{low:.3f}, {high:.3f}]".format(**found["mean_spearman_lead"]),
        *others,
    ]
    keep_report(found, notes)


def measured(rows: Any, settings: Any, seed: int) -> dict[str, Any]:
    """Train as `luna reward train` does, load what it saved, report on it."""
    from trainers.reward.encoder import load_encoder
    from trainers.reward.model import load_reward_model
    from trainers.reward.report import report
    from trainers.reward.train import train_reward_model
    from trainers.runtime import default_device

    logging.basicConfig(format="%(message)s", level=logging.INFO)
    with tempfile.TemporaryDirectory(prefix="luna-bench-") as folder:
        place = Path(folder)
        wall, cpu = time.monotonic(), time.process_time()
        saved = train_reward_model(rows, settings, seed, place / "models", place / "run", {})
        spent = {"wall_s": time.monotonic() - wall, "cpu_s": time.process_time() - cpu}
        model = load_reward_model(saved, default_device())
        logging.info("measuring beside the baselines")
        whole = report(
            model, rows, lambda: load_encoder(settings.encoder, None, None, settings.max_tokens, default_device())
        )
    return {**whole, **spent}


def further_splits(rows: Any, settings: Any, seeds: range) -> list[str]:
    """What other splits give: a note for each figure, mean, spread and range over the seeds."""
    if not seeds:
        return []
    from trainers.reward.encoder import load_encoder
    from trainers.reward.model import model_inputs
    from trainers.reward.report import measure
    from trainers.reward.train import fit
    from trainers.runtime import default_device

    encoder = load_encoder(settings.encoder, settings.revision, settings.blocks, settings.max_tokens, default_device())
    inputs = model_inputs(encoder, rows.prompts, rows.responses)
    found = []
    for seed in seeds:
        done = fit(rows, inputs, encoder, settings, seed)
        found.append(measure(done.model, inputs[done.test], rows, done.test, rows.targets[done.train].nanmean(0)))
        print(f"seed {seed}: {json.dumps({k: v for k, v in found[-1].items() if k != 'values'})}", file=sys.stderr)
    names = {
        "mean_spearman": "mean Spearman",
        "mae_over_mean_predictor": "error / mean predictor's",
        "preference_accuracy": "preference accuracy",
    }
    notes = []
    for key, name in names.items():
        values = [split[key] for split in found if split[key] is not None]
        spread = statistics.pstdev(values)
        notes.append(
            f"{len(values)} other splits, {name}: mean {statistics.fmean(values):.3f}, standard deviation "
            f"{spread:.3f}, {min(values):.3f} to {max(values):.3f}"
        )
    return notes


def keep_report(found: dict[str, Any], notes: list[str]) -> None:
    """Print the table and keep it under bench/results/."""
    from bench.report import keep

    def cell(key: str, name: str) -> str:
        figure = found[key].get(name)
        return "{value:.3f} [{low:.3f}, {high:.3f}]".format(**figure) if figure else ""

    predictors = list(found["mae"])
    keys = ("mean_spearman", "mae_over_mean_predictor", "preference_accuracy")
    table = [[name, *(cell(key, name) for key in keys)] for name in predictors]
    by_value = [
        f"{value}: " + ", ".join(f"{name} {v['spearman'][name]:.2f} / {v['mae'][name]:.2f}" for name in predictors)
        for value, v in found["values"].items()
    ]
    header = ["predictor", "mean Spearman", "error / mean predictor's", "preference accuracy"]
    keep(
        "reward", "Reward model", header, table, [*notes, "rank correlation / mean absolute error by value:", *by_value]
    )


if __name__ == "__main__":
    main()
