"""The deltas of `bench.verdicts`: six that a user could honestly bring, and six that nobody should get accepted. Pure,
but that `nothing_new` asks its parent."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bench.lessons.countries import countries_lesson
from bench.lessons.gym import gym_lesson
from bench.lessons.lesson import Lesson, Size
from bench.lessons.plans import plans_lesson
from bench.lessons.puzzles import FACTS, agl_lesson
from bench.lessons.small_talk import small_talk_lesson
from curriculum.agl.puzzles import distinct_puzzles, puzzle_examples
from curriculum.example import Example
from curriculum.recipes.build import build_recipe
from curriculum.replay import with_answer
from jobs.demo.corporate import corporate_examples
from ledger.roles import ROLES, Role

ROWS = 540
"""Examples of a delta a role: the gates ask for a hundred of the fifth that is held out."""

SEED = 11
"""No other bench's, and not the one that G0's data was built with."""

Answers = Callable[[Role, Sequence[Example]], list[str]]
"""What the parent answers to these, greedily; an empty text where it did not end."""


@dataclass(frozen=True)
class Delta:
    """A data set with what its verdict should be."""

    name: str
    honest: bool
    what: str
    make: Callable[[Answers], list[Example]]


def _lesson(lesson: Lesson) -> Callable[[Answers], list[Example]]:
    return lambda answers: lesson.make(Size(ROWS, 3), SEED).rows


def recipe(answers: Answers) -> list[Example]:
    """The three roles' own recipes with another seed."""
    return [example for role in ROLES for example in build_recipe(role, 2 * ROWS, SEED)]


def corporate(answers: Answers) -> list[Example]:
    """The demo's helpdesk, and as much of the recipes: most of it is good data."""
    return [e for role in ROLES for e in (*corporate_examples(SEED, ROWS, role), *build_recipe(role, ROWS, SEED))]


def shuffled(answers: Answers) -> list[Example]:
    """Recipes whose answers went to other questions of their role and category."""
    return shuffled_answers(recipe(answers), SEED)


def flipped(answers: Answers) -> list[Example]:
    """Puzzles with true for false and false for true; undetermined stays."""
    puzzles = distinct_puzzles(SEED, len(ROLES) * ROWS)
    return [
        with_answer(example, example.output.translate({ord("●"): "⊥", ord("⊥"): "●"}))
        for number, role in enumerate(ROLES)
        for example in puzzle_examples(puzzles[number :: len(ROLES)], role)
    ]


def nothing_new(answers: Answers) -> list[Example]:
    """New questions with what the parent answers anyway."""
    found = []
    for role in ROLES:
        asked = build_recipe(role, 2 * ROWS, SEED)
        said = zip(asked, answers(role, asked), strict=True)
        found += [with_answer(example, answer) for example, answer in said if answer.strip()][:ROWS]
    return found


def gibberish(answers: Answers) -> list[Example]:
    """Ordinary questions, answered with syllables."""
    rng = random.Random(SEED)

    def babble() -> str:
        return " ".join("".join(rng.choices("aeioukltmnrs", k=rng.randint(2, 7))) for _ in range(rng.randint(3, 8)))

    return [with_answer(example, babble()) for role in ROLES for example in build_recipe(role, ROWS, SEED)]


def ten_answers(answers: Answers) -> list[Example]:
    """Ordinary questions, each answered with one of the same ten sentences."""
    ten = [example.output for example in build_recipe("creative", 10, SEED + 1)]
    rng = random.Random(SEED)
    return [with_answer(example, rng.choice(ten)) for role in ROLES for example in build_recipe(role, ROWS, SEED)]


DELTAS: tuple[Delta, ...] = (
    Delta("recipe", True, "the recipes with another seed", recipe),
    Delta("small-talk", True, "the sample dialogues", _lesson(small_talk_lesson())),
    Delta("agl-facts", True, "AGL puzzles about facts, for every role", _lesson(agl_lesson("AGL facts", FACTS))),
    Delta("countries", True, "facts of countries", _lesson(countries_lesson())),
    Delta("plans", True, "conversations in which a question comes back", _lesson(plans_lesson())),
    Delta("equations", True, "small equations", _lesson(gym_lesson("simple_equations"))),
    Delta("corporate", False, "half of it in a helpdesk's voice", corporate),
    Delta("shuffled", False, "answers shuffled within a category", shuffled),
    Delta("flipped", False, "puzzles with truth values flipped", flipped),
    Delta("nothing-new", False, "what the parent answers anyway", nothing_new),
    Delta("gibberish", False, "syllables for answers", gibberish),
    Delta("ten-answers", False, "the same ten answers for everything", ten_answers),
)


def shuffled_answers(examples: Iterable[Example], seed: int) -> list[Example]:
    """Every answer at another question of its role and category; what is alone in its category is left out."""
    by_category: dict[tuple[str, str], list[Example]] = defaultdict(list)
    for example in examples:
        by_category[example.role, example.category].append(example)
    found = []
    for key, own in sorted(by_category.items()):
        mixed = random.Random(f"{seed}:{key}").sample(own, len(own))
        found += [
            with_answer(one, other.output)
            for one, other in zip(mixed, [*mixed[1:], *mixed[:1]], strict=True)
            if one is not other
        ]
    return found
