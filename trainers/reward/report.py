"""How good a reward model is on prompts that it was not trained on, beside what is easily had.

Baselines, measured in the same run on the same rows: the training rows' mean, and a support-vector regression with an
RBF kernel on the encoder's frozen sentence embeddings. Intervals are 95 % bootstrap intervals over prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from curriculum.reward import VALUES
from ledger.errors import LunaError
from trainers.reward.encoder import Encoder
from trainers.reward.model import HEADS, RewardModel, model_inputs
from trainers.reward.train import RewardRows, prompt_key

MODEL = "reward model"
MEAN = "mean predictor"
SVR = {"answer": "SVR-RBF on answers", "both": "SVR-RBF on prompts and answers"}
RESAMPLES = 1000
N_VALUES = len(VALUES)


def average_ranks(columns: Tensor) -> Tensor:
    """(n, columns) to each column's ranks from 0, ties sharing their mean."""
    below = (columns[:, None] > columns[None]).sum(1)
    equal = (columns[:, None] == columns[None]).sum(1)
    return below + (equal - 1) / 2


def spearman(predicted: Tensor, true: Tensor) -> Tensor:
    """Rank correlation of each column, in [-1, 1]; 0 where a column does not vary. (n, columns) twice."""
    a, b = (ranks - ranks.mean(0) for ranks in (average_ranks(predicted), average_ranks(true)))
    norm = a.norm(dim=0) * b.norm(dim=0)
    return torch.where(norm > 0, (a * b).sum(0) / norm.clamp(min=1e-12), torch.zeros(()))


def pair_accuracy(preference: Tensor, pairs: Tensor) -> Tensor:
    """1 for each pair (n, 2) whose first row has the higher preference, one half where they are equal."""
    lead = preference[pairs[:, 0]] - preference[pairs[:, 1]]
    return (lead > 0).double() + 0.5 * (lead == 0).double()


def measure(model: RewardModel, inputs: Tensor, rows: RewardRows, chosen: Tensor, train_mean: Tensor) -> dict[str, Any]:
    """The figures that a model's metadata carries: for each head, error and rank correlation on rows `chosen`.

    Args:
        inputs: the model's inputs of those rows.
        train_mean: (heads,) mean of the training rows' values.
    """
    predicted = torch.tensor(model.calibrated(model.raw(inputs)), dtype=torch.float64)
    true = rows.targets[chosen]
    correlation = spearman(predicted, true)
    error, by_mean = (predicted - true).abs().mean(0), (train_mean - true).abs().mean(0)
    place = {int(row): i for i, row in enumerate(chosen)}
    pairs = torch.tensor([[place[a], place[b]] for a, b in rows.pairs.tolist() if a in place and b in place])
    return {
        "rows": len(chosen),
        "mean_spearman": float(correlation[:N_VALUES].mean()),
        "mae_over_mean_predictor": float(error[:N_VALUES].mean() / by_mean[:N_VALUES].mean()),
        "pairs": len(pairs),
        "preference_accuracy": float(pair_accuracy(predicted[:, -1], pairs).mean()) if len(pairs) else None,
        "values": {
            head: {
                "mae": float(error[i]),
                "mean_predictor_mae": float(by_mean[i]),
                "spearman": float(correlation[i]),
            }
            for i, head in enumerate(HEADS)
        },
    }


def report(
    model: RewardModel,
    rows: RewardRows,
    load_baseline: Callable[[], Encoder],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure the model on all rows whose prompts it was not trained on, the baselines beside it.

    Args:
        load_baseline: gives the whole encoder whose sentence embeddings the support vectors use; called only where the
            rows hold prompts that the model was trained on, since the baselines need them.

    Raises:
        LunaError: every prompt was trained on, or too few rows are left.
    """
    trained = set(model.metadata["trained_on"])
    keyed = zip(rows.groups, map(prompt_key, rows.prompts), strict=True)
    seen_groups = {group for group, key in keyed if key in trained}
    train = [i for i in range(rows.labelled) if rows.groups[i] in seen_groups]
    test = [i for i in range(rows.labelled) if rows.groups[i] not in seen_groups]
    if len({rows.groups[i] for i in test}) < 2:
        raise LunaError(
            "the model was trained on nearly every prompt in this file; give labels of prompts that it has not seen."
        )
    paired = sorted({row for pair in rows.pairs.tolist() for row in pair if rows.groups[row] not in seen_groups})
    extra = [row for row in paired if row >= rows.labelled]
    unseen = [*test, *extra]
    inputs = model_inputs(model.encoder, [rows.prompts[i] for i in unseen], [rows.responses[i] for i in unseen])
    predicted: dict[str, Tensor] = {MODEL: torch.tensor(model.calibrated(model.raw(inputs)), dtype=torch.float64)}
    if train:
        predicted[MEAN] = rows.targets[train].mean(0).expand(len(unseen), -1)
        predicted |= _support_vectors(load_baseline(), rows, train, unseen)
    place = {row: i for i, row in enumerate(unseen)}
    pairs = torch.tensor([[place[a], place[b]] for a, b in rows.pairs.tolist() if a in place], dtype=torch.long)
    return {
        "rows": len(test),
        "prompts": len({rows.groups[i] for i in test}),
        "pairs": len(pairs),
        "trained_rows_in_file": len(train),
        **_figures(predicted, rows.targets[test], [rows.groups[i] for i in unseen], pairs, resamples, seed),
    }


def _figures(
    predicted: dict[str, Tensor], true: Tensor, groups: Sequence[str], pairs: Tensor, resamples: int, seed: int
) -> dict[str, Any]:
    """The report's figures with their intervals. `predicted` and `groups` may hold rows without labels at the end."""
    n = len(true)
    names = list(predicted)
    values = torch.stack([predicted[name][:n, :N_VALUES] for name in names], dim=1).flatten(1)  # (n, names · 9)
    truth = true[:, None, :N_VALUES].expand(-1, len(names), -1).flatten(1)
    right = (
        torch.stack([pair_accuracy(predicted[name][:, -1], pairs) for name in names], dim=1)
        if len(pairs)
        else torch.zeros(0, len(names), dtype=torch.float64)
    )
    errors = (values - truth).abs()

    def at(row_numbers: Tensor, pair_numbers: Tensor) -> Tensor:
        """(3, names): mean rank correlation, error, share of pairs, over these rows and pairs, repeats counted."""
        correlation = spearman(values[row_numbers], truth[row_numbers]).reshape(len(names), N_VALUES).mean(1)
        error = errors[row_numbers].mean(0).reshape(len(names), N_VALUES).mean(1)
        return torch.stack([correlation, error, right[pair_numbers].mean(0)])

    order = sorted(set(groups))
    rows_of = [torch.tensor([i for i in range(n) if groups[i] == group], dtype=torch.long) for group in order]
    pair_groups = [groups[first] for first in pairs[:, 0].tolist()] if len(pairs) else []
    pairs_of = [
        torch.tensor([i for i, name in enumerate(pair_groups) if name == group], dtype=torch.long) for group in order
    ]
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randint(len(order), (len(order),), generator=generator).tolist() for _ in range(resamples)]
    samples = torch.stack([at(torch.cat([rows_of[g] for g in d]), torch.cat([pairs_of[g] for g in d])) for d in drawn])
    whole = at(torch.arange(n), torch.arange(len(right)))
    per_value = spearman(values, truth).reshape(len(names), N_VALUES)
    mae = errors.mean(0).reshape(len(names), N_VALUES)
    found: dict[str, Any] = {
        "mean_spearman": {name: _figure(whole[0, i], samples[:, 0, i]) for i, name in enumerate(names)},
        "mae": {name: _figure(whole[1, i], samples[:, 1, i]) for i, name in enumerate(names)},
        "preference_accuracy": {name: _figure(whole[2, i], samples[:, 2, i]) for i, name in enumerate(names)},
        "values": {
            value: {
                "spearman": {name: float(per_value[i, v]) for i, name in enumerate(names)},
                "mae": {name: float(mae[i, v]) for i, name in enumerate(names)},
            }
            for v, value in enumerate(VALUES)
        },
    }
    if MEAN in names:
        m = names.index(MEAN)
        found["mae_over_mean_predictor"] = {
            name: _figure(whole[1, i] / whole[1, m], samples[:, 1, i] / samples[:, 1, m])
            for i, name in enumerate(names)
            if i != m
        }
        best = max((i for i, name in enumerate(names) if name in SVR.values()), key=lambda i: float(whole[0, i]))
        found["mean_spearman_lead"] = {
            "over": names[best],
            **_figure(whole[0, 0] - whole[0, best], samples[:, 0, 0] - samples[:, 0, best]),
        }
    return found


def _figure(value: Tensor, samples: Tensor) -> dict[str, float]:
    """A figure and its 95 % interval; NaN where there was nothing to measure (no pairs, say)."""
    known = samples[~samples.isnan()]
    low, high = known.quantile(torch.tensor([0.025, 0.975], dtype=known.dtype)).tolist() if len(known) else (0.0, 0.0)
    return {"value": float(value), "low": low, "high": high} if not value.isnan() else {}


def _support_vectors(encoder: Encoder, rows: RewardRows, train: list[int], unseen: list[int]) -> dict[str, Tensor]:
    """Predictions of both baselines for rows `unseen`: (rows, heads) each."""
    chosen = [*train, *unseen]
    answers = encoder.embeddings([rows.responses[i] for i in chosen]).double().numpy()
    distinct = sorted({rows.prompts[i] for i in chosen})
    of_prompt = dict(zip(distinct, encoder.embeddings(distinct).double().numpy(), strict=True))
    prompts = np.stack([of_prompt[rows.prompts[i]] for i in chosen])
    targets = rows.targets[train].numpy()
    inputs = {SVR["answer"]: answers, SVR["both"]: np.concatenate([prompts, answers], axis=1)}
    return {
        name: torch.from_numpy(support_vector_predictions(x[: len(train)], targets, x[len(train) :]))
        for name, x in inputs.items()
    }


def support_vector_predictions(
    train: NDArray[np.float64], targets: NDArray[np.float64], test: NDArray[np.float64]
) -> NDArray[np.float64]:
    """ε-SVR with an RBF kernel for each column of `targets`.

    The usual defaults: C = 1, ε = 0.1, γ = 1 / (inputs · variance). The kernel carries a constant instead of an offset.
    """
    gamma = 1.0 / (train.shape[1] * train.var())
    within, across = (rbf_kernel(train, train, gamma) + 1.0, rbf_kernel(test, train, gamma) + 1.0)
    return np.stack([across @ support_vectors(within, column) for column in targets.T], axis=1)


def rbf_kernel(a: NDArray[np.float64], b: NDArray[np.float64], gamma: float) -> NDArray[np.float64]:
    """exp(-γ |a - b|²) for all rows of `a` and `b`."""
    square = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    kernel: NDArray[np.float64] = np.exp(-gamma * np.maximum(square, 0))
    return kernel


def support_vectors(
    kernel: NDArray[np.float64], y: NDArray[np.float64], c: float = 1.0, epsilon: float = 0.1, sweeps: int = 400
) -> NDArray[np.float64]:
    """Coefficients β that minimise ½ βᵀKβ - yᵀβ + ε|β|₁ with |β| ≤ c, by exact steps along each coordinate."""
    beta, fitted, diagonal = np.zeros(len(y)), np.zeros(len(y)), kernel.diagonal()
    for _ in range(sweeps):
        largest = 0.0
        for i in range(len(y)):
            pull = y[i] - (fitted[i] - diagonal[i] * beta[i])
            best = np.clip(np.sign(pull) * max(abs(pull) - epsilon, 0.0) / diagonal[i], -c, c)
            change = best - beta[i]
            if change:
                fitted += kernel[i] * change
                beta[i] = best
                largest = max(largest, abs(change))
        if largest < 1e-4:
            break
    return beta
