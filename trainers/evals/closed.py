"""Whether an item's answer is closed, so that the whole answer must come, or open. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

from curriculum.example import Example, scoring_of

_FEWEST_LABELS, _MOST_LABELS = 2, 3
"""A category whose items share so many short answers is closed; one answer to everything asks nothing."""

_LABEL_BYTES = 48
"""Longest answer that counts as a label such as `spam` or `very satisfied`."""

_FEWEST_USES = 2
"""Questions to an answer, on average, in a set of labels; three answers that are given once each are no closed set."""


def closed_categories(items: Iterable[Example]) -> frozenset[str]:
    """Categories with closed answers: those that are known so, and those whose items share two or three labels.

    Args:
        items: everything that a role knows of them; few items say little about a category.
    """
    by_category: dict[str, list[Example]] = defaultdict(list)
    for item in items:
        by_category[item.category].append(item)
    return frozenset(name for name, own in by_category.items() if scoring_of(own[0]) == "exact" or _are_labels(own))


def label_bytes(items: Iterable[Example], closed: Collection[str]) -> int:
    """Length of the longest label; as many tokens hold it, since a token is at least one byte."""
    labels = (e.output for e in items if e.category in closed and scoring_of(e) != "exact")
    return max((len(label.encode()) for label in labels), default=0)


def _are_labels(items: Sequence[Example]) -> bool:
    answers, questions = {item.output for item in items}, {(item.context, item.input) for item in items}
    return (
        _FEWEST_LABELS <= len(answers) <= _MOST_LABELS
        and len(questions) >= _FEWEST_USES * len(answers)
        and all(len(answer.encode()) <= _LABEL_BYTES for answer in answers)
    )
