"""`luna reward`: train the reward model on labels, measure it, look into its judgements, put it to use."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from jobs.context import ADDRESS_OPTION, HOME_OPTION, JSON_OPTION, friendly_errors, out, resolve_home
from jobs.reward.health import health
from jobs.reward.plot import plot
from ledger.errors import LunaError
from ledger.home import Home

if TYPE_CHECKING:
    from cluster.settings import Settings
    from trainers.reward.train import RewardRows

logger = logging.getLogger(__name__)

app = typer.Typer(no_args_is_help=True, help="Train, measure and question the reward model.")
app.command()(health)
app.command()(plot)

LABELS_OPTION = typer.Option(
    None, "--labels", help="JSONL files of labels; default those that `luna teach label` made in this home."
)
PREFERENCES_OPTION = typer.Option(
    None, "--preferences", help="JSONL files of preference pairs; default the pairs that the labels imply."
)
MODEL_OPTION = typer.Option(None, "--model", help="First characters of a model's SHA; default the one in use.")
ANSWERS_AT_ONCE = 64
SHOWN_PROBLEMS = 5
SHOWN_SPANS = 8


@app.command()
def train(
    labels: list[Path] = LABELS_OPTION,
    preferences: list[Path] = PREFERENCES_OPTION,
    encoder: str | None = typer.Option(None, help="Instead of [reward] encoder: package:NAME, a folder, or a hub id."),
    seed: int | None = typer.Option(None, help="Decides the split and the heads; default the settings' seed."),
    home: Path | None = HOME_OPTION,
) -> None:
    """Train a reward model on labels, with a fifth of the prompts held out, and put it to use."""
    with friendly_errors():
        place = resolve_home(home)
        settings = _settings(place, {"encoder": encoder} if encoder else {})
        rows, notes = rows_of(place, settings, labels, preferences)
        folder = train_here(place, settings, rows, notes, settings.seed if seed is None else seed)
        _print_validation(json.loads((folder / "METADATA.json").read_text(encoding="utf-8"))["validation"])
        out.print(folder.name, soft_wrap=True)
        _serve_it(place)


@app.command()
def use(
    sha: str = typer.Argument(..., help="First characters of a model's SHA."), home: Path | None = HOME_OPTION
) -> None:
    """Put a trained model to use; a running server takes it over without a pause."""
    from trainers.reward.model import load_reward_model, make_current

    with friendly_errors():
        place = resolve_home(home)
        folder = _model_folder(place, sha)
        load_reward_model(folder)  # which refuses a changed one
        make_current(place, folder)
        out.print(folder.name, soft_wrap=True)
        _serve_it(place)


@app.command("score-conversations")
def score_conversations(
    most: int = typer.Option(1000, min=1, help="Score at most so many answers, oldest first."),
    home: Path | None = HOME_OPTION,
    address: str | None = ADDRESS_OPTION,
) -> None:
    """Score stored answers that have no score yet, with the model that is being served."""
    from cluster.calls import answer
    from cluster.coordinator import coordinator_for
    from cluster.ray_head import connect
    from cluster.server.reward import score_turns
    from ledger.store import Stores

    with friendly_errors():
        place = resolve_home(home)
        with Stores.open(place) as stores:
            turns = stores.conversations.unscored(most)
        if turns:
            connect(address)
            coordinator = coordinator_for(place)
        for start in range(0, len(turns), ANSWERS_AT_ONCE):
            scores = score_turns(place, turns[start : start + ANSWERS_AT_ONCE])
            answer(coordinator.add_scores.remote(scores))
        out.print(f"{len(turns)} answers scored")


@app.command("eval")
def evaluate(
    labels: list[Path] = LABELS_OPTION,
    preferences: list[Path] = PREFERENCES_OPTION,
    model: str | None = MODEL_OPTION,
    resamples: int = typer.Option(1000, help="Bootstrap resamples of prompts behind the intervals."),
    json_: bool = JSON_OPTION,
    home: Path | None = HOME_OPTION,
) -> None:
    """Measure a model on the prompts that it was not trained on, beside the mean and support-vector regression."""
    from trainers.reward.encoder import Encoder, load_encoder
    from trainers.reward.model import load_reward_model
    from trainers.reward.report import report
    from trainers.runtime import default_device, pin_threads

    with friendly_errors():
        if resamples < 1:
            raise LunaError(f"--resamples is {resamples}; ask for at least one.")
        place = resolve_home(home)
        settings = _settings(place, {})
        pin_threads(settings.reward.threads)
        device = default_device()
        reward_model = load_reward_model(_model_folder(place, model), device)
        rows, _ = rows_of(place, settings, labels, preferences)
        made_with = reward_model.metadata["settings"]

        def baseline() -> Encoder:
            return load_encoder(made_with["encoder"], made_with["revision"], None, made_with["max_tokens"], device)

        found = report(reward_model, rows, baseline, resamples)
        if json_:
            out.print_json(json.dumps(found))
        else:
            for line in report_lines(found):
                out.print(line, markup=False, soft_wrap=True)


@app.command()
def probe(
    prompt: str = typer.Argument(..., help="What was asked."),
    response: str = typer.Argument(..., help="The answer to judge."),
    other: str | None = typer.Argument(None, help="Another answer to the same: what changes from the first to it."),
    words: bool = typer.Option(True, help="Which words carry the judgement (by leaving each out)."),
    value: str = typer.Option("scalar_preference", help="The value that words are shown for."),
    model: str | None = MODEL_OPTION,
    json_: bool = JSON_OPTION,
    home: Path | None = HOME_OPTION,
) -> None:
    """The judgement of one answer or two: vector, intensity, safety, weight, and which words carry it."""
    from dataclasses import asdict

    from curriculum.reward import example_weight
    from trainers.reward.model import HEADS, load_reward_model
    from trainers.reward.probe import changes, occlusion

    with friendly_errors():
        if value not in HEADS:
            raise LunaError(f"there is no value {value!r}; use one of {', '.join(HEADS)}.")
        reward_model = load_reward_model(_model_folder(resolve_home(home), model))
        answers = [response] if other is None else [response, other]
        scores = reward_model.score([prompt] * len(answers), answers)
        found: dict[str, Any] = {
            "model": reward_model.metadata["sha"],
            "answers": [
                {
                    "response": answer,
                    "reward": score.model_dump(mode="json"),
                    "example_weight": example_weight(score.reward_intensity, score.safety_score),
                    "attribution": [asdict(e) for e in occlusion(reward_model, prompt, answer)] if words else [],
                }
                for answer, score in zip(answers, scores, strict=True)
            ],
            "attribution_by": "occlusion",
        }
        if other is not None:
            found["changes"] = changes(*scores)
        if json_:
            out.print_json(json.dumps(found, ensure_ascii=False))
        else:
            for line in _probe_lines(found, value):
                out.print(line, markup=False, soft_wrap=True)


def train_here(home: Home, settings: Settings, rows: RewardRows, notes: dict[str, Any], seed: int) -> Path:
    """Train a model on the rows and put it to use in this home; returns its folder.

    Raises:
        LunaError: as `trainers.reward.train.train_reward_model`.
    """
    from trainers.reward.model import make_current
    from trainers.reward.train import train_reward_model

    run_dir = home.run_dir(f"reward-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{seed}")
    started = time.monotonic()
    folder = train_reward_model(rows, settings.reward, seed, home.rewards_dir, run_dir, notes, logger.info)
    make_current(home, folder)
    logger.info(f"trained in {time.monotonic() - started:.0f} s; curves: tensorboard --logdir {run_dir}")
    return folder


def report_lines(found: dict[str, Any]) -> list[str]:
    """A report of `trainers.reward.report.report` as lines of text."""
    sizes = f"{found['rows']} answers to {found['prompts']} prompts that the model was not trained on"
    lines = [f"{sizes}, {found['pairs']} pairs; 95 % bootstrap intervals by prompt"]
    titles = {
        "mean_spearman": "mean Spearman over the nine values",
        "mae": "mean absolute error",
        "mae_over_mean_predictor": "error / mean predictor's",
        "preference_accuracy": "preference accuracy",
    }
    for key, title in titles.items():
        for name, figure in found.get(key, {}).items():
            if figure:
                lines.append(f"{title:<36} {name:<32} {_interval(figure)}")
    if lead := found.get("mean_spearman_lead"):
        lines.append(f"{'Spearman ahead of':<36} {lead['over']:<32} {_interval(lead)}")
    predictors = list(found["mae"])
    lines.append("Spearman / error by value: " + "; ".join(predictors))
    for value, figures in found["values"].items():
        cells = [f"{figures['spearman'][name]:6.2f} /{figures['mae'][name]:5.2f}" for name in predictors]
        lines.append(f"  {value:<22}" + "   ".join(cells))
    return lines


def _interval(figure: dict[str, float]) -> str:
    return f"{figure['value']:.3f}  [{figure['low']:.3f}, {figure['high']:.3f}]"


def _print_validation(validation: dict[str, Any]) -> None:
    accuracy = validation["preference_accuracy"]
    out.print(
        f"held out: {validation['rows']} answers, mean Spearman {validation['mean_spearman']:.3f}, error "
        f"{validation['mae_over_mean_predictor']:.3f} of the mean predictor's, "
        + (f"{accuracy:.3f} of {validation['pairs']} pairs in order" if accuracy is not None else "no pairs"),
        soft_wrap=True,
    )


def _probe_lines(found: dict[str, Any], value: str) -> list[str]:
    """What `probe` prints for people."""
    answers = found["answers"]
    lines = []
    for name in answers[0]["reward"]:
        cells = [f"{answer['reward'][name]:+.2f}" for answer in answers]
        change = f"  {found['changes'][name]:+.2f}" if name in found.get("changes", {}) else ""
        lines.append(f"{name:<22}" + "  ".join(cells) + change)
    lines.append(f"{'weight in training':<22}" + "  ".join(f"{answer['example_weight']:5.2f}" for answer in answers))
    for number, answer in enumerate(answers, start=1):
        effects = sorted(answer["attribution"], key=lambda effect: effect["effects"][value])
        down = [e for e in effects if e["effects"][value] < 0][:SHOWN_SPANS]
        up = [e for e in reversed(effects) if e["effects"][value] > 0][:SHOWN_SPANS]
        for word, chosen in (("raise", up), ("lower", down)):
            if chosen:
                shown = ", ".join(f"{e['text']!r} {e['effects'][value]:+.3f}" for e in chosen)
                lines.append(f"answer {number}, words that {word} {value}: {shown}")
    return lines


def _settings(home: Home, overrides: dict[str, Any]) -> Settings:
    """The home's settings where it has any, else the defaults; `overrides` are of the table [reward]."""
    from cluster.settings import Settings, settings_of

    if home.settings_file.exists():
        return settings_of(home, {"reward": overrides})
    return Settings.model_validate({"reward": overrides})


def _model_folder(home: Home, sha: str | None) -> Path:
    from trainers.reward.model import current_model

    if sha is None:
        return current_model(home)
    found = sorted(path for path in home.rewards_dir.glob(f"{sha}*") if path.is_dir())
    if len(found) != 1:
        raise LunaError(f"{sha!r} names {len(found)} models under {home.rewards_dir}; give more of the SHA.")
    return found[0]


def _serve_it(home: Home) -> None:
    """Have a server that may be running score with the home's current model; what goes wrong there is only said."""
    from jobs.status import join_running_ray

    if not home.serving_file.exists() or not join_running_ray():
        return
    from cluster.server.reward import follow_reward

    try:
        served = follow_reward(home)
    except LunaError as error:
        logger.info(f"the server does not score with it: {error}")
    else:
        logger.info(f"the server scores with {served[:12]}" if served else "nothing is being served now")


def rows_of(
    home: Home, settings: Settings, labels: list[Path] | None, preferences: list[Path] | None
) -> tuple[RewardRows, dict[str, Any]]:
    """The rows of all files, and what was found out of range or unreadable in them; that is also said."""
    from curriculum.reward import read_labels, read_preferences
    from trainers.reward.train import pairs_of_labels, reward_rows

    files = labels or sorted(home.data_dir.glob("teacher/*/labels.jsonl"))
    if not files:
        raise LunaError(f"{home.root} has no labels; run `luna teach label`, or name files with --labels.")
    reports = [read_labels(file, out_of_range=settings.reward.out_of_range) for file in files]
    pair_reports = [read_preferences(file) for file in preferences or []]
    outside = [value for report in reports for value in report.out_of_range]
    bad = [line for report in reports for line in report.bad_lines]
    bad += [line for report in pair_reports for line in report.bad_lines]
    _say_some(f"values out of range ({settings.reward.out_of_range})", outside)
    _say_some("lines left out", bad)
    found = [label for report in reports for label in report.labels]
    pairs = [pair for report in pair_reports for pair in report.pairs] if preferences else pairs_of_labels(found)
    by_source = {source: sum(label.source == source for label in found) for source in {f.source for f in found}}
    notes = {
        "out_of_range": len(outside),
        "out_of_range_rule": settings.reward.out_of_range,
        "lines_left_out": len(bad),
        "labels_by_source": dict(sorted(by_source.items())),
    }
    return reward_rows(found, pairs), notes


def _say_some(what: str, problems: list[Any]) -> None:
    for problem in problems[:SHOWN_PROBLEMS]:
        logger.info(str(problem))
    if problems:
        logger.info(f"{len(problems)} {what}" + (", the first shown" if len(problems) > SHOWN_PROBLEMS else ""))


if __name__ == "__main__":
    app()
