"""Conversations made from templates: somebody tells of a plan, and a question comes back to one part of it."""

from __future__ import annotations

import random
from collections.abc import Iterator

from bench.lessons.lesson import Asking, Lesson, generator_of, share_out
from curriculum.transcript import Exchange, render_talk

_NAMES = (
    "Mara", "Tom", "Aylin", "Jonas", "Priya", "Luis", "Nadia", "Kofi", "Ingrid", "Marek", "Sofia", "Dario", "Leni",
    "Hassan", "Yuki", "Elias", "Noor", "Pavel", "Ruth", "Omar",
)  # fmt: skip
_PLACES = (
    "the harbour", "the old mill", "Lisbon", "the library", "the lake", "my garden", "Oslo", "the market",
    "the station", "the hill behind the school", "Granada", "the bakery", "the museum", "the beach", "my aunt's flat",
    "Tallinn",
)  # fmt: skip
_THINGS = (
    "a kite", "two umbrellas", "soup", "old photographs", "a chessboard", "bread and cheese", "a guitar", "binoculars",
    "a map", "ginger tea", "a blanket", "my camera", "a pot of basil", "the borrowed ladder", "sandwiches", "a puzzle",
)  # fmt: skip
_TIMES = ("on Monday", "on Tuesday", "on Friday", "on Sunday", "tonight", "tomorrow", "next week", "at noon", "in May")
_DOINGS = (
    "meet {name} at {place}", "walk to {place} with {name}", "visit {name}; we go to {place}",
    "draw {place} with {name}", "surprise {name} at {place}",
)  # fmt: skip
_REPLIES = ("That sounds lovely.", "I like that plan.", "Tell me how it goes.", "What a good idea.", "I am curious.")

_ASKED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "who": (
        ("Who comes along?", "Whom did I want to see?", "Do you remember with whom?"),
        ("{name} does. You were looking forward to it.", "You named {name}. I kept that.", "{name}, you said."),
    ),
    "where": (
        ("Where was it again?", "Which place did I pick?", "Where do I have to go?"),
        ("You picked {place}.", "To {place}, if nothing changes.", "It was {place}. I can see it before me."),
    ),
    "what": (
        ("What must I not forget?", "What did I want to bring?", "What goes into my bag?"),
        ("You wanted to bring {thing}.", "Take {thing} with you.", "{thing}: put it by the door now."),
    ),
    "when": (
        ("When is it?", "When did I say?", "How long do I have?"),
        ("It is {time}.", "You said {time}. There is still a little while.", "{time}, as I heard it."),
    ),
}


def plans_lesson() -> Lesson:
    """The conversations as an open lesson."""
    return Lesson("plans", "open", lambda size, seed: share_out(_drawn(seed), size, "open"))


def _drawn(seed: int) -> Iterator[Asking]:
    rng, number = generator_of("plans", seed), 0
    while True:
        number += 1
        yield _one(rng, number)


def _one(rng: random.Random, number: int) -> Asking:
    drawn = {"name": _NAMES, "place": _PLACES, "thing": _THINGS, "time": _TIMES}
    parts = {part: rng.choice(choices) for part, choices in drawn.items()}
    told = f"I want to {rng.choice(_DOINGS).format(**parts)} {parts['time']}. I will bring {parts['thing']}."
    part = rng.choice(list(_ASKED))
    questions, answers = _ASKED[part]
    answer = rng.choice(answers).format(**parts)
    return Asking(
        rng.choice(questions),
        answer[0].upper() + answer[1:],
        f"plans/{part}",
        context=render_talk([Exchange(told, rng.choice(_REPLIES))]),
        group=f"conversation/bench-{number}",
    )
