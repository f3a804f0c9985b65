"""The ten lessons in their order, and those of the short form."""

from __future__ import annotations

from bench.lessons.countries import countries_lesson
from bench.lessons.gym import FAMILIES, gym_lesson
from bench.lessons.lesson import Lesson
from bench.lessons.plans import plans_lesson
from bench.lessons.puzzles import FACTS, FORMULAS, agl_lesson
from bench.lessons.small_talk import small_talk_lesson
from bench.lessons.words import words_lesson

TEN: tuple[Lesson, ...] = (
    agl_lesson("AGL formulas", FORMULAS),
    small_talk_lesson(),
    gym_lesson("needle_haystack"),
    countries_lesson(),
    gym_lesson("family_relationships"),
    plans_lesson(),
    agl_lesson("AGL facts", FACTS),
    gym_lesson("simple_equations"),
    words_lesson(),
    gym_lesson("syllogism"),
)

SHORT: tuple[Lesson, ...] = TEN[:4]
"""Closed, open, closed, memory: one of each kind, and one that comes back."""

ALL: dict[str, Lesson] = {lesson.name: lesson for lesson in (*TEN, *map(gym_lesson, FAMILIES))}
"""Every lesson by name, the families that stand by for others among them."""
