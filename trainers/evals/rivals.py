"""The prompts that an answer could as well belong to: those most similar to its own. Pure."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from curriculum.example import Example

RIVALS = 3
"""Other prompts that an answer is tried under; chance is one in four."""

_SATURATION, _LENGTH = 1.2, 0.75
"""k1 and b of BM25 (Robertson and Zaragoza, 2009, "The Probabilistic Relevance Framework")."""


def rivals_of(items: Sequence[Example], pool: Sequence[Example]) -> list[list[Example]]:
    """For each item the three of the pool with the most similar other prompts and other answers; fewer in a small pool.

    Those of its own category come first, as an answer fits no question of another kind, even where answers were
    shuffled within each category. Similarity is BM25 over the words of context and question. Each rival has a prompt of
    its own.
    """
    unlike = sorted({_prompt(other): other for other in sorted(pool, key=_by_id)}.values(), key=_by_id)
    score = _Bm25([_words(other) for other in unlike])
    found = []
    for item in items:
        scores = score.of(_words(item))
        order = sorted(range(len(unlike)), key=lambda i: (unlike[i].category != item.category, -scores.get(i, 0.0), i))
        others = (unlike[i] for i in order)
        fit = (other for other in others if _prompt(other) != _prompt(item) and other.output != item.output)
        found.append([other for other, _ in zip(fit, range(RIVALS), strict=False)])
    return found


class _Bm25:
    """Scores documents by the words of a query."""

    def __init__(self, documents: Sequence[Sequence[str]]):
        mean = sum(map(len, documents)) / max(1, len(documents)) or 1.0
        self.weights: dict[str, dict[int, float]] = defaultdict(dict)
        for number, words in enumerate(documents):
            stretch = _SATURATION * (1 - _LENGTH + _LENGTH * len(words) / mean)
            for word, count in Counter(words).items():
                self.weights[word][number] = count * (_SATURATION + 1) / (count + stretch)
        for own in self.weights.values():
            rarity = math.log(1 + (len(documents) - len(own) + 0.5) / (len(own) + 0.5))
            own.update({number: rarity * weight for number, weight in own.items()})

    def of(self, query: Sequence[str]) -> dict[int, float]:
        """The score of each document that has a word of the query."""
        found: dict[int, float] = defaultdict(float)
        for word in sorted(set(query)):
            for number, weight in self.weights.get(word, {}).items():
                found[number] += weight
        return found


def _words(item: Example) -> list[str]:
    return re.findall(r"\w+", f"{item.context} {item.input}".lower())


def _prompt(item: Example) -> tuple[str, str]:
    return item.context, item.input


def _by_id(item: Example) -> str:
    return item.id
