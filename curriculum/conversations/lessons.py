"""Which answers of stored conversations become examples, and with what weight.

A user's label outranks a model's score: a correction replaces the answer, a good valence keeps it, a bad one drops it.
Unlabelled answers count by their reward, if they have one.
"""

from __future__ import annotations

from collections.abc import Sequence

from curriculum.example import Example, make_example, unique
from curriculum.reward import example_weight
from ledger.conversations import LabelledTurn
from ledger.scores import Score

CATEGORY = "conversation"

LEAST_SCALAR = 0.0
"""Unlabelled answers are learned from only if their `scalar_preference` is above this."""

VALENCE_WEIGHTS = {1: 0.5, 2: 1.0}
"""Weight of an answer that its user liked, by valence."""


def conversation_examples(turns: Sequence[LabelledTurn]) -> list[Example]:
    """The examples of these turns, oldest first, without duplicates.

    One example an answer, of the role that gave it and in its context. Aborted answers, the base's and those without a
    good label or score are left out.
    """
    return unique(example for turn in turns if (example := _example(turn)) is not None)


def _example(turn: LabelledTurn) -> Example | None:
    if turn.role == "base":
        return None
    output, weight, source = _lesson(turn, turn.score)
    if not weight or not output.strip():
        return None
    return make_example(
        role=turn.role,
        stage="conversations",
        category=CATEGORY,
        kind="hybrid",
        input=turn.message,
        output=output,
        context=turn.context,
        source=source,
        weight=weight,
        created_at=turn.at,
    )


def _lesson(turn: LabelledTurn, score: Score | None) -> tuple[str, float, str]:
    """What should have been said, how strongly to learn it (0: not at all), and who says so."""
    label = turn.label
    if label is not None and label.correction:
        return label.correction, 1.0, "conversation/correction"
    if turn.finish_reason == "aborted":
        return turn.answer, 0.0, ""
    if label is not None and label.valence is not None:
        safe = 1.0 if score is None else score.gate  # liked or not, what is unsafe is not learned
        return turn.answer, VALENCE_WEIGHTS.get(label.valence, 0.0) * safe, "conversation/valence"
    if score is None or score.scalar_preference <= LEAST_SCALAR:
        return turn.answer, 0.0, ""
    return turn.answer, example_weight(score.reward_intensity, score.safety_score), "conversation/reward"
