"""`luna reward`: train the reward model on labels, measure it, look into its judgements, put it to use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from jobs.context import ADDRESS_OPTION, HOME_OPTION, JSON_OPTION, friendly_errors, out, resolve_home
from jobs.reward.health import health
from jobs.reward.plot import plot
from jobs.reward.report import probe_lines, report_lines, validation_line
from jobs.reward.training import model_folder, reward_settings, rows_of, serve_it, train_here
from ledger.errors import LunaError

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
        settings = reward_settings(place, {"encoder": encoder} if encoder else {})
        rows, notes = rows_of(place, settings, labels, preferences)
        folder = train_here(place, settings, rows, notes, settings.seed if seed is None else seed)
        metadata = json.loads((folder / "METADATA.json").read_text(encoding="utf-8"))
        out.print(validation_line(metadata["validation"]), soft_wrap=True)
        out.print(folder.name, soft_wrap=True)
        serve_it(place)


@app.command()
def use(
    sha: str = typer.Argument(..., help="First characters of a model's SHA."), home: Path | None = HOME_OPTION
) -> None:
    """Put a trained model to use; a running server takes it over without a pause."""
    from trainers.reward.model import load_reward_model, make_current

    with friendly_errors():
        place = resolve_home(home)
        folder = model_folder(place, sha)
        load_reward_model(folder)  # which refuses a changed one
        make_current(place, folder)
        out.print(folder.name, soft_wrap=True)
        serve_it(place)


@app.command("score-conversations")
def score_conversations(
    most: int = typer.Option(1000, min=1, help="Score at most so many answers, oldest first."),
    home: Path | None = HOME_OPTION,
    address: str | None = ADDRESS_OPTION,
) -> None:
    """Score stored answers that have no score yet, with the model that is being served."""
    from cluster.client.coordinator import ask, coordinator_for
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
            ask(coordinator, "add_scores", scores)
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
        settings = reward_settings(place, {})
        pin_threads(settings.reward.threads)
        device = default_device()
        reward_model = load_reward_model(model_folder(place, model), device)
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
        reward_model = load_reward_model(model_folder(resolve_home(home), model))
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
            for line in probe_lines(found, value):
                out.print(line, markup=False, soft_wrap=True)
