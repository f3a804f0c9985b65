"""The lessons: enough of them, told apart, and the same for the same seed."""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec

import pytest

from bench.lessons.chosen import ALL, SHORT, TEN
from bench.lessons.gym import FAMILIES
from bench.lessons.lesson import Asking, Size, share_out
from curriculum.split import split_by_group
from ledger.errors import LunaError
from ledger.roles import ROLES

SIZE = Size(rows=120, probes=60)
NEEDS = {**dict.fromkeys(FAMILIES, "reasoning_gym"), "countries": "countryinfo"}
"""Packages that only this bench has."""


HERE = [name for name in ALL if name not in NEEDS or find_spec(NEEDS[name])]
"""Lessons that can be made here: the bench's packages are in no set that Luna itself needs (`make bench-setup`)."""


def material_of(name, seed=1):
    return ALL[name].make(SIZE, seed)


def test_the_stream_has_ten_lessons_and_its_short_form_one_of_each_kind() -> None:
    assert len({lesson.name for lesson in TEN}) == 10
    assert {lesson.kind for lesson in SHORT} == {"closed", "memory", "open"}


@pytest.mark.parametrize("name", HERE)
def test_every_role_gets_rows_and_no_probe_is_among_them(name) -> None:
    material = material_of(name)
    assert set(Counter(row.role for row in material.rows).values()) == {SIZE.rows}
    assert len(material.probes) == len({probe.id for probe in material.probes}) == SIZE.probes
    assert not {probe.input for probe in material.probes} & {row.input for row in material.rows if not row.context}
    asked = {probe.role for probe in material.probes}
    assert asked == ({"logical"} if ALL[name].kind == "closed" else set(ROLES))


@pytest.mark.parametrize("name", HERE)
def test_a_part_of_every_lesson_is_held_out(name) -> None:
    split = split_by_group(material_of(name).rows, [], 20)
    assert 0.1 < len(split.holdout) / (len(split.train) + len(split.holdout)) < 0.35


@pytest.mark.parametrize("name", ["AGL facts", "plans", "words", "small talk"])
def test_equal_seeds_give_equal_lessons(name) -> None:
    assert material_of(name, 3) == material_of(name, 3)
    assert material_of(name, 3) != material_of(name, 4)


def test_too_few_questions_are_refused() -> None:
    asked = [Asking(f"q{number % 5}", "a", "c") for number in range(50)]
    with pytest.raises(LunaError, match="fewer rows"):
        share_out(asked, Size(rows=4, probes=2), "closed")
