"""The style of the sample dialogues (chatterbot-corpus): the same questions for all roles, with her name or without."""

from __future__ import annotations

from bench.lessons.lesson import Lesson, Material, Size, generator_of
from curriculum.conversations.dialogues import dialogue_examples, dialogue_topics
from curriculum.example import Example, make_example
from ledger.errors import LunaError
from ledger.roles import ROLES

_CALLS = ("", "Luna, ", "Hey, ")
"""What stands before a question; its forms are near copies, so a generation holds out all or none of them."""


def small_talk_lesson() -> Lesson:
    """The dialogues as an open lesson."""
    return Lesson("small talk", "open", _material)


def _material(size: Size, seed: int) -> Material:
    rows, probes = [], []
    each = -(-size.probes // len(ROLES))
    for role in ROLES:
        # One fact of trivia does not teach another.
        pairs = dialogue_examples(role, [topic for topic in dialogue_topics() if topic != "trivia"])
        generator_of("small talk", seed).shuffle(pairs)  # alike for every role
        probes += pairs[:each]
        forms = [_called(pair, call) for call in _CALLS for pair in pairs[each:]]
        if len(forms) < size.rows:
            raise LunaError(
                f"the dialogues give {len(forms)} rows a role and {size.rows} are asked for; ask for fewer."
            )
        rows += forms[: size.rows]
    return Material(rows, probes[: size.probes])


def _called(pair: Example, call: str) -> Example:
    if not call:
        return pair
    fields = {name: getattr(pair, name) for name in ("role", "stage", "category", "kind", "output", "source")}
    return make_example(**fields, input=f"{call}{pair.input}")
