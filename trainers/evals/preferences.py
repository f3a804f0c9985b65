"""Preference accuracy: is the chosen answer likelier than the rejected one, for pairs that were kept from training?

Three ways to ask, all stored: by the mean log-likelihood of the answer's tokens, which is the score; by the sum, which
longer answers lose; and by DPO's implicit reward, how much likelier each answer became against the parent.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from curriculum.preferences.pairs import Preference
from curriculum.transcript import LengthSettings, fit
from ledger.records import EvalRecord
from ledger.roles import BASE, Role, Voice
from trainers.generator import answer_ids
from trainers.lean.base import LeanBase
from trainers.lean.generator import LeanGenerator
from trainers.models.adapter_set import AdapterSet
from trainers.models.adapters import lean_generator

NAME = "preference_accuracy"


@dataclass(frozen=True)
class PairLikelihood:
    """Log-likelihoods of a pair's answers under one model, in nats: sums over tokens, and means."""

    chosen: float
    rejected: float
    chosen_mean: float
    rejected_mean: float


@dataclass(frozen=True)
class PreferenceScores:
    """What one role's adapter and its parent's say of the same pairs."""

    role: Role
    child: Sequence[PairLikelihood]
    parent: Sequence[PairLikelihood]
    beta: float

    def record(self, gen_id: int) -> EvalRecord:
        """The score and its companions as shares of the pairs; a tie does not count for the chosen answer.

        The implicit reward of an answer is `beta · (log-likelihood under the child - under the parent)` (Rafailov et
        al., 2023); `reward_margin` is its mean difference over the pairs.
        """
        margins = [
            self.beta * ((c.chosen - p.chosen) - (c.rejected - p.rejected))
            for c, p in zip(self.child, self.parent, strict=True)
        ]
        passed = {
            "by_mean": [one.chosen_mean > one.rejected_mean for one in self.child],
            "by_sum": [one.chosen > one.rejected for one in self.child],
            "by_implicit_reward": [margin > 0 for margin in margins],
            "parent_by_mean": [one.chosen_mean > one.rejected_mean for one in self.parent],
            "parent_by_sum": [one.chosen > one.rejected for one in self.parent],
        }
        details = {
            **{name: sum(items) / len(items) for name, items in passed.items()},
            "reward_margin": statistics.fmean(margins),
            "beta": self.beta,
        }
        return EvalRecord.of_share(gen_id, self.role, NAME, "pairs", passed["by_mean"], details)


def measure_preferences(
    lean: LeanBase,
    pairs: Mapping[Role, Sequence[Preference]],
    child: AdapterSet,
    parent: AdapterSet,
    beta: float,
    lengths: LengthSettings = LengthSettings(),
) -> list[PreferenceScores]:
    """For each role that has pairs: its adapter against its parent's, or the base where it has none."""
    ours, theirs = lean_generator(lean, child), lean_generator(lean, parent)
    return [
        PreferenceScores(
            role=role,
            child=pair_likelihoods(ours, role, own, lengths),
            parent=pair_likelihoods(theirs, role if role in parent.shas else BASE, own, lengths),
            beta=beta,
        )
        for role, own in pairs.items()
        if own
    ]


def pair_likelihoods(
    generator: LeanGenerator, voice: Voice, pairs: Sequence[Preference], lengths: LengthSettings = LengthSettings()
) -> list[PairLikelihood]:
    """How likely `voice` finds both answers of each pair, in the pair's own role's prompt, cut as in training."""
    asked = []
    for pair in pairs:
        prompt = fit(pair.role, pair.prompt, pair.context, lengths.room, generator.count)
        asked += [(prompt, answer) for answer in (pair.chosen, pair.rejected)]
    found = generator.likelihoods(voice, [(prompt.prompt, text) for prompt, text in asked], lengths.max_tokens)
    means = [one.mean for one in found]
    sums = [
        mean * min(len(answer_ids(generator.tokenizer, text)), lengths.max_tokens - prompt.tokens)
        for mean, (prompt, text) in zip(means, asked, strict=True)
    ]
    return [PairLikelihood(sums[i], sums[i + 1], means[i], means[i + 1]) for i in range(0, len(asked), 2)]
