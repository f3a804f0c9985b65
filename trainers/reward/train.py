"""Training the reward model on a teacher's labels and preference pairs, split by prompt.

The encoder stays as it is; what is trained are the heads. They learn ranks, not values: labels pile up at both ends of
their ranges, and a squared error in values would spend itself on telling -1 from 0.9. Each network of the ensemble
leaves one part of the training prompts out; on what it left out the scores are calibrated back to values.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.optimize import isotonic_regression
from scipy.stats import rankdata
from torch import Tensor

from curriculum.reward import DIMENSIONS, RANGES
from ledger.clock import utc_now
from ledger.errors import LunaError
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
from trainers.reward.report import measure
from trainers.reward.rows import RewardRows, prompt_key, rows_sha
from trainers.runtime import default_device, pin_threads

logger = logging.getLogger(__name__)

Curve = Callable[[int, dict[str, float]], None]
"""Told the step and the losses by name."""

CALIBRATION_BINS = 16
CURVE_EVERY_STEPS = 5
PAIR_SHARPNESS = 4.0
"""Ranks lie in [-1, 1]; times this, the logistic loss over a pair is done with at a distance of about 1."""


def no_curve(step: int, losses: dict[str, float]) -> None:
    """Keeps nothing."""


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
    ranks = torch.from_numpy(rankdata(values.numpy(), axis=0, nan_policy="omit"))
    return 2 * (ranks - 0.5) / (~values.isnan()).sum(0) - 1


@dataclass(frozen=True)
class HeadData:
    """What the heads are trained on."""

    inputs: Tensor
    """(rows, inputs) float32, as `model_inputs` gives them."""
    targets: Tensor
    """(rows, heads) values, NaN where unknown."""
    groups: Sequence[str]
    """Each row's prompt."""
    pairs: Tensor
    """(pairs, 2) rows, the better first."""


@dataclass(frozen=True)
class Ensemble:
    """The same for every network: what it learns from and what it leaves out."""

    inputs: Tensor  # (rows, inputs)
    pairs: Tensor  # (pairs, 2) rows; none where pairs have no weight
    ranks: Tensor  # (rows, heads) in (-1, 1), 0 where unknown
    rows_seen: Tensor  # (members, rows): 1 where a network may learn from the row
    seen: Tensor  # (members, rows, heads): the same, 0 where unknown
    left_out: Tensor  # (members, rows, heads): 1 where a network may not, 0 where unknown
    pairs_seen: Tensor  # (members, pairs)

    @classmethod
    def of(cls, data: HeadData, settings: RewardSettings, seed: int) -> Ensemble:
        """Deal the prompts into folds; each network leaves one of them out."""
        rows_seen = _seen(data.groups, settings, seed)
        ranks = rank_targets(data.targets).float()
        known = ~ranks.isnan()
        pairs = data.pairs if settings.pair_weight else data.pairs[:0]
        return cls(
            inputs=data.inputs,
            pairs=pairs,
            ranks=ranks.nan_to_num(),
            rows_seen=rows_seen,
            seen=rows_seen[:, :, None] * known,
            left_out=(1 - rows_seen)[:, :, None] * known,
            pairs_seen=rows_seen[:, pairs[:, 0]],
        )


def heads_loss(scores: Tensor, data: Ensemble) -> tuple[Tensor, Tensor]:
    """(squared rank error, loss over pairs) of scores (members, rows, heads).

    A sum over the networks, each with its own mean: they share nothing, so each trains as if alone.
    """
    errors = (scores - data.ranks) ** 2
    loss = ((errors * data.seen).sum((1, 2)) / data.seen.sum((1, 2))).sum()
    if not len(data.pairs):
        return loss, torch.zeros(())
    lead = scores[:, data.pairs[:, 0], -1] - scores[:, data.pairs[:, 1], -1]
    each = torch.nn.functional.softplus(-PAIR_SHARPNESS * lead) * data.pairs_seen
    return loss, (each.sum(1) / data.pairs_seen.sum(1).clamp(min=1)).sum()


def fit_heads(data: HeadData, settings: RewardSettings, seed: int, curve: Curve = no_curve) -> tuple[Heads, Tensor]:
    """Train the ensemble.

    Args:
        curve: told the losses by name every few steps.

    Returns:
        The heads, and for each row the mean score of those networks that never saw its prompt: (rows, heads).

    Raises:
        LunaError: there are fewer prompts than folds.
    """
    if len(set(data.groups)) < settings.folds:
        raise LunaError(
            f"{len(set(data.groups))} prompts cannot be dealt into {settings.folds} folds; give labels for more "
            "prompts or lower [reward] folds."
        )
    ensemble = Ensemble.of(data, settings, seed)
    members = len(ensemble.rows_seen)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = _new_heads(data.inputs, settings, members)
        optimizer = _optimizer(heads, settings)
        for step in range(settings.steps):
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * _rate(step, settings.steps)
            scores = heads(data.inputs, settings.input_dropout, settings.dropout)
            loss, pair_loss = heads_loss(scores, ensemble)
            optimizer.zero_grad()
            (loss + settings.pair_weight * pair_loss).backward()
            optimizer.step()
            if step % CURVE_EVERY_STEPS == 0 or step == settings.steps - 1:
                curve(step + 1, _losses(heads, ensemble, float(pair_loss.detach()) / members))
        with torch.inference_mode():
            scores = heads(data.inputs)
    left_out = (1 - ensemble.rows_seen)[:, :, None]
    return heads, (scores * left_out).sum(0) / left_out.sum(0)


def _optimizer(heads: Heads, settings: RewardSettings) -> torch.optim.Optimizer:
    matrices, biases = [heads.hidden_weight, heads.out_weight], [heads.hidden_bias, heads.out_bias]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": biases, "weight_decay": 0.0}],
        lr=settings.lr,
    )


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


def _losses(heads: Heads, data: Ensemble, pair_loss: float) -> dict[str, float]:
    """Squared rank error of each head on what the networks learn from and on what they left out."""
    with torch.inference_mode():
        errors = (heads(data.inputs) - data.ranks) ** 2
        losses = {"pairs/train": pair_loss}
        for name, share in (("train", data.seen), ("left_out", data.left_out)):
            means = (errors * share).sum((0, 1)) / share.sum((0, 1)).clamp(min=1)
            losses |= {f"{name}/{head}": float(value) for head, value in zip(HEADS, means, strict=True)}
    return losses


def calibration_knots(scores: Tensor, values: Tensor, bins: int = CALIBRATION_BINS) -> Tensor:
    """The never-falling curve from scores to the mean value found there: (bins, 2), scores strictly ascending.

    Scores are cut into bins of equal size; neighbours that would make the curve fall are pooled.
    """
    parts = scores.argsort(stable=True).tensor_split(min(bins, len(scores)))
    means = [torch.stack([column[part].mean() for part in parts]).double() for column in (scores, values)]
    x = means[0] + torch.arange(len(parts), dtype=torch.float64) * 1e-9  # equal scores: no step without width
    return torch.stack([x, torch.from_numpy(isotonic_regression(means[1].numpy()).x)], dim=1)


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
    data = HeadData(
        inputs=inputs[train],
        targets=rows.targets[train],
        groups=[rows.groups[i] for i in train],
        pairs=torch.tensor(pairs, dtype=torch.long).reshape(-1, 2),
    )
    heads, left_out = fit_heads(data, settings, seed, curve)
    model = RewardModel(encoder, heads, _all_knots(left_out, rows.targets[train]), {})
    return Fit(model, torch.tensor(train), torch.tensor(test, dtype=torch.long), held_out)


def train_reward_model(
    rows: RewardRows, settings: RewardSettings, seed: int, models_dir: Path, run_dir: Path, notes: Mapping[str, Any]
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

    pin_threads(settings.threads)
    encoder = load_encoder(settings.encoder, settings.revision, settings.blocks, settings.max_tokens, default_device())
    logger.info("reading %d answers with %s, blocks %s", len(rows.prompts), settings.encoder, list(settings.blocks))
    inputs = model_inputs(encoder, rows.prompts, rows.responses)
    logger.info("training the heads")
    with SummaryWriter(str(run_dir)) as writer:

        def curve(step: int, losses: dict[str, float]) -> None:
            for name, value in losses.items():
                writer.add_scalar(f"loss/{name}", value, step)

        done = fit(rows, inputs, encoder, settings, seed, curve)
    validation = measure(done.model, inputs[done.test], rows, done.test, rows.targets[done.train].nanmean(0))
    metadata = {
        **_metadata(done, rows, settings, notes),
        "validation": validation,
        "seed": seed,
        "trained_at": utc_now(),
    }
    return save_reward_model(done.model, models_dir, metadata)


def _metadata(done: Fit, rows: RewardRows, settings: RewardSettings, notes: Mapping[str, Any]) -> dict[str, Any]:
    """What a model says of itself: what it predicts, how, and from which data."""
    encoder = done.model.encoder
    return {
        "kind": "reward",
        "dimensions": list(DIMENSIONS),
        "ranges": {name: list(bounds) for name, bounds in RANGES.items()},
        "encoder": {"source": settings.encoder, "blocks": list(encoder.blocks), "max_tokens": encoder.max_tokens},
        "calibration": {head: done.model.knots[i].tolist() for i, head in enumerate(HEADS)},
        "data": {
            "sha": rows_sha(rows),
            "labels": rows.labelled,
            "pairs": len(rows.pairs),
            "prompts": len(set(rows.groups)),
            "held_out_prompts": len(done.held_out),
            **notes,
        },
        "trained_on": sorted({prompt_key(rows.prompts[i]) for i in done.train.tolist()}),
        "settings": settings.model_dump(mode="json"),
    }


def _all_knots(scores: Tensor, targets: Tensor) -> Tensor:
    columns = []
    for head in range(len(HEADS)):
        known = ~targets[:, head].isnan()
        columns.append(calibration_knots(scores[known, head].double(), targets[known, head]))
    return torch.stack(columns)
