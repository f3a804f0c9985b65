"""What the base says itself about everyday life, as examples: repeated in training, it is not forgotten."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from curriculum.everyday.answers import is_right
from curriculum.everyday.questions import EverydayQuestion
from curriculum.example import Example, make_example
from ledger.roles import ROLES, Role

_SENTENCE = re.compile(r"\S.*?[.!?](?=\s|$)", re.DOTALL)


@dataclass(frozen=True)
class Known:
    """A question that the untouched base gets right, and its own words."""

    question: EverydayQuestion
    answer: str
    sure: bool = False
    """It also gets it right however it is asked; see :data:`curriculum.everyday.questions.FORMS`."""


def rehearsals(role: Role, known: Mapping[Role, Sequence[Known]], asked: Sequence[EverydayQuestion]) -> list[Example]:
    """The base's own right answers, to the end of their first sentence, for one role to repeat; one a question.

    What the base gets right only in another role's prompt it knows as well. Answers that are cut off or right only
    later on are left out, and so are the questions that the role is `asked` after training.
    """
    left_out, found = {question.id for question in asked}, dict[str, Example]()
    for prompted in (role, *(other for other in ROLES if other != role)):
        for one in known.get(prompted, ()):
            sentence = first_sentence(one.answer)
            if one.question.id not in left_out and is_right(one.question, sentence):
                found.setdefault(one.question.id, _example(role, one.question.question, sentence))
    return list(found.values())


def first_sentence(answer: str) -> str:
    """An answer up to the end of its first sentence; empty if it comes to none."""
    found = _SENTENCE.match(answer.lstrip())
    return found.group() if found else ""


def _example(role: Role, question: str, answer: str) -> Example:
    return make_example(
        role=role,
        stage="fundamentals",
        category="everyday",
        kind="hybrid",
        input=question,
        output=answer,
        source="everyday/base",
    )
