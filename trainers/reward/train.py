"""Training the reward model on a teacher's labels and preference pairs, split by prompt.

The encoder stays as it is; what is trained are the heads. They learn ranks, not values: labels pile up at both ends of
their ranges, and a squared error in values would spend itself on telling -1 from 0.9. Each network of the ensemble
leaves one part of the training prompts out; on what it left out the scores are calibrated back to values.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from curriculum.reward import DIMENSIONS, RANGES, TeacherLabel, TeacherPreference, prompt_groups
from ledger.clock import utc_now
from ledger.errors import LunaError
from ledger.files import sha256_json
from trainers.config import RewardSettings
from trainers.reward.encoder import Encoder, load_encoder
from trainers.reward.features import FEATURES
from trainers.reward.model import (
    HEADS,
    Heads,
    RewardModel,
    model_inputs,
    save_reward_model,
)
from trainers.runtime import default_device, pin_threads

Say = Callable[[str], None]
Curve = Callable[[int, dict[str, float]], None]
"""Told the step and the losses by name."""

CALIBRATION_BINS = 16
PAIR_MARGIN = 0.2
CURVE_EVERY_STEPS = 5
PAIR_SHARPNESS = 4.0
"""Ranks lie in [-1, 1]; times this, the logistic loss over a pair is done with at a distance of about 1."""


def no_curve(step: int, losses: dict[str, float]) -> None:
    """Keeps nothing."""


@dataclass(frozen=True)
class RewardRows:
    """Labels and pairs as rows of texts: each (prompt, answer) once, labelled rows first."""

    prompts: tuple[str, ...]
    responses: tuple[str, ...]
    targets: Tensor
    """(rows, heads) float64; NaN where no label says."""
    groups: tuple[str, ...]
    """A name for each row's prompt; rows with equal names never stand on both sides of a split."""
    pairs: Tensor
    """(pairs, 2) row numbers, the better answer first."""
    labelled: int
    """Rows that come from labels; the rest occur in pairs only."""


def reward_rows(labels: Sequence[TeacherLabel], pairs: Sequence[TeacherPreference]) -> RewardRows:
    """Put labels and pairs into one table. Of equal (prompt, answer) the labels are averaged."""
    keys: dict[tuple[str, str], int] = {}
    prompt_ids: list[str] = []
    sums: list[list[list[float]]] = []

    def row_of(prompt_id: str, prompt: str, response: str) -> int:
        row = keys.setdefault((prompt, response), len(keys))
        if row == len(prompt_ids):
            prompt_ids.append(prompt_id)
            sums.append([])
        return row

    for label in labels:
        sums[row_of(label.prompt_id, label.prompt, label.response)].append(_target(label))
    labelled = len(keys)
    numbers = [
        (row_of(pair.prompt_id, pair.prompt, pair.chosen), row_of(pair.prompt_id, pair.prompt, pair.rejected))
        for pair in pairs
    ]
    unknown = [[math.nan] * len(HEADS)]
    targets = torch.stack([torch.tensor(found or unknown, dtype=torch.float64).mean(0) for found in sums])
    prompts, responses = zip(*keys, strict=True)
    groups = prompt_groups(list(zip(prompt_ids, prompts, strict=True)))
    return RewardRows(
        prompts, responses, targets, tuple(groups), torch.tensor(numbers, dtype=torch.long).reshape(-1, 2), labelled
    )


def pairs_of_labels(labels: Sequence[TeacherLabel], margin: float = PAIR_MARGIN) -> list[TeacherPreference]:
    """Every two answers to one prompt whose mean dimensions differ by at least `margin`, the better one first."""
    by_prompt: dict[str, list[TeacherLabel]] = {}
    for label in labels:
        by_prompt.setdefault(label.prompt, []).append(label)
    found = []
    for same in by_prompt.values():
        ordered = sorted(same, key=lambda label: -sum(label.reward.vector()))
        for better, worse in itertools.combinations(ordered, 2):
            lead = (sum(better.reward.vector()) - sum(worse.reward.vector())) / len(DIMENSIONS)
            if lead >= margin and better.response != worse.response:
                found.append(
                    TeacherPreference(
                        prompt_id=better.prompt_id,
                        category=better.category,
                        prompt=better.prompt,
                        chosen=better.response,
                        rejected=worse.response,
                        score_margin=lead,
                    )
                )
    return found


def _target(label: TeacherLabel) -> list[float]:
    """The nine values and the preference; a judge that gives no preference is taken to mean the dimensions' mean."""
    reward = label.reward
    mean = sum(reward.vector()) / len(DIMENSIONS)
    return [*reward.values(), mean if reward.scalar_preference is None else reward.scalar_preference]


def held_out_groups(groups: Sequence[str], percent: int, seed: int) -> frozenset[str]:
    """The prompts kept from training: the first `percent` in an order that the seed and their names decide."""
    order = sorted(set(groups), key=lambda group: hashlib.sha256(f"{seed}:{group}".encode()).digest())
    return frozenset(order[: round(len(order) * percent / 100)])


def fold_of_groups(groups: Sequence[str], folds: int, seed: int) -> dict[str, int]:
    """Deal prompts into `folds` parts of nearly equal size."""
    order = sorted(set(groups), key=lambda group: hashlib.sha256(f"fold {seed}:{group}".encode()).digest())
    return {group: number % folds for number, group in enumerate(order)}


def rank_targets(values: Tensor) -> Tensor:
    """Each column's ranks, ties shared, scaled to (-1, 1); NaN stays NaN."""
    ranked = torch.full_like(values, math.nan)
    for column in range(values.shape[1]):
        known = ~values[:, column].isnan()
        _, place, count = values[known, column].unique(return_inverse=True, return_counts=True)
        last = count.cumsum(0).double()
        middle = last - count / 2
        ranked[known, column] = (2 * middle / known.sum() - 1)[place]
    return ranked


def fit_heads(
    inputs: Tensor,
    targets: Tensor,
    groups: Sequence[str],
    pairs: Tensor,
    settings: RewardSettings,
    seed: int,
    curve: Curve = no_curve,
) -> tuple[Heads, Tensor]:
    """Train the ensemble.

    Args:
        inputs: (rows, inputs) float32, as `model_inputs` gives them.
        targets: (rows, heads) values, NaN where unknown.
        groups: each row's prompt.
        pairs: (pairs, 2) rows, the better first.
        curve: told the losses by name every few steps.

    Returns:
        The heads, and for each row the mean score of those networks that never saw its prompt: (rows, heads).

    Raises:
        LunaError: there are fewer prompts than folds.
    """
    if len(set(groups)) < settings.folds:
        raise LunaError(
            f"{len(set(groups))} prompts cannot be dealt into {settings.folds} folds; give labels for more prompts or "
            "lower [reward] folds."
        )
    seen = _seen(groups, settings, seed)  # (members, rows): 1 where a network may learn from the row
    ranks = rank_targets(targets).float()
    known = ~ranks.isnan()
    ranks = ranks.nan_to_num()
    weight = seen[:, :, None] * known
    unseen = (1 - seen)[:, :, None] * known
    pair_weight = seen[:, pairs[:, 0]]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = _new_heads(inputs, settings, len(seen))
        matrices = [heads.hidden_weight, heads.out_weight]
        biases = [heads.hidden_bias, heads.out_bias]
        optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": biases, "weight_decay": 0.0}],
            lr=settings.lr,
        )
        for step in range(settings.steps):
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * _rate(step, settings.steps)
            scores = heads(inputs, settings.input_dropout, settings.dropout)
            errors = (scores - ranks) ** 2
            # A sum over the networks, each with its own mean: they share nothing, so each trains as if alone.
            loss = ((errors * weight).sum((1, 2)) / weight.sum((1, 2))).sum()
            pair_loss = torch.zeros(())
            if len(pairs) and settings.pair_weight:
                lead = scores[:, pairs[:, 0], -1] - scores[:, pairs[:, 1], -1]
                each = torch.nn.functional.softplus(-PAIR_SHARPNESS * lead) * pair_weight
                pair_loss = (each.sum(1) / pair_weight.sum(1).clamp(min=1)).sum()
            optimizer.zero_grad()
            (loss + settings.pair_weight * pair_loss).backward()
            optimizer.step()
            if step % CURVE_EVERY_STEPS == 0 or step == settings.steps - 1:
                curve(step + 1, _losses(heads, inputs, ranks, weight, unseen, float(pair_loss.detach()) / len(seen)))
        with torch.inference_mode():
            scores = heads(inputs)
    left_out = (1 - seen)[:, :, None]
    return heads, (scores * left_out).sum(0) / left_out.sum(0)


def _seen(groups: Sequence[str], settings: RewardSettings, seed: int) -> Tensor:
    rows = []
    for deal in range(settings.repeats):
        fold = fold_of_groups(groups, settings.folds, seed * 1000 + deal)
        rows += [[float(fold[group] != number) for group in groups] for number in range(settings.folds)]
    return torch.tensor(rows)


def _new_heads(inputs: Tensor, settings: RewardSettings, members: int) -> Heads:
    heads = Heads(inputs.shape[1], settings.hidden_size, members)
    counted, width = len(FEATURES), inputs.shape[1] - len(FEATURES)
    # The counted features and the encoder's states each have unit length in all, whatever their number.
    size = torch.cat([torch.full((counted,), counted**-0.5), torch.full((width,), max(width, 1) ** -0.5)])
    with torch.no_grad():
        heads.centre.copy_(inputs.mean(0))
        heads.spread.copy_(inputs.std(0, correction=0) + 1e-6)
        heads.size.copy_(size)
        heads.hidden_weight.normal_()
        heads.hidden_bias.normal_(std=0.1)
        heads.out_weight.normal_(std=0.1 * settings.hidden_size**-0.5)
    return heads


def _rate(step: int, steps: int, warm_up: float = 0.3) -> float:
    """Share of the peak learning rate: a linear rise over the first third, then a cosine to 0."""
    place = (step + 0.5) / steps
    return place / warm_up if place < warm_up else 0.5 * (1 + math.cos(math.pi * (place - warm_up) / (1 - warm_up)))


def _losses(
    heads: Heads, inputs: Tensor, ranks: Tensor, seen: Tensor, unseen: Tensor, pair_loss: float
) -> dict[str, float]:
    """Squared rank error of each head on what the networks learn from and on what they left out."""
    with torch.inference_mode():
        errors = (heads(inputs) - ranks) ** 2
        losses = {"pairs/train": pair_loss}
        for name, share in (("train", seen), ("left_out", unseen)):
            means = (errors * share).sum((0, 1)) / share.sum((0, 1)).clamp(min=1)
            losses |= {f"{name}/{head}": float(value) for head, value in zip(HEADS, means, strict=True)}
    return losses


def calibration_knots(scores: Tensor, values: Tensor, bins: int = CALIBRATION_BINS) -> Tensor:
    """The never-falling curve from scores to the mean value found there: (bins, 2), scores strictly ascending.

    Scores are cut into bins of equal size; neighbours that would make the curve fall are pooled.
    """
    order = scores.argsort(stable=True)
    parts = [(scores[part].mean(), values[part].mean()) for part in order.tensor_split(min(bins, len(order)))]
    blocks: list[list[float]] = []  # value, weight
    for _, value in parts:
        blocks.append([float(value), 1.0])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            last, weight = blocks.pop()
            before = blocks[-1]
            before[0] = (before[0] * before[1] + last * weight) / (before[1] + weight)
            before[1] += weight
    level = [value for value, weight in blocks for _ in range(int(weight))]
    x = torch.tensor([float(score) for score, _ in parts], dtype=torch.float64)
    x = x + torch.arange(len(x), dtype=torch.float64) * 1e-9  # equal scores would make a step without width
    return torch.stack([x, torch.tensor(level, dtype=torch.float64)], dim=1)


@dataclass(frozen=True)
class Fit:
    """A trained and calibrated model, and which rows stood on which side."""

    model: RewardModel
    train: Tensor
    """Row numbers that it was trained on."""
    test: Tensor
    """Labelled row numbers whose prompts were held out."""
    held_out: frozenset[str]


def fit(
    rows: RewardRows,
    inputs: Tensor,
    encoder: Encoder,
    settings: RewardSettings,
    seed: int,
    curve: Curve = no_curve,
) -> Fit:
    """Hold prompts out, train the heads on the rest, calibrate them.

    Args:
        inputs: `model_inputs` of all rows.

    Raises:
        LunaError: there are too few prompts.
    """
    held_out = held_out_groups(rows.groups, settings.holdout_percent, seed)
    if len(held_out) < 2:
        raise LunaError(
            f"{len(set(rows.groups))} prompts are too few to hold {settings.holdout_percent} % out; give more labels."
        )
    train = [i for i, group in enumerate(rows.groups) if group not in held_out]
    test = [i for i in range(rows.labelled) if rows.groups[i] in held_out]
    place = {row: i for i, row in enumerate(train)}
    pairs = [[place[better], place[worse]] for better, worse in rows.pairs.tolist() if better in place]
    heads, left_out = fit_heads(
        inputs[train],
        rows.targets[train],
        [rows.groups[i] for i in train],
        torch.tensor(pairs, dtype=torch.long).reshape(-1, 2),
        settings,
        seed,
        curve,
    )
    model = RewardModel(encoder, heads, _all_knots(left_out, rows.targets[train]), {})
    return Fit(model, torch.tensor(train), torch.tensor(test, dtype=torch.long), held_out)


def train_reward_model(
    rows: RewardRows,
    settings: RewardSettings,
    seed: int,
    models_dir: Path,
    run_dir: Path,
    notes: dict[str, Any],
    say: Say = lambda text: None,
    device: torch.device | None = None,
) -> Path:
    """Encode, train, calibrate, measure on the held-out prompts, save; returns the model's folder.

    Args:
        models_dir: where model folders lie, `<home>/models/reward`.
        run_dir: gets the TensorBoard curves.
        notes: what the metadata is to say about the data beside its hash.

    Raises:
        LunaError: too few prompts, no such encoder, or the disk refuses.
    """
    from torch.utils.tensorboard import SummaryWriter

    from trainers.reward.report import measure

    pin_threads(settings.threads)
    encoder = load_encoder(
        settings.encoder, settings.revision, settings.blocks, settings.max_tokens, device or default_device()
    )
    say(f"reading {len(rows.prompts)} answers with {settings.encoder}, blocks {list(settings.blocks)}")
    inputs = model_inputs(encoder, rows.prompts, rows.responses)
    say("training the heads")
    with SummaryWriter(str(run_dir)) as writer:

        def curve(step: int, losses: dict[str, float]) -> None:
            for name, value in losses.items():
                writer.add_scalar(f"loss/{name}", value, step)

        done = fit(rows, inputs, encoder, settings, seed, curve)
    metadata = {
        "kind": "reward",
        "dimensions": list(DIMENSIONS),
        "ranges": {name: list(bounds) for name, bounds in RANGES.items()},
        "encoder": {
            "source": settings.encoder,
            "blocks": list(encoder.blocks),
            "max_tokens": encoder.max_tokens,
        },
        "calibration": {head: done.model.knots[i].tolist() for i, head in enumerate(HEADS)},
        "data": {
            "sha": rows_sha(rows),
            "labels": rows.labelled,
            "pairs": len(rows.pairs),
            "prompts": len(set(rows.groups)),
            "held_out_prompts": len(done.held_out),
            **notes,
        },
        "validation": measure(done.model, inputs[done.test], rows, done.test, rows.targets[done.train].nanmean(0)),
        "trained_on": sorted({prompt_key(rows.prompts[i]) for i in done.train.tolist()}),
        "settings": settings.model_dump(mode="json"),
        "seed": seed,
        "trained_at": utc_now(),
    }
    return save_reward_model(done.model, models_dir, metadata)


def _all_knots(scores: Tensor, targets: Tensor) -> Tensor:
    columns = []
    for head in range(len(HEADS)):
        known = ~targets[:, head].isnan()
        columns.append(calibration_knots(scores[known, head].double(), targets[known, head]))
    return torch.stack(columns)


def rows_sha(rows: RewardRows) -> str:
    """SHA-256 of what the model was trained and measured on: texts, values, groups, pairs."""
    targets = [[None if math.isnan(value) else value for value in row] for row in rows.targets.tolist()]
    return sha256_json([rows.prompts, rows.responses, targets, rows.groups, rows.pairs.tolist()])


def prompt_key(prompt: str) -> str:
    """A short hash by which a model remembers a prompt that it was trained on, case and white space aside."""
    return hashlib.sha256(" ".join(prompt.split()).casefold().encode()).hexdigest()[:16]
