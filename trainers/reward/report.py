"""How good a reward model is on prompts that it was not trained on, beside what is easily had.

Baselines, measured in the same run on the same rows: the training rows' mean, and a support-vector regression with an
RBF kernel on the encoder's frozen sentence embeddings. Intervals are 95 % bootstrap intervals over prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from sklearn.svm import SVR as SupportVectors
from torch import Tensor

from curriculum.reward import VALUES
from ledger.errors import LunaError
from trainers.reward.encoder import Encoder
from trainers.reward.model import HEADS, RewardModel, model_inputs
from trainers.reward.rows import RewardRows, prompt_key

MODEL = "reward model"
MEAN = "mean predictor"
SVR = {"answer": "SVR-RBF on answers", "both": "SVR-RBF on prompts and answers"}
RESAMPLES = 1000
N_VALUES = len(VALUES)


def spearman(predicted: Tensor, true: Tensor) -> Tensor:
    """Rank correlation of each column, in [-1, 1]; 0 where a column does not vary. (n, columns) twice."""
    ranks = (torch.from_numpy(rankdata(columns.numpy(), axis=0)) for columns in (predicted, true))
    a, b = (column - column.mean(0) for column in ranks)
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
    pairs = pairs.reshape(-1, 2)
    compared = _Compared.of(predicted, rows.targets[test], pairs)
    groups = [rows.groups[i] for i in unseen]
    samples = bootstrap_over_groups(
        compared.figures, groups[: len(test)], [groups[better] for better in pairs[:, 0].tolist()], resamples, seed
    )
    return {
        "rows": len(test),
        "prompts": len({rows.groups[i] for i in test}),
        "pairs": len(pairs),
        "trained_rows_in_file": len(train),
        **_figures(compared, samples),
    }


@dataclass(frozen=True)
class _Compared:
    """Predictors side by side on the same rows and pairs."""

    names: list[str]
    values: Tensor  # (n, names · 9) predicted
    truth: Tensor  # (n, names · 9) the same nine for every predictor
    right: Tensor  # (pairs, names): 1 where the better answer is scored higher

    @classmethod
    def of(cls, predicted: Mapping[str, Tensor], true: Tensor, pairs: Tensor) -> _Compared:
        """`predicted` may hold rows without labels at the end; `pairs` are row numbers, the better first."""
        names, n = list(predicted), len(true)
        right = [pair_accuracy(column[:, -1], pairs) for column in predicted.values()] if len(pairs) else []
        return cls(
            names=names,
            values=torch.stack([predicted[name][:n, :N_VALUES] for name in names], dim=1).flatten(1),
            truth=true[:, None, :N_VALUES].expand(-1, len(names), -1).flatten(1),
            right=torch.stack(right, dim=1) if right else torch.zeros(0, len(names), dtype=torch.float64),
        )

    def by_value(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Rank correlation and mean absolute error over these rows, repeats counted: (names, 9) each."""
        values, truth = self.values[rows], self.truth[rows]
        shape = (len(self.names), N_VALUES)
        return spearman(values, truth).reshape(shape), (values - truth).abs().mean(0).reshape(shape)

    def figures(self, rows: Tensor, pairs: Tensor) -> Tensor:
        """(3, names): mean rank correlation, error, share of pairs, over these rows and pairs."""
        correlation, error = self.by_value(rows)
        return torch.stack([correlation.mean(1), error.mean(1), self.right[pairs].mean(0)])


def bootstrap_over_groups(
    statistic: Callable[[Tensor, Tensor], Tensor],
    row_groups: Sequence[str],
    pair_groups: Sequence[str],
    resamples: int,
    seed: int,
) -> Tensor:
    """`statistic(rows, pairs)` over groups drawn with replacement, each with all of its rows and pairs."""
    order = sorted({*row_groups, *pair_groups})

    def members(groups: Sequence[str]) -> list[Tensor]:
        found: dict[str, list[int]] = {name: [] for name in order}
        for i, name in enumerate(groups):
            found[name].append(i)
        return [torch.tensor(found[name], dtype=torch.long) for name in order]

    rows_of, pairs_of = members(row_groups), members(pair_groups)
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randint(len(order), (len(order),), generator=generator).tolist() for _ in range(resamples)]
    return torch.stack(
        [statistic(torch.cat([rows_of[g] for g in d]), torch.cat([pairs_of[g] for g in d])) for d in drawn]
    )


def _figures(compared: _Compared, samples: Tensor) -> dict[str, Any]:
    """The report's figures by name, with their intervals."""
    names, rows = compared.names, torch.arange(len(compared.values))
    whole = compared.figures(rows, torch.arange(len(compared.right)))
    correlation, error = compared.by_value(rows)
    found: dict[str, Any] = {
        figure: {name: _figure(whole[f, i], samples[:, f, i]) for i, name in enumerate(names)}
        for f, figure in enumerate(("mean_spearman", "mae", "preference_accuracy"))
    }
    found["values"] = {
        value: {
            "spearman": {name: float(correlation[i, v]) for i, name in enumerate(names)},
            "mae": {name: float(error[i, v]) for i, name in enumerate(names)},
        }
        for v, value in enumerate(VALUES)
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
    """A figure and its 95 % interval; empty where there was nothing to measure (no pairs, say)."""
    known = samples[~samples.isnan()]
    low, high = known.quantile(torch.tensor([0.025, 0.975], dtype=known.dtype)).tolist() if len(known) else (0.0, 0.0)
    return {"value": float(value), "low": low, "high": high} if not value.isnan() else {}


def _support_vectors(encoder: Encoder, rows: RewardRows, train: list[int], unseen: list[int]) -> dict[str, Tensor]:
    """Predictions of both baselines, scikit-learn's as they come, for rows `unseen`: (rows, heads) each."""
    chosen = [*train, *unseen]
    answers = encoder.embeddings([rows.responses[i] for i in chosen]).double().numpy()
    distinct = sorted({rows.prompts[i] for i in chosen})
    of_prompt = dict(zip(distinct, encoder.embeddings(distinct).double().numpy(), strict=True))
    prompts = np.stack([of_prompt[rows.prompts[i]] for i in chosen])
    targets = rows.targets[train].numpy()
    inputs = {SVR["answer"]: answers, SVR["both"]: np.concatenate([prompts, answers], axis=1)}
    found = {}
    for name, x in inputs.items():
        columns = [SupportVectors().fit(x[: len(train)], column).predict(x[len(train) :]) for column in targets.T]
        found[name] = torch.from_numpy(np.stack(columns, axis=1))
    return found
