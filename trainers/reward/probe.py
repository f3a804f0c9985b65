"""Looking into one judgement: what changed between two answers, and which words carry it.

Attribution is by occlusion: a word is left out, the rest is scored again, and the difference is the word's. That takes
in the counted features as well as the encoder, which a gradient through the encoder would not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from curriculum.reward import VALUES, RewardOutput
from trainers.reward.model import HEADS, RewardModel

SPANS = 96
"""Most pieces that an answer is cut into; a longer one is cut into pieces of several words."""


@dataclass(frozen=True)
class SpanEffect:
    """What a piece of an answer adds to each value: positive where the value falls without it."""

    text: str
    start: int
    end: int
    effects: dict[str, float]


def changes(before: RewardOutput, after: RewardOutput) -> dict[str, float]:
    """Each of the nine values of `after`, less that of `before`."""
    return {name: getattr(after, name) - getattr(before, name) for name in VALUES}


def spans(text: str, most: int = SPANS) -> list[tuple[int, int]]:
    """Where the pieces of a text begin and end: its words, or runs of words where there are more than `most`."""
    words = [match.span() for match in re.finditer(r"\S+", text)]
    size = max(1, -(-len(words) // most))
    return [(words[i][0], words[min(i + size, len(words)) - 1][1]) for i in range(0, len(words), size)]


def occlusion(model: RewardModel, prompt: str, response: str, most: int = SPANS) -> list[SpanEffect]:
    """The effect of each piece of the answer on every value and on the preference, in order of the text."""
    places = spans(response, most)
    without = [response[:start].rstrip() + response[end:] for start, end in places]
    whole, *rest = model.score([prompt] * (len(places) + 1), [response, *without])
    return [
        SpanEffect(
            response[start:end],
            start,
            end,
            {name: getattr(whole, name) - getattr(less, name) for name in HEADS},
        )
        for (start, end), less in zip(places, rest, strict=True)
    ]
