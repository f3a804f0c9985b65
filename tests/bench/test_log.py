"""A stream goes on where it was broken off."""

from __future__ import annotations

from typing import Any

import pytest

from bench.courses.log import Trained, open_log
from bench.courses.scores import Marks
from bench.courses.table import arm_rows, lesson_rows, scored
from ledger.errors import LunaError

SETUP: dict[str, Any] = {"lessons": ["a", "b"], "rows": 10, "probes": 2, "profile": "tiny"}
LEARNED = Trained("a", {"logical": "0" * 64}, rows=30, replayed=3, train_cpu_s=1.5, cpu_s=2.0, verdict="accepted")


def test_what_was_noted_is_there_again(tmp_path) -> None:
    log = open_log(tmp_path / "results.jsonl", SETUP)
    course = log.course("luna", 1)
    log.note_trained(course, 1, LEARNED)
    log.note_asked(course, 1, "a", Marks((-1.0, -2.0), (True, False)))
    again = open_log(tmp_path / "results.jsonl", SETUP).course("luna", 1)
    assert again == course


def test_another_setup_is_refused(tmp_path) -> None:
    open_log(tmp_path / "results.jsonl", SETUP)
    with pytest.raises(LunaError, match="--work"):
        open_log(tmp_path / "results.jsonl", {**SETUP, "rows": 20})


def test_only_finished_courses_are_in_the_table(tmp_path) -> None:
    log = open_log(tmp_path / "results.jsonl", SETUP)
    for name in SETUP["lessons"]:
        log.note_asked(log.course("base", 1), 0, name, Marks((-2.0, -2.0), None))
    for arm, names in (("luna", "ab"), ("joint", "a")):
        course = log.course(arm, 1)
        log.note_trained(course, 2, LEARNED)
        for name in names:
            log.note_asked(course, 2, name, Marks((-1.0, -3.0), None))
    found = scored(SETUP["lessons"], list(log.courses.values()))
    assert list(found) == ["luna"]
    ((arm, seeds, acc, *_, replayed, accepted),) = arm_rows(found)
    assert (arm, seeds, acc.split()[0], replayed, accepted) == ("luna", "1", "0.500", "10%", "1/1")
    assert lesson_rows(SETUP["lessons"], found)[1] == ["b", "0.00", "– → 0.50 → 0.50"]
