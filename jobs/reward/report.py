"""What the commands of the reward model print for people."""

from __future__ import annotations

from typing import Any

_SHOWN_SPANS = 8


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


def validation_line(validation: dict[str, Any]) -> str:
    """How a model that was just trained does on the prompts that were held out."""
    accuracy = validation["preference_accuracy"]
    return (
        f"held out: {validation['rows']} answers, mean Spearman {validation['mean_spearman']:.3f}, error "
        f"{validation['mae_over_mean_predictor']:.3f} of the mean predictor's, "
        + (f"{accuracy:.3f} of {validation['pairs']} pairs in order" if accuracy is not None else "no pairs")
    )


def probe_lines(found: dict[str, Any], value: str) -> list[str]:
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
        down = [e for e in effects if e["effects"][value] < 0][:_SHOWN_SPANS]
        up = [e for e in reversed(effects) if e["effects"][value] > 0][:_SHOWN_SPANS]
        for word, chosen in (("raise", up), ("lower", down)):
            if chosen:
                shown = ", ".join(f"{e['text']!r} {e['effects'][value]:+.3f}" for e in chosen)
                lines.append(f"answer {number}, words that {word} {value}: {shown}")
    return lines
