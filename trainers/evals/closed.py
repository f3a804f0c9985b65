"""How an item is scored where its data decides: by its whole answer, or by choosing it among others. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from curriculum.example import Example, scoring_of

FEWEST_ANSWERS = 4
"""A choice is among so many answers: the true one and three to other questions."""

_LABEL_BYTES = 48
"""Longest answer that counts as a label such as `spam` or `very satisfied`."""

_FEWEST_USES = 2
"""Questions to an answer, on average, in a set of labels; three answers that are given once each are no closed set."""


@dataclass(frozen=True)
class ByScoring:
    """The items of a set by how they are scored."""

    whole: list[Example]
    """Those whose whole answer must come."""
    choice: list[Example]
    choice_pool: list[Example]
    """Further items whose answers may stand among the wrong ones."""

    @property
    def answer_tokens(self) -> int:
        """Tokens that every label among the whole answers has room in: a token is at least one byte."""
        labels = (item.output for item in self.whole if scoring_of(item) == "choice")
        return max((len(label.encode()) for label in labels), default=0)


def by_scoring(items: Sequence[Example], pool: Sequence[Example] = ()) -> ByScoring:
    """How each item is scored, given everything else that its role knows."""
    closed = closed_categories([*items, *pool])
    return ByScoring(
        whole=[item for item in items if item.category in closed],
        choice=[item for item in items if item.category not in closed],
        choice_pool=[item for item in pool if item.category not in closed],
    )


def closed_categories(items: Iterable[Example]) -> frozenset[str]:
    """Categories with closed answers: those that are known so, and those whose items share fewer than four labels.

    Where the only answers are yes and no there are no three wrong ones to choose from; the whole answer is asked.
    """
    by_category: dict[str, list[Example]] = defaultdict(list)
    for item in items:
        by_category[item.category].append(item)
    return frozenset(name for name, own in by_category.items() if scoring_of(own[0]) == "exact" or _are_labels(own))


def _are_labels(items: Sequence[Example]) -> bool:
    answers, questions = {item.output for item in items}, {(item.context, item.input) for item in items}
    return (
        len(answers) < FEWEST_ANSWERS
        and len(questions) >= _FEWEST_USES * len(answers)
        and all(len(answer.encode()) <= _LABEL_BYTES for answer in answers)
    )


def fewest_answers(asked: ByScoring) -> int | None:
    """How many different answers the item with the fewest can be asked among; None if nothing is asked by choice."""
    questions: dict[str, set[str]] = defaultdict(set)
    for item in [*asked.choice, *asked.choice_pool]:
        questions[item.output].add(item.input)
    own: dict[str, set[str]] = defaultdict(set)  # answers that one question alone has are no wrong ones to it
    for answer, inputs in questions.items():
        if len(inputs) == 1:
            own[next(iter(inputs))].add(answer)
    return min((len(questions) - len(own[item.input] - {item.output}) for item in asked.choice), default=None)
