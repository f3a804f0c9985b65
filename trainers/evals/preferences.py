"""Preference accuracy: is the chosen answer likelier than the rejected one, for pairs that were kept from training?

Three ways to ask, all stored: by the mean log-likelihood of the answer's tokens, which is the score, as in evaluation
by `choice`; by the sum, which longer answers lose; and by DPO's implicit reward, how much likelier each answer became
against the parent.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from curriculum.preferences.pairs import Preference
from curriculum.render import render_prompt
from ledger.intervals import wilson_interval
from ledger.records import EvalRecord
from ledger.roles import Role
from trainers.fused.engine import FusedEngine
from trainers.lean.generator import BASE, LeanGenerator, Voice, answer_ids

NAME = "preference_accuracy"


@dataclass(frozen=True)
class PairLikelihood:
    """Log-likelihoods of a pair's answers under one model, in nats: sums over tokens, and means."""

    chosen: float
    rejected: float
    chosen_mean: float
    rejected_mean: float


def measure_preferences(
    engine: FusedEngine,
    pairs: Mapping[Role, Sequence[Preference]],
    adapters: Mapping[Role, str],
    adapters_dir: Path,
    parents: Mapping[Role, str],
    parents_dir: Path,
    gen_id: int,
    beta: float,
) -> list[EvalRecord]:
    """One record for each role that has pairs: its adapter against its parent's, or the base where it has none."""
    child = engine.generator(adapters, adapters_dir)
    parent = engine.generator(parents, parents_dir)
    return [
        preference_record(
            gen_id, role, pair_likelihoods(child, role, own),
            pair_likelihoods(parent, role if role in parents else BASE, own), beta,
        )
        for role, own in pairs.items()
        if own
    ]  # fmt: skip


def pair_likelihoods(generator: LeanGenerator, voice: Voice, pairs: Sequence[Preference]) -> list[PairLikelihood]:
    """How likely `voice` finds both answers of each pair, in the pair's own role's prompt; nothing is cut."""
    asked = [
        (render_prompt(pair.role, pair.prompt, pair.context), answer)
        for pair in pairs
        for answer in (pair.chosen, pair.rejected)
    ]
    means = generator.mean_log_likelihoods(voice, asked)
    sums = [mean * len(answer_ids(generator.tokenizer, text)) for mean, (_, text) in zip(means, asked, strict=True)]
    return [PairLikelihood(sums[i], sums[i + 1], means[i], means[i + 1]) for i in range(0, len(asked), 2)]


def preference_record(
    gen_id: int, role: Role, child: Sequence[PairLikelihood], parent: Sequence[PairLikelihood], beta: float
) -> EvalRecord:
    """The score and its companions as shares of the same pairs; a tie does not count for the chosen answer.

    The implicit reward of an answer is `beta · (log-likelihood under the child - under the parent)` (Rafailov et al.,
    2023); `reward_margin` is its mean difference over the pairs.
    """
    margins = [beta * ((c.chosen - p.chosen) - (c.rejected - p.rejected)) for c, p in zip(child, parent, strict=True)]
    n = len(child)
    shares = {
        "by_mean": sum(one.chosen_mean > one.rejected_mean for one in child),
        "by_sum": sum(one.chosen > one.rejected for one in child),
        "by_implicit_reward": sum(margin > 0 for margin in margins),
        "parent_by_mean": sum(one.chosen_mean > one.rejected_mean for one in parent),
        "parent_by_sum": sum(one.chosen > one.rejected for one in parent),
    }
    low, high = wilson_interval(shares["by_mean"], n)
    details = {
        **{name: passed / n for name, passed in shares.items()},
        "reward_margin": statistics.fmean(margins),
        "beta": beta,
    }
    return EvalRecord(
        gen_id=gen_id, role=role, eval=NAME, method="pairs", value=shares["by_mean"] / n, n=n, low=low, high=high,
        details=details,
    )  # fmt: skip
