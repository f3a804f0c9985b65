"""Word relations over `curriculum/data/words.toml`: which of some words is of a kind, and which does not belong."""

from __future__ import annotations

from collections.abc import Iterator

from bench.lessons.lesson import Asking, Lesson, generator_of, share_out
from curriculum.phases import load_words

KINDS = (
    "wild animal", "bird", "sea animal", "insect", "fruit", "vegetable", "drink", "colour", "body part", "clothing",
    "furniture", "tool", "vehicle", "building", "family member", "job", "sport", "instrument", "tree", "flower",
    "material", "feeling", "country", "city", "language", "metal or element",
)  # fmt: skip


def words_lesson() -> Lesson:
    """The relations as a closed lesson."""
    return Lesson("words", "closed", lambda size, seed: share_out(_drawn(seed), size, "closed"))


def _drawn(seed: int) -> Iterator[Asking]:
    rng, kinds = generator_of("words", seed), {name: load_words().categories[name] for name in KINDS}
    while True:
        kind, other, third = rng.sample(KINDS, 3)
        if rng.random() < 0.5:
            answer, category = rng.choice(kinds[kind]), "words/kind"
            words = [answer, rng.choice(kinds[other]), rng.choice(kinds[third])]
            question = f"Which is a {kind}: {{}}?"
        else:
            answer, category = rng.choice(kinds[other]), "words/odd"
            words = [answer, *rng.sample(kinds[kind], 3)]
            question = "Which does not belong: {}?"
        rng.shuffle(words)
        yield Asking(question.format(", ".join(words)), answer, category)
