"""What conversations teach that the head's line has not taken yet."""

from __future__ import annotations

from curriculum.conversations.lessons import LEAST_SCALAR, conversation_examples
from curriculum.example import Example
from ledger.store import Stores


def new_lessons(stores: Stores, lineage: str) -> list[Example]:
    """Every lesson of a lineage's conversations that no generation of the head's line trained or was measured on.

    No clock has a say: a correction of last month's answer is new, and so is what was said while a generation trained.
    After a roll back the lessons of what was undone are new again.
    """
    lessons = conversation_examples(stores.conversations.teaching_turns(lineage, LEAST_SCALAR))
    taken = stores.ledger.taken_among([lesson.id for lesson in lessons], lineage)
    return [lesson for lesson in lessons if lesson.id not in taken]
