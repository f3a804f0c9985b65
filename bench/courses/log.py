"""Every result of a stream in a line of JSON, written when it is there: a broken run goes on after the last one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.courses.scores import Marks
from ledger.errors import LunaError
from ledger.roles import Role


@dataclass(frozen=True)
class Trained:
    """How a lesson was learned."""

    lesson: str
    shas: Mapping[Role, str]
    """Adapters that the course goes on with; empty: none was accepted yet."""
    rows: int
    """Rows of all roles and steps."""
    replayed: int
    """Of these what repeats earlier lessons."""
    train_cpu_s: float
    """Of training alone."""
    cpu_s: float
    """With all that belongs to it: for a generation also planning and its exam."""
    train_sha: str = ""
    """File of the rows, of an arm without generations."""
    verdict: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Course:
    """What is known of one arm with one seed."""

    arm: str
    seed: int
    trained: dict[int, Trained] = field(default_factory=dict)
    """By how many lessons were learned then."""
    asked: dict[tuple[int, str], Marks] = field(default_factory=dict)


@dataclass(frozen=True)
class Log:
    """A stream's file and what it holds."""

    path: Path
    courses: dict[tuple[str, int], Course]

    def course(self, arm: str, seed: int) -> Course:
        """The course, empty where it has not begun."""
        return self.courses.setdefault((arm, seed), Course(arm, seed))

    def note_trained(self, course: Course, at: int, trained: Trained) -> None:
        """Keep how a lesson was learned."""
        course.trained[at] = trained
        _append(self.path, {"arm": course.arm, "seed": course.seed, "at": at, "trained": asdict(trained)})

    def note_asked(self, course: Course, at: int, lesson: str, marks: Marks) -> None:
        """Keep what a lesson's probes brought."""
        course.asked[at, lesson] = marks
        kept = {"means": [round(mean, 5) for mean in marks.means], "right": marks.right}
        _append(self.path, {"arm": course.arm, "seed": course.seed, "at": at, "lesson": lesson, "asked": kept})


def open_log(path: Path, setup: Mapping[str, Any]) -> Log:
    """Read a stream's file, or begin one.

    Raises:
        LunaError: it was begun with another setup, whose figures cannot stand beside these.
    """
    courses: dict[tuple[str, int], Course] = {}
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _append(path, {"setup": dict(setup)})
        return Log(path, courses)
    first, *lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if first["setup"] != json.loads(json.dumps(dict(setup))):
        raise LunaError(f"{path} was begun with {first['setup']}, not {dict(setup)}; name another folder with --work.")
    for line in lines:
        key = line["arm"], line["seed"]
        course = courses.setdefault(key, Course(*key))
        if "trained" in line:
            course.trained[line["at"]] = Trained(**line["trained"])
        else:
            means, right = line["asked"]["means"], line["asked"]["right"]
            course.asked[line["at"], line["lesson"]] = Marks(tuple(means), None if right is None else tuple(right))
    return Log(path, courses)


def _append(path: Path, line: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
