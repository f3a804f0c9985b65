"""The Reward Health Index: whether what is rewarded still pulls one way, steadily, everywhere (DESIGN section 7).

Five components, each in [0, 1], from measured quantities, and their weighted sum. Pure: tensors in, floats out; what is
measured on a candidate is in `health_probe`. docs/explanation/reward-health.md says why each is defined as it is.

Shapes: M answers to probe prompts, D reward dimensions, K numbers of a gradient's sketch, B micro-batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

WEIGHTS: dict[str, float] = {"dcs": 0.25, "gvs": 0.15, "mss": 0.25, "cdrs": 0.20, "lrps": 0.15}
"""Share of each component in the index."""

_SMALL_LOSS = 0.05
"""Nats a token below which an answer's curvature is not made larger by its loss being small."""

_FLAT = 1e-6
"""A standard deviation below this is none: the values do not vary."""


@dataclass(frozen=True)
class Components:
    """The five parts of the index, each in [0, 1], 1 being healthy."""

    dcs: float
    """Dimensional coherence: the dimensions' gradients point the same way."""
    gvs: float
    """Gradient variance stability: micro-batches agree on the gradient."""
    mss: float
    """Manifold stability: distances between the probe prompts' states stayed, and the loss between parent and child is
    smooth."""
    cdrs: float
    """Cross-domain reward stability: the judge agrees with itself in every category."""
    lrps: float
    """Local against trajectory: the beginnings of an answer are judged as the whole is."""

    @property
    def rhi(self) -> float:
        """0.25 DCS + 0.15 GVS + 0.25 MSS + 0.20 CDRS + 0.15 LRPS, in [0, 1]."""
        return sum(WEIGHTS[name] * value for name, value in self.as_dict().items())

    @property
    def partial(self) -> float:
        """DCS + GVS, in [0, 2]: what is known while training and drives the online gate."""
        return self.dcs + self.gvs

    def as_dict(self) -> dict[str, float]:
        """By name, in the order of the index."""
        return asdict(self)


@dataclass(frozen=True)
class Measured:
    """One component with what it was made of, for the record."""

    value: float
    parts: dict[str, Any]


# -- DCS ---------------------------------------------------------------------------------------------------------


def dimension_gradients(rows: Tensor, rewards: Tensor) -> Tensor:
    """The gradient of each dimension, (D, K): the rows' gradients (M, K) weighted by its centred rewards (M, D).

    With rows the gradients of an answer's negative log-likelihood this is, up to its sign, the policy gradient of the
    expected reward with the mean as its baseline (Williams, 1992). Centred, because otherwise every dimension whose
    mean is not 0 would show what all answers have in common, and the cosines would tell the signs of means.
    """
    centred = rewards - rewards.mean(0)
    return (centred.t() @ rows) / len(rows)


def alignments(gradients: Tensor) -> Tensor:
    """GDA: cosine of every two dimensions' gradients, (D, D) in [-1, 1]; 0 where a gradient is 0."""
    norms = gradients.norm(dim=1, keepdim=True)
    unit = torch.where(norms > 0, gradients / norms.clamp_min(1e-30), torch.zeros(()))
    return (unit @ unit.t()).clamp(-1, 1)


def varying_dimensions(rewards: Tensor) -> list[int]:
    """Which of the D columns of (M, D) rewards vary at all."""
    return [i for i in range(rewards.shape[1]) if float(rewards[:, i].std(correction=0)) > _FLAT]


def dimensional_coherence(rows: Tensor, rewards: Tensor, names: Sequence[str]) -> Measured:
    """DCS = 2 / (N (N - 1)) Σ_{i<j} max(0, GDA(i, j)) over the N dimensions whose rewards vary.

    1 where all pull one way; near 0 where they pull against or across each other. With fewer than two that vary there
    is nothing to learn from, and it is 0.
    """
    rows, rewards = rows.double(), rewards.double()
    kept = varying_dimensions(rewards)
    if len(kept) < 2:
        return Measured(0.0, {"dimensions": [names[i] for i in kept]})
    cosines = alignments(dimension_gradients(rows, rewards[:, kept]))
    first, second = torch.triu_indices(len(kept), len(kept), 1)
    pairs = cosines[first, second]
    worst = int(pairs.argmin())
    return Measured(
        _unit(float(pairs.clamp_min(0).mean())),
        {
            "dimensions": [names[i] for i in kept],
            "most_opposed": [names[kept[int(first[worst])]], names[kept[int(second[worst])]], float(pairs[worst])],
            "negative_pairs": int((pairs < 0).sum()),
            "pairs": len(pairs),
        },
    )


# -- GVS ---------------------------------------------------------------------------------------------------------


def micro_batch_gradients(rows: Tensor, batches: int) -> Tensor:
    """(B, K): means of the rows' gradients, row i in batch i mod B, so that every category is in every batch."""
    return torch.stack([rows[start::batches].mean(0) for start in range(min(batches, len(rows)))])


def gradient_stability(batches: Tensor, noise_half: float) -> Measured:
    """GVS = 1 / (1 + noise / noise_half), noise = mean_b |g_b - ḡ|² / (mean_b |g_b|)², over micro-batches (B, K).

    The variance relative to the squared mean norm, whatever the gradients' size: 0 where all batches agree, just below
    1 where they have nothing in common, and up to B - 1 where a few explode beside the rest. Not finite or all zero: 0.
    """
    batches = batches.double()
    norms = batches.norm(dim=1)
    size = float(norms.mean()) ** 2
    variance = float((batches - batches.mean(0)).square().sum(1).mean())
    if not (math.isfinite(size) and math.isfinite(variance)) or size <= 0:
        return Measured(0.0, {"noise": None, "mean_norm": None, "largest_norm": None})
    noise = variance / size
    found = {"noise": noise, "mean_norm": math.sqrt(size), "largest_norm": float(norms.max())}
    return Measured(_unit(1 / (1 + noise / noise_half)), found)


# -- MSS ---------------------------------------------------------------------------------------------------------


def dissimilarities(states: Tensor) -> Tensor:
    """Upper triangle of the representational dissimilarity matrix: 1 - correlation of every two states (M, width)."""
    first, second = torch.triu_indices(len(states), len(states), 1)
    return 1 - torch.corrcoef(states.double()).nan_to_num()[first, second]


def manifold_stability(before: Tensor, after: Tensor, losses: Sequence[Tensor], curvature_half: float) -> Measured:
    """MSS = sqrt(RDM correlation · curvature part).

    The first factor is the correlation (at least 0) between the dissimilarities of the probe prompts for the parent and
    for the child (Kriegeskorte et al., 2008). The second is 1 / (1 + (spread / curvature_half)²), spread the standard
    deviation of the answers' relative curvatures along the straight way from parent to child.

    Args:
        before: (M, width) states of the parent.
        after: (M, width) states of the child.
        losses: the answers' losses (M,) for the parent, half-way and for the child, nats a token.
    """
    kept = max(0.0, correlation(dissimilarities(before), dissimilarities(after)))
    spread = float(relative_curvature(*(loss.double() for loss in losses)).std(correction=0))
    smooth = 1 / (1 + (spread / curvature_half) ** 2) if math.isfinite(spread) else 0.0
    return Measured(
        _unit(math.sqrt(kept * smooth)), {"rdm_correlation": kept, "curvature_part": smooth, "curvature_spread": spread}
    )


def relative_curvature(parent: Tensor, middle: Tensor, child: Tensor) -> Tensor:
    """(M,) second differences of losses at 0, 1/2 and 1 of the straight way from parent to child, 4 (L0 - 2 L½ + L1),
    each over its answer's mean loss on that way: a few surprising answers do not outweigh the rest. In [-24, 12]."""
    mean = (parent + middle + child) / 3
    return 4 * (parent - 2 * middle + child) / mean.clamp_min(_SMALL_LOSS)


# -- CDRS --------------------------------------------------------------------------------------------------------


def cross_domain_stability(
    rewards: Tensor, wholes: Tensor, again: Tensor, categories: Sequence[str], scalar_given: bool = True
) -> Measured:
    """CDRS, the cube root of three factors, so that one that fails is not averaged away.

    - agreement: 1 - 2 · contradictions, at least 0. Two answers of one category contradict where the judge's one number
      for the whole puts them in another order than the mean of its dimensions; noise contradicts itself half the time.
    - entropy: of how the categories share a dimension's variation, over its largest value; mean over dimensions. 1
      where every domain carries its part, 0 where one carries all or nothing varies.
    - consistency: correlation of the rewards with those of the same answers in another typography, centred by category
      and dimension; mean over categories, at least 0.

    Args:
        rewards: (M, D) dimensions of each answer.
        wholes: (M,) the judge's one number for each.
        again: (M, D) dimensions of the same answers restated.
        categories: of each answer.
        scalar_given: False where the judge gives no number of its own; the first factor is left out then.
    """
    rewards, again, wholes = rewards.double(), again.double(), wholes.double()
    groups = [
        members
        for name in sorted(set(categories))
        if len(members := [i for i, category in enumerate(categories) if category == name]) > 1
    ]
    if not groups:
        return Measured(0.0, {"contradictions": None, "entropy": None, "consistency": None})
    contradictions = _contradictions(rewards.mean(1), wholes, groups)
    factors = {
        "entropy": _domain_entropy(rewards, groups),
        "consistency": max(0.0, sum(_within(rewards[g], again[g]) for g in groups) / len(groups)),
    }
    if scalar_given:
        factors["agreement"] = max(0.0, 1 - 2 * contradictions)
    value = math.prod(factors.values()) ** (1 / len(factors))
    return Measured(_unit(value), {"contradictions": contradictions if scalar_given else None, **factors})


def _contradictions(means: Tensor, wholes: Tensor, groups: Sequence[list[int]]) -> float:
    """Share of pairs inside a category that are ordered one way by the mean and the other way by the whole."""
    against, pairs = 0.0, 0
    for group in groups:
        first, second = torch.triu_indices(len(group), len(group), 1)
        a, b = means[group], wholes[group]
        order = torch.sign(a[first] - a[second]) * torch.sign(b[first] - b[second])
        against += float((order < 0).sum()) + 0.5 * float((order == 0).sum())  # a tie settles nothing
        pairs += len(order)
    return against / pairs


def _domain_entropy(rewards: Tensor, groups: Sequence[list[int]]) -> float:
    """Mean over dimensions of the entropy of the categories' shares of variance, over its largest value."""
    if len(groups) < 2:
        return 1.0
    variances = torch.stack([rewards[group].var(0, correction=0) for group in groups])  # (categories, D)
    totals = variances.sum(0)
    shares = variances / totals.clamp_min(1e-30)
    entropies = -(shares * shares.clamp_min(1e-30).log()).sum(0) / math.log(len(groups))
    return float(torch.where(totals > _FLAT**2, entropies, torch.zeros(())).mean())


def _within(rewards: Tensor, again: Tensor) -> float:
    """Correlation over all numbers of one category, each dimension centred on its mean there."""
    return correlation((rewards - rewards.mean(0)).flatten(), (again - again.mean(0)).flatten())


# -- LRPS --------------------------------------------------------------------------------------------------------


def local_agreement(local: Tensor, wholes: Tensor) -> Measured:
    """LRPS: correlation over answers of what their beginnings and what the whole are given; mean over dimensions.

    At least 0. A dimension that does not vary counts as 0.

    Args:
        local: (M, D) mean reward of each answer's beginnings.
        wholes: (M, D) reward of the whole answer.
    """
    found = [correlation(local[:, d], wholes[:, d]) for d in range(wholes.shape[1])]
    return Measured(_unit(max(0.0, sum(found) / len(found))), {"by_dimension": found})


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's, in [-1, 1]; 0 where one of them does not vary or is not finite."""
    a, b = a.double(), b.double()
    if len(a) < 2 or not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        return 0.0
    if min(float(one.std(correction=0)) for one in (a, b)) <= _FLAT**2:
        return 0.0
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


def _unit(value: float) -> float:
    return min(1.0, max(0.0, value)) if math.isfinite(value) else 0.0
