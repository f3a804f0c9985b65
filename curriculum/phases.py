"""The phases of a mind that starts empty: 0 mechanical, 1 vocabulary, 2 patterns and simple reasoning, 3
conversations.

Phases 0 to 2 are generated at any total; their inputs are all different while the material lasts. Phase 3 is
the user's own conversations and comes from `curriculum.importing`.
"""

import functools
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from curriculum.example import Example, make_example
from curriculum.proportions import allocate
from ledger.errors import LunaError
from ledger.roles import Role

PHASE_TOTALS: dict[int, int] = {0: 500, 1: 3000, 2: 3000}
"""Examples a phase by default."""

Draw = Callable[[Random], tuple[str, str]]
"""Draws one (input, output)."""

_WORDS_FILE = Path(__file__).parent / "data" / "words.toml"
_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"
_BRACKETS = {"(": ")", "[": "]", "{": "}", "<": ">"}
_NAMES = (
    "Anna", "Ben", "Clara", "David", "Emma", "Finn", "Greta", "Hugo", "Ida", "Jonas",
    "Kira", "Leo", "Mila", "Nils", "Olga", "Paul", "Rosa", "Sam", "Tara", "Yusuf",
)  # fmt: skip
_COLOURS = ("red", "blue", "green", "yellow", "black", "white", "brown", "grey")
_OBJECTS = ("ball", "cup", "book", "hat", "boat", "key", "bag", "lamp", "kite", "scarf", "box", "bell")
_PLACES = ("on the table", "under the bed", "in the garden", "by the door", "behind the sofa", "on the shelf")


@dataclass(frozen=True, slots=True)
class Words:
    categories: dict[str, tuple[str, ...]]
    synonyms: tuple[tuple[str, str], ...]
    antonyms: tuple[tuple[str, str], ...]
    causes: tuple[tuple[str, str], ...]
    """(cause, effect), both clauses without a capital."""


def build_phase(phase: int, role: Role, seed: int, total: int | None = None) -> list[Example]:
    """The examples of phase 0, 1 or 2 for a role; `total` defaults to 500, 3,000 and 3,000.

    Raises `LunaError` for phase 3, which is imported, for unknown phases, and for a total beyond the
    material.
    """
    if phase == 3:
        raise LunaError("phase 3 is the user's own conversations; bring them with curriculum.importing.import_file.")
    if phase not in PHASE_TOTALS:
        raise LunaError(f"there is no phase {phase}; use 0 mechanical, 1 vocabulary, 2 patterns, or import phase 3.")
    parts = _PARTS[phase]
    counts = allocate(
        PHASE_TOTALS[phase] if total is None else total, {name: share for name, (share, _) in parts.items()}
    )
    examples = []
    for name, n in counts.items():
        category = f"phase{phase}/{name}"
        for text, answer in _distinct(parts[name][1], n, Random(f"{category}:{role}:{seed}"), category):
            examples.append(
                make_example(
                    role=role,
                    stage="fundamentals",
                    category=category,
                    kind="hybrid",
                    input=text,
                    output=answer,
                    source=f"phase/{phase}/{name}",
                )
            )
    return examples


@functools.cache
def load_words() -> Words:
    """The word lists of `curriculum/data/words.toml`; each word is in one category only."""
    table = tomllib.loads(_WORDS_FILE.read_text(encoding="utf-8"))
    pairs = table["pairs"]
    return Words(
        categories={name: tuple(words.split()) for name, words in table["categories"].items()},
        synonyms=tuple(_pair(item) for item in pairs["synonym"].split()),
        antonyms=tuple(_pair(item) for item in pairs["antonym"].split()),
        causes=tuple(_pair(line) for line in pairs["cause"].strip().splitlines()),
    )


def vocabulary() -> frozenset[str]:
    """Every word that phase 1 teaches."""
    words = load_words()
    listed = (word for category in words.categories.values() for word in category)
    paired = (word for pair in words.synonyms + words.antonyms for word in pair)
    return frozenset([*listed, *paired])


def _distinct(draw: Draw, n: int, rng: Random, category: str) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    stale = 0
    while len(seen) < n:
        text, answer = draw(rng)
        if text not in seen:
            seen.add(text)
            stale = 0
            yield text, answer
        elif (stale := stale + 1) > 20_000:
            raise LunaError(
                f"asked for {n} different examples of {category}; there are about {len(seen)}, ask for fewer."
            )


def _nonce(rng: Random) -> str:
    return rng.choice(_CONSONANTS) + rng.choice(_VOWELS) + rng.choice(_CONSONANTS)


def _repeat(rng: Random) -> tuple[str, str]:
    words = " ".join(_nonce(rng) for _ in range(rng.randint(1, 3)))
    return f"repeat: {words}", words


def _reverse(rng: Random) -> tuple[str, str]:
    words = [_nonce(rng) for _ in range(rng.randint(2, 3))]
    return f"reverse: {' '.join(words)}", " ".join(reversed(words))


def _continue(rng: Random) -> tuple[str, str]:
    """A B A B A -> B, or A B B A B B -> A."""
    a, b = _nonce(rng), _nonce(rng)
    unit = [a, b] if rng.random() < 0.5 else [a, b, b]
    shown = rng.randint(len(unit) + 2, 2 * len(unit) + 1)
    row = [unit[index % len(unit)] for index in range(shown + 1)]
    return f"continue: {' '.join(row[:-1])}", row[-1]


def _close(rng: Random) -> tuple[str, str]:
    opened = [rng.choice(list(_BRACKETS)) for _ in range(rng.randint(1, 3))]
    text = " ".join(f"{bracket} {_nonce(rng)}" for bracket in opened)
    return f"close: {text}", " ".join(_BRACKETS[bracket] for bracket in reversed(opened))


def _category(rng: Random) -> tuple[str, str]:
    categories = load_words().categories
    name = rng.choice(list(categories))
    word = rng.choice(categories[name])
    return rng.choice((f"What kind of word is {word}?", f"Which group does {word} belong to?")), f"{word}: {name}"


def _synonym(rng: Random) -> tuple[str, str]:
    a, b = _either_way(rng.choice(load_words().synonyms), rng)
    return rng.choice((f"Another word for {a}:", f"Which word means the same as {a}?")), b


def _antonym(rng: Random) -> tuple[str, str]:
    a, b = _either_way(rng.choice(load_words().antonyms), rng)
    return rng.choice((f"The opposite of {a}:", f"Which word means the reverse of {a}?")), b


def _odd_one_out(rng: Random) -> tuple[str, str]:
    categories = load_words().categories
    name, other = rng.sample(list(categories), 2)
    members = rng.sample(categories[name], 3)
    odd = rng.choice(categories[other])
    shown = [*members, odd]
    rng.shuffle(shown)
    return f"Which does not fit: {', '.join(shown)}?", f"{odd}; the others are of one kind: {name}."


def _if_then(rng: Random) -> tuple[str, str]:
    (cause, effect), name = rng.choice(load_words().causes), rng.choice(_NAMES)
    text = f"If {cause}, {effect}. {name} sees that {cause}. What does {name} expect?"
    return text, f"{name} expects that {effect}."


def _cause(rng: Random) -> tuple[str, str]:
    (cause, effect), name = rng.choice(load_words().causes), rng.choice(_NAMES)
    if rng.random() < 0.5:
        return f"{name} asks: what happens when {cause}?", f"When {cause}, {effect}."
    return f"{name} asks: why is it that {effect}?", f"Because {cause}, {effect}."


def _question(rng: Random) -> tuple[str, str]:
    name, colour, thing, place = (
        rng.choice(_NAMES),
        rng.choice(_COLOURS),
        rng.choice(_OBJECTS),
        rng.choice(_PLACES),
    )
    fact = f"{name} has a {colour} {thing} {place}."
    return rng.choice(
        (
            (f"{fact} What colour is the {thing}?", f"The {thing} is {colour}."),
            (f"{fact} Where is the {thing}?", f"The {thing} is {place}."),
            (f"{fact} Whose {thing} is it?", f"It is the {thing} of {name}."),
        )
    )


def _sequence(rng: Random) -> tuple[str, str]:
    """Numbers with a constant step, or doubling."""
    start = rng.randint(1, 30)
    if rng.random() < 0.75:
        step = rng.randint(1, 12)
        row = [start + step * index for index in range(5)]
    else:
        row = [start * 2**index for index in range(5)]
    return f"{', '.join(map(str, row[:4]))}, what is next?", f"{row[4]} comes after {row[3]}."


# (share, draw) of every part. Phase 1 weighs categories most, since they hold most of the words.
_PARTS: dict[int, dict[str, tuple[float, Draw]]] = {
    0: {"repeat": (1, _repeat), "reverse": (1, _reverse), "continue": (1, _continue), "close": (1, _close)},
    1: {
        "category": (60, _category),
        "synonym": (12, _synonym),
        "antonym": (12, _antonym),
        "odd_one_out": (16, _odd_one_out),
    },
    2: {
        "if_then": (20, _if_then),
        "cause": (25, _cause),
        "question": (45, _question),
        "sequence": (10, _sequence),
    },
}


def _pair(item: str) -> tuple[str, str]:
    left, _, right = item.partition(":")
    return left, right


def _either_way(pair: tuple[str, str], rng: Random) -> tuple[str, str]:
    return pair if rng.random() < 0.5 else (pair[1], pair[0])
