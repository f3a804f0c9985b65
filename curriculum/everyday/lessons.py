"""Lessons of everyday life: questions answered shortly and rightly in plain words, and small talk in a human voice.

Most are written by hand in `curriculum/data/everyday/lessons.toml`; sums and kinds of things are made up here beside
them, so that there are always more.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from random import Random

from curriculum.everyday.answers import spoken
from curriculum.everyday.questions import DATA, questions
from curriculum.example import Example, make_example
from curriculum.phases import load_words
from ledger.errors import LunaError
from ledger.files import read_toml
from ledger.roles import Role

TALK_SHARE = 0.35
"""Share of small talk among the lessons, in [0, 1]; less where it is used up."""

_SOURCE = "everyday/"

Lesson = tuple[str, str]


def everyday_examples(role: Role, count: int, seed: int) -> list[Example]:
    """`count` lessons with different inputs, equal for equal arguments; categories `everyday` and `talk`.

    Raises `LunaError` where there are not so many.
    """
    rng = Random(f"everyday:{role}:{seed}")
    talk = list(written()["talk"].items())
    rng.shuffle(talk)
    talk = talk[: round(TALK_SHARE * count)]
    general = list(islice(_general(rng), count - len(talk)))
    if len(talk) + len(general) < count:
        raise LunaError(
            f"asked for {count} everyday lessons; there are {len(talk) + len(general)}. Ask for fewer or add some "
            "to curriculum/data/everyday/lessons.toml."
        )
    return [*_examples(role, "everyday", general), *_examples(role, "talk", talk)]


def is_everyday(example: Example) -> bool:
    """Whether an example is one of these lessons."""
    return example.source.startswith(_SOURCE)


@functools.cache
def written() -> Mapping[str, Mapping[str, str]]:
    """The lessons written by hand: `everyday` and `talk`, each answer by what is said."""
    return read_toml(DATA / "lessons.toml")


def _examples(role: Role, category: str, lessons: list[Lesson]) -> list[Example]:
    return [
        make_example(
            role=role,
            stage="fundamentals",
            category=category,
            kind="hybrid",
            input=said,
            output=answer,
            source=f"{_SOURCE}{category}",
        )
        for said, answer in lessons
    ]


def _general(rng: Random) -> Iterator[Lesson]:
    """Every third one made up, for as long as those by hand last; then only such."""
    by_hand = list(written()["everyday"].items())
    rng.shuffle(by_hand)
    made_up = _made_up(rng)
    for at, lesson in enumerate(by_hand, 1):
        yield lesson
        if at % 2 == 0:
            yield from islice(made_up, 1)
    yield from made_up


def _made_up(rng: Random) -> Iterator[Lesson]:
    """Sums and kinds of things in turn, none twice and none that is asked; ends when 500 draws bring nothing new."""
    seen = {_key(said) for said in chain((question.question for question in questions()), *written().values())}
    stale = 0
    while stale < 500:
        for draw in (_sum, _kind_of, _is_it):
            said, answer = draw(rng)
            stale = stale + 1 if _key(said) in seen else 0
            if not stale:
                seen.add(_key(said))
                yield said, answer


def _key(said: str) -> tuple[str, ...]:
    return tuple(spoken(said.replace("+", "plus").replace(" - ", " minus ")))


def _sum(rng: Random) -> Lesson:
    a, b = rng.randint(2, 60), rng.randint(1, 30)
    if rng.random() < 0.5:
        return rng.choice(("What is {} plus {}?", "How much is {} + {}?")).format(a, b), f"{a} plus {b} is {a + b}."
    high, low = max(a, b), min(a, b)
    return f"What is {high} minus {low}?", f"{high} minus {low} is {high - low}."


_KINDS = ("bird", "flower", "fruit", "insect", "instrument", "vehicle")
_TWO_MEANINGS = frozenset({"kiwi", "crane", "iris", "bagpipes", "date"})


def _kind_of(rng: Random) -> Lesson:
    kind, word = _thing(rng)
    return f"What kind of thing is {_a(word)}?", f"{_a(word).capitalize()} is {_a(kind)}."


def _is_it(rng: Random) -> Lesson:
    kind, word = _thing(rng)
    asked = rng.choice((kind, rng.choice(_KINDS)))
    return f"Is {_a(word)} {_a(asked)}?", f"{'Yes' if asked == kind else 'No'}, {_a(word)} is {_a(kind)}."


def _thing(rng: Random) -> Lesson:
    """(kind, word), of kinds that have no thing in common."""
    kind = rng.choice(_KINDS)
    return kind, rng.choice(_things()[kind])


@functools.cache
def _things() -> Mapping[str, Sequence[str]]:
    """Words of each kind, without those that a question of the pool is about."""
    left_out = _TWO_MEANINGS.union(*(spoken(question.question) for question in questions()))
    return {kind: [word for word in load_words().categories[kind] if word not in left_out] for kind in _KINDS}


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
