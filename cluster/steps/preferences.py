"""What the second channel adds to the plan: frozen pairs, and weights by the reward model in use."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cluster.request import GenerationRequest
from cluster.steps.records import ChannelFiles, Collected
from curriculum.conversations.lessons import weight_by_reward
from curriculum.example import Example
from curriculum.preferences.pairs import Preference, freeze_preferences, read_preference_set
from curriculum.reward import RewardOutput, example_weight, gate
from curriculum.reward.scores import freeze_scores
from ledger.home import Home
from ledger.roles import ROLES, Role

logger = logging.getLogger(__name__)

Scorer = Callable[[Sequence[tuple[str, str]]], list[RewardOutput]]
"""Judges (prompt, answer) pairs."""


@dataclass(frozen=True)
class Channels:
    """What a second channel does to the plan; nothing with one channel."""

    weights: Mapping[str, float] = field(default_factory=dict)
    """Factor on the weight of each example that was judged, by id."""
    files: ChannelFiles = field(default_factory=ChannelFiles)


def prepare_channels(home: Home, request: GenerationRequest, collected: Collected, new: Sequence[Example]) -> Channels:
    """Weigh the new conversations and the pairs by the reward model, and freeze all of it.

    Raises:
        LunaError: the reward model or a frozen file is missing or was changed.
    """
    if request.settings.channels.mode != "dual":
        return Channels()
    scorer, reward_sha = reward_scorer(home)
    train, held_out = (
        read_preference_set(home.data_file(sha)) if sha else []
        for sha in (collected.pairs_sha, collected.held_out_pairs_sha)
    )
    weights: dict[str, float] = {}
    rewards_sha = ""
    if scorer is None:
        logger.info("no reward model is in use: weights stay as they are")
    else:
        judged = [example for example in new if is_judged(example)]
        scores = dict(zip((e.id for e in judged), scorer([(e.input, e.output) for e in judged]), strict=True))
        weights = {example.id: weight_by_reward(example, scores[example.id]) for example in judged}
        train, held_out = weighed_pairs(train, scorer), weighed_pairs(held_out, scorer)
        rewards_sha = freeze_scores(scores, home) if scores else ""
        unsafe = sum(weight == 0 for weight in weights.values())
        logger.info(
            "reward model %s: %d examples from conversations weighed, %d left out", reward_sha[:12], len(scores), unsafe
        )
    if not any(pair.weight > 0 for pair in train):
        logger.info("no preference pairs with a weight above 0: examples get the whole weight")
    else:
        logger.info("%d preference pairs, %d held out", len(train), len(held_out))
    files = ChannelFiles(
        pref_sha=freeze_preferences(train, home) if train else "",
        pref_holdout_sha=freeze_preferences(held_out, home) if held_out else "",
        reward_sha=reward_sha,
        rewards_sha=rewards_sha,
    )
    return Channels(weights, files)


def is_judged(example: Example) -> bool:
    """Whether a reward model scores the example: it stems from a conversation and is no puzzle."""
    return example.stage == "conversations" and not example.category.startswith("agl/")


def weighed_pairs(pairs: Sequence[Preference], scorer: Scorer) -> list[Preference]:
    """Each pair with its weight times that of its chosen answer.

    Pairs of labels have it already. What a user wrote instead no model weighs, and what a user liked better passes the
    safety gate alone.
    """
    asked = [pair for pair in pairs if not pair.weighed and pair.origin != "correction"]
    scores = dict(zip((p.id for p in asked), scorer([(p.prompt, p.chosen) for p in asked]), strict=True))
    return [
        dataclasses.replace(pair, weight=pair.weight * _factor(pair, s)) if (s := scores.get(pair.id)) else pair
        for pair in pairs
    ]


def _factor(pair: Preference, reward: RewardOutput) -> float:
    if pair.origin == "valence":
        return gate(reward.safety_score)
    return example_weight(reward.reward_intensity, reward.safety_score)


def weighted_pairs_by_role(file: Path) -> dict[Role, list[Preference]]:
    """The pairs of a frozen set that have a weight above 0, by role."""
    pairs = [pair for pair in read_preference_set(file) if pair.weight > 0]
    return {role: [pair for pair in pairs if pair.role == role] for role in ROLES}


def reward_scorer(home: Home) -> tuple[Scorer | None, str]:
    """The reward model in use as a judge, with its SHA; None where the home has none.

    Raises:
        LunaError: the model in use is missing or was changed.
    """
    from trainers.reward.model import load_reward_model, reward_model_in_use

    folder = reward_model_in_use(home)
    if folder is None:
        return None, ""
    model = load_reward_model(folder)

    # One at a time: in a batch the last bits of a score depend on its neighbours, so that an unsafe example, which is
    # to change nothing, would change the weights of those beside it.
    def score(pairs: Sequence[tuple[str, str]]) -> list[RewardOutput]:
        return [model.score([prompt], [answer])[0] for prompt, answer in pairs]

    return score, folder.name
