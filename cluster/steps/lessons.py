"""What conversations teach that the head's line has not taken yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.steps.splitting import split_new
from curriculum.conversations.lessons import LEAST_SCALAR, conversation_examples
from curriculum.example import Example
from curriculum.preferences.pairs import correction_pairs, merge, valence_pairs
from curriculum.preferences.sources import judged_turns
from ledger.conversations import LabelledTurn
from ledger.store import Stores


@dataclass(frozen=True)
class News:
    """What a lineage's conversations have that is new."""

    lessons: Sequence[Example]
    """Without those that no generation can take, since the line has what belongs to them on both sides."""
    pairs: int
    """Preference pairs whose better answer is one of the lessons."""


def new_lessons(stores: Stores, lineage: str) -> list[Example]:
    """Every lesson of a lineage's conversations that no generation of the head's line trained or was measured on.

    No clock has a say: a correction of last month's answer is new, and so is what was said while a generation trained.
    After a roll back the lessons of what was undone are new again.
    """
    return _untaken(stores, lineage, _teaching(stores, lineage))


def news(stores: Stores, lineage: str) -> News:
    """The new lessons, and how many preference pairs they bring."""
    turns = _teaching(stores, lineage)
    split = split_new(stores.ledger, lineage, _untaken(stores, lineage, turns), [], percent=0)
    lessons = [*split.train, *split.holdout]
    judged = judged_turns(turns)
    better = {(lesson.role, lesson.context, lesson.input, lesson.output.strip()) for lesson in lessons}
    pairs = merge(correction_pairs(judged), valence_pairs(judged))
    return News(lessons, sum((pair.role, pair.context, pair.prompt, pair.chosen) in better for pair in pairs))


def _teaching(stores: Stores, lineage: str) -> list[LabelledTurn]:
    return stores.conversations.teaching_turns(lineage, LEAST_SCALAR)


def _untaken(stores: Stores, lineage: str, turns: Sequence[LabelledTurn]) -> list[Example]:
    lessons = conversation_examples(turns)
    taken = stores.ledger.taken_among([lesson.id for lesson in lessons], lineage)
    return [lesson for lesson in lessons if lesson.id not in taken]
