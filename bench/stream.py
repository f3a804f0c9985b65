"""`make bench-stream`: ten lessons one after another. What is learned, what is forgotten, and at what cost.

Every lesson is a real generation with the shipped settings, in a home of its own; beside it stand the same training
without replay, with replay of the parent alone, one training on everything (the oracle), and plain TRL. A lesson's rows
are shared out: each role gets rows of its own. Probes with an answer that can be worked out are asked of the logical
role, the others of the role that learned them, none of them ever trained on. `courses.scores` has the figures.

    python -m bench.stream                            all arms of the full form, one seed; hours on two cores
    python -m bench.stream --arm luna --arm joint     these arms
    python -m bench.stream --short [--arm kl-0.1]     four lessons, three seeds: what decides the settings' defaults
    python -m bench.stream --alone simple_equations   can the base learn this lesson alone?
    python -m bench.stream --report                   the tables of what is there

Each result is a line of `<work>/results.jsonl` as soon as it is there; the same command again goes on after the last.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

from bench.courses.arms import ARMS, FULL, SHORT, Arm
from bench.courses.asking import ask
from bench.courses.learning import (
    Place,
    asking_engine,
    cluster,
    learn_as_generation,
    learn_with_engine,
    place_of,
    training_engine,
)
from bench.courses.log import Course, Log, Trained, open_log
from bench.courses.table import HEADER, arm_rows, lesson_rows, scored, verdict_notes
from bench.lessons import chosen
from bench.lessons.lesson import Lesson, Material, Size
from bench.progress import say
from bench.report import keep
from cluster.ray_head import Rig
from curriculum.example import Example
from ledger.errors import LunaError
from trainers.job import Engine
from trainers.models.adapter_set import AdapterSet

BASE = Arm("base", "the untouched base", "alone")
BROUGHT = 1.35
"""Examples brought for one that is trained on: the generation holds a fifth out, and the gates ask for a hundred."""


@dataclass(frozen=True)
class Setup:
    """What all courses of a stream share."""

    name: str
    lessons: tuple[Lesson, ...]
    size: Size
    profile: str
    work: Path

    @property
    def names(self) -> list[str]:
        return [lesson.name for lesson in self.lessons]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="four lessons, and the arms that set one thing each")
    parser.add_argument("--arm", action="append", choices=sorted(ARMS), help="default: all of the form")
    parser.add_argument("--seed", action="append", type=int, help="default: 1; short form 1, 2, 3")
    parser.add_argument("--alone", action="append", choices=sorted(chosen.ALL), help="these lessons alone")
    parser.add_argument("--rows", type=int, default=400, help="examples that each role trains on in a lesson, about")
    parser.add_argument("--probes", type=int, default=400, help="probes of a lesson")
    parser.add_argument("--profile", default="smol")
    parser.add_argument("--work", type=Path, help="default home/stream, or home/stream-short, home/stream-alone")
    parser.add_argument("--report", action="store_true", help="only write the tables of what is there")
    arguments = parser.parse_args()
    form = "stream-alone" if arguments.alone else "stream-short" if arguments.short else "stream"
    lessons = tuple(chosen.ALL[name] for name in arguments.alone or ()) or (
        chosen.SHORT if arguments.short else chosen.TEN
    )
    size = Size(round(arguments.rows * BROUGHT), arguments.probes)
    setup = Setup(form, lessons, size, arguments.profile, (arguments.work or Path("home") / form).resolve())
    arms = [ARMS[name] for name in arguments.arm or ()] or list(SHORT if arguments.short else FULL)
    if arguments.alone:
        arms = [ARMS["alone"]]
    try:
        log = open_log(setup.work / "results.jsonl", _described(setup))
        if not arguments.report:
            run(setup, log, arms, arguments.seed or ([1, 2, 3] if arguments.short else [1]))
        report(setup, log)
    except LunaError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def _described(setup: Setup) -> dict[str, object]:
    return {"lessons": setup.names, "rows": setup.size.rows, "probes": setup.size.probes, "profile": setup.profile}


def run(setup: Setup, log: Log, arms: Sequence[Arm], seeds: Sequence[int]) -> None:
    """Every course, the base's probes first."""
    with cluster() if any(arm.way == "generations" for arm in arms) else nullcontext() as rig:
        for seed in seeds:
            say(f"seed {seed}: making the lessons")
            materials = {lesson.name: lesson.make(setup.size, seed) for lesson in setup.lessons}
            for arm in (BASE, *arms):
                if not _is_finished(setup, log.course(arm.name, seed)):
                    hold_course(Hall(setup, log, arm, seed, materials), rig)


def _is_finished(setup: Setup, course: Course) -> bool:
    last = 0 if course.arm == BASE.name else len(setup.lessons)
    return all((last, name) in course.asked for name in setup.names)


@dataclass(frozen=True)
class Hall:
    """One course, and what it is held with."""

    setup: Setup
    log: Log
    arm: Arm
    seed: int
    materials: Mapping[str, Material]


def hold_course(hall: Hall, rig: Rig | None) -> None:
    """Take one arm through all lessons, from where it stands."""
    setup, arm, course = hall.setup, hall.arm, hall.log.course(hall.arm.name, hall.seed)
    place, last = place_of(setup.work, arm, hall.seed, setup.profile), len(setup.lessons)
    asker = asking_engine(place)
    asked = partial(_asked, hall, place, asker)
    if arm is BASE:
        for lesson in setup.lessons:
            asked(0, lesson, None)
        return
    learn, in_a_row = _teacher(place, arm, asker, rig), arm.way in ("generations", "engine")
    for at, lesson in enumerate(setup.lessons, 1):
        if arm.way == "joint" and at < last:
            continue
        before = course.trained.get(at - 1) if in_a_row else None
        if before is not None:
            asked(at - 1, lesson, before)
        if at not in course.trained:
            taught = setup.names if arm.way == "joint" else [lesson.name]
            rows = [row for name in taught for row in hall.materials[name].rows]
            say(f"{arm.name}, seed {hall.seed}: lesson {at}, {' + '.join(taught)}, {len(rows)} examples")
            own = learn(at, lesson.name, rows, before)
            hall.log.note_trained(course, at, own)
            say(f"  {own.rows} rows, {own.train_cpu_s:.0f} CPU s {own.verdict} {own.reason}")
        if in_a_row:
            asked(at, lesson, course.trained[at])
    for number, lesson in enumerate(setup.lessons, 1):
        asked(last, lesson, course.trained[number if arm.way == "alone" else last])


def _asked(hall: Hall, place: Place, engine: Engine, at: int, lesson: Lesson, trained: Trained | None) -> None:
    """Put a lesson's probes to what was trained, once."""
    course, probes = hall.log.course(hall.arm.name, hall.seed), hall.materials[lesson.name].probes
    if (at, lesson.name) in course.asked:
        return
    model = AdapterSet(place.home.adapters_dir, trained.shas if trained else {})
    marks = ask(engine, model, lesson, probes, place.settings.text)
    hall.log.note_asked(course, at, lesson.name, marks)
    right = "" if marks.right is None else f", {fmean(marks.right):.3f} right"
    say(f"{hall.arm.name}, seed {hall.seed}, {at} learned: {lesson.name} {fmean(marks.means):.3f}{right}")


Learn = Callable[[int, str, Sequence[Example], Trained | None], Trained]


def _teacher(place: Place, arm: Arm, asker: Engine, rig: Rig | None) -> Learn:
    """How the arm learns a lesson."""
    if arm.way == "generations" and rig is not None:
        return lambda at, name, rows, before: learn_as_generation(place, rig, at, name, rows)
    trainer = training_engine(place) if place.settings.train.engine == "trl" else asker
    return lambda at, name, rows, before: learn_with_engine(place, trainer, arm, name, rows, before)


def _notes(setup: Setup) -> list[str]:
    brought, probes = setup.size.rows, setup.size.probes
    return [
        f"{brought} examples brought a role and lesson, a fifth of them held out; {probes} probes a lesson",
        "score: the whole answer with its end of text; of small talk and plans the share likelier than for the base",
        "ACC: mean score at the end. BWT: end minus right after the lesson",
        "FWT: right before the lesson minus the base, closed lessons. plasticity: mean score right after the lesson",
        "open kept: true answers at most 0.25 nats a token less likely at the end than right after their lesson",
        "one seed: ± half of the 95 % interval from the items; several: mean [least, most]",
        "CPU s: of training, for generations threads times wall time; `with its exam`: all that the last lesson cost",
    ]


def report(setup: Setup, log: Log) -> None:
    """Both tables of what is finished."""
    courses: list[Course] = list(log.courses.values())
    found = scored(setup.names, courses)
    if not found:
        say("no course is finished yet")
        return
    what = f"{len(setup.lessons)} lessons on {setup.profile}"
    notes = [*_notes(setup), *(f"`{arm}`: {ARMS[arm].what}" for arm in found), *verdict_notes(found)]
    keep(setup.name, f"A stream of {what}", list(HEADER), arm_rows(found), notes)
    header = ["lesson", "base", *found]
    keep(
        f"{setup.name}-lessons", f"Lesson by lesson: {what}", header, lesson_rows(setup.names, found),
        ["each cell: before the lesson → right after it → at the end of the stream"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
