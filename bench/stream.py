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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.courses.arms import ARMS, FULL, SHORT, Arm
from bench.courses.asking import ask
from bench.courses.learning import (
    Place,
    asking_engine,
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
from ledger.errors import LunaError
from trainers.job import Engine

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
    parser.add_argument(
        "--alone", action="append", choices=sorted(chosen.ALL), help="these lessons alone, nothing else"
    )
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
    for seed in seeds:
        say(f"seed {seed}: making the lessons")
        materials = {lesson.name: lesson.make(setup.size, seed) for lesson in setup.lessons}
        for arm in (BASE, *arms):
            hold_course(setup, log, arm, seed, materials)


def hold_course(setup: Setup, log: Log, arm: Arm, seed: int, materials: dict[str, Material]) -> None:
    """Take one arm through all lessons, from where it stands."""
    course, last = log.course(arm.name, seed), len(setup.lessons)
    if all((0 if arm is BASE else last, name) in course.asked for name in setup.names):
        return
    place = place_of(setup.work, arm, seed, setup.profile)
    asker = asking_engine(place)

    def asked(at: int, lesson: Lesson, trained: Trained | None) -> None:
        if (at, lesson.name) not in course.asked:
            shas, probes = trained.shas if trained else {}, materials[lesson.name].probes
            marks = ask(asker, place.home.adapters_dir, shas, lesson, probes, place.settings.text)
            log.note_asked(course, at, lesson.name, marks)
            right = "" if marks.right is None else f", {sum(marks.right) / len(marks.right):.3f} right"
            say(
                f"{arm.name}, seed {seed}, after {at} lessons: {lesson.name} {sum(marks.means) / len(probes):.3f}{right}"
            )

    if arm is BASE:
        for lesson in setup.lessons:
            asked(0, lesson, None)
        return
    learn = _teacher(place, arm, asker)
    lessons = [setup.lessons[-1]] if arm.way == "joint" else setup.lessons
    for at, lesson in enumerate(lessons, last - len(lessons) + 1):
        before = course.trained.get(at - 1) if arm.way in ("generations", "engine") else None
        if at > 1 and arm.way in ("generations", "engine"):
            asked(at - 1, lesson, before)
        if at not in course.trained:
            taught = setup.names if arm.way == "joint" else [lesson.name]
            rows = [row for name in taught for row in materials[name].rows]
            say(f"{arm.name}, seed {seed}: lesson {at}, {' + '.join(taught)}, {len(rows)} examples")
            log.note_trained(course, at, learn(at, "all" if arm.way == "joint" else lesson.name, rows, before))
            own = course.trained[at]
            say(f"  {own.rows} rows, {own.train_cpu_s:.0f} CPU s {own.verdict} {own.reason}")
        if arm.way != "joint":
            asked(at, lesson, course.trained[at])
    for number, lesson in enumerate(setup.lessons, 1):
        asked(last, lesson, course.trained[number if arm.way == "alone" else last])


Learn = Callable[[int, str, Sequence, Trained | None], Trained]  # type: ignore[type-arg]


def _teacher(place: Place, arm: Arm, asker: Engine) -> Learn:
    """How the arm learns a lesson."""
    if arm.way == "generations":
        from cluster.ray_head import connect

        rig = connect()
        return lambda at, name, rows, before: learn_as_generation(place, rig, at, name, rows)
    trainer = training_engine(place) if place.settings.train.engine == "trl" else asker
    return lambda at, name, rows, before: learn_with_engine(place, trainer, arm, name, rows, before)


def report(setup: Setup, log: Log) -> None:
    """Both tables of what is finished."""
    courses: list[Course] = list(log.courses.values())
    found = scored(setup.names, courses)
    if not found:
        say("no course is finished yet")
        return
    what = f"{len(setup.lessons)} lessons on {setup.profile}"
    notes = [
        f"{setup.size.rows} examples brought a role and lesson, of which a generation holds a fifth out; {setup.size.probes} probes a lesson",
        "ACC: mean score at the end; BWT: end minus right after the lesson; FWT: before the lesson minus the base, closed "
        "lessons; plasticity: mean score right after the lesson; one seed: ± half of the 95 % interval from the items; "
        "several: mean [least, most]",
        "score: the whole answer with its end of text; of small talk and plans the share likelier than for the base; "
        "open kept: at most 0.25 nats a token less likely at the end than right after the lesson",
        "CPU s: of training, threads times wall time for generations; `with its exam`: all that the last lesson's generation cost",
        *(f"`{arm}`: {ARMS[arm].what}" for arm in found),
        *verdict_notes(found),
    ]
    keep(setup.name, f"A stream of {what}", list(HEADER), arm_rows(found), notes)
    header = ["lesson", "base", *found]
    keep(
        f"{setup.name}-lessons", f"Lesson by lesson: {what}", header, lesson_rows(setup.names, found),
        ["each cell: before the lesson → right after it → at the end of the stream"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
