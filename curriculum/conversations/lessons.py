"""Which answers of stored conversations become examples, and with what weight.

A user's label outranks a model's score: a correction replaces the answer, whoever gave it and however it ended; a good
valence keeps the answer, a bad one drops it. Unlabelled answers count by their reward, if they have one. A reward
model's judgement weighs an example once: here where the answer has a score, in the plan where it has none
(:func:`weight_by_reward`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from curriculum.example import Example, make_example
from curriculum.reward import RewardOutput, example_weight, gate
from ledger.conversations import AXES, Label, LabelledTurn
from ledger.roles import Role

CATEGORY = "conversation"

CORRECTED = "conversation/correction"
LIKED = "conversation/valence"
LIKED_UNSCORED = "conversation/valence-unscored"
REWARDED = "conversation/reward"
"""An example's `source`: who says that it should be learned."""

VOICE_OF_THE_BASE: Role = "dialectical"
"""Who learns a correction of the base's answer: nobody else was asked, and this is the voice that a user hears."""

LEAST_SCALAR = 0.0
"""Unlabelled answers are learned from only if their `scalar_preference` is above this."""

VALENCE_WEIGHTS = {1: 0.5, 2: 1.0}
"""Weight of an answer that its user liked, by valence."""

AXIS_STEP = 1.25
"""Factor on the weight for each axis of a label that says `high`; each `low` divides by it."""

AXES_MOST = 2.0
"""All axes of a label together multiply a weight by this at most, and divide it by this at most."""


@dataclass(frozen=True)
class _Lesson:
    """What should have been said, how strongly to learn it (0: not at all), who says so, and when it was said."""

    output: str
    weight: float
    source: str
    at: str


def conversation_examples(turns: Sequence[LabelledTurn]) -> list[Example]:
    """The examples of these turns, oldest first: one an answer, in its context, for the role that gave it.

    Of equal ones the one with the largest weight. Blank messages and blank answers teach nothing.
    """
    found: dict[str, Example] = {}
    for turn in turns:
        example = _example(turn)
        if example is not None and (example.id not in found or example.weight > found[example.id].weight):
            found[example.id] = example
    return list(found.values())


def axes_factor(label: Label | None) -> float:
    """How much more (or less) strongly to learn what moved, surprised or is worth telling; in [1/2, 2]."""
    levels = [] if label is None else [getattr(label, axis) for axis in AXES]
    factor = AXIS_STEP ** (levels.count("high") - levels.count("low"))
    return float(min(AXES_MOST, max(1 / AXES_MOST, factor)))


def weight_by_reward(example: Example, reward: RewardOutput) -> float:
    """Factor on an example's weight by a reward model's judgement of it: 1 where that has been weighed, or has no say.

    A correction is the user's own word, which no model weighs; what the user liked passes the safety gate alone.
    """
    if example.source in (CORRECTED, LIKED, REWARDED):
        return 1.0
    if example.source == LIKED_UNSCORED:
        return gate(reward.safety_score)
    return example_weight(reward.reward_intensity, reward.safety_score)


def _example(turn: LabelledTurn) -> Example | None:
    lesson = _correction(turn) or _answer(turn)
    if lesson is None or not lesson.weight or not lesson.output.strip() or not turn.message.strip():
        return None
    return make_example(
        role=VOICE_OF_THE_BASE if turn.role == "base" else turn.role,
        stage="conversations",
        category=CATEGORY,
        kind="hybrid",
        input=turn.message,
        output=lesson.output,
        context=turn.context,
        source=lesson.source,
        group=f"conversation/{turn.conversation}",
        weight=lesson.weight,
        created_at=lesson.at,
    )


def _correction(turn: LabelledTurn) -> _Lesson | None:
    """A correction's weight is never below 1, which no answer that only a model liked exceeds."""
    label = turn.label
    if label is None or not (label.correction or "").strip():
        return None
    return _Lesson((label.correction or "").strip(), max(1.0, axes_factor(label)), CORRECTED, label.at)


def _answer(turn: LabelledTurn) -> _Lesson | None:
    """The answer itself, of a role's that was given to its end."""
    label, score = turn.label, turn.score
    if turn.role == "base" or turn.finish_reason == "aborted":
        return None
    if label is not None and label.valence is not None:
        weight = VALENCE_WEIGHTS.get(label.valence, 0.0) * axes_factor(label)
        if score is None:
            return _Lesson(turn.answer, weight, LIKED_UNSCORED, label.at)
        return _Lesson(turn.answer, weight * score.gate, LIKED, label.at)  # what is unsafe is not learned
    if score is None or score.scalar_preference <= LEAST_SCALAR:
        return None
    reward = example_weight(score.reward_intensity, score.safety_score) * axes_factor(label)
    return _Lesson(turn.answer, min(1.0, reward), REWARDED, score.at)
