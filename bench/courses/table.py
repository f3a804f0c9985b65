"""The tables of a stream: a line an arm, and a line a lesson."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from bench.courses.log import Course
from bench.courses.scores import CourseScore, Estimate, LessonScore, score_course

Scored = Mapping[str, Sequence[tuple[Course, CourseScore]]]
"""By arm, its finished courses, one a seed."""

HEADER = (
    "arm", "seeds", "ACC", "of joint", "BWT", "FWT", "plasticity", "open kept", "CPU s a lesson", "last lesson",
    "with its exam", "replayed", "accepted",
)  # fmt: skip


def scored(names: Sequence[str], courses: Sequence[Course]) -> dict[str, list[tuple[Course, CourseScore]]]:
    """The figures of every course that was asked everything at its end and whose seed has the base's marks."""
    base = {course.seed: course.asked for course in courses if course.arm == "base"}
    found: dict[str, list[tuple[Course, CourseScore]]] = {}
    for course in courses:
        untouched = base.get(course.seed, {})
        if course.arm == "base" or not all((len(names), name) in course.asked for name in names):
            continue
        if all((0, name) in untouched for name in names):
            by_name = {name: untouched[0, name] for name in names}
            found.setdefault(course.arm, []).append((course, score_course(names, by_name, course.asked)))
    return found


def arm_rows(found: Scored) -> list[list[str]]:
    """A line an arm; figures are means over its seeds, with the least and the most where there are several."""
    joint = [score.acc.value for _, score in found.get("joint", ())]
    rows = []
    for arm, courses in found.items():
        scores = [score for _, score in courses]
        trained = [own for course, _ in courses for own in course.trained.values()]
        last = [course.trained[max(course.trained)] for course, _ in courses]
        judged = [own.verdict for own in trained if own.verdict]
        acc = fmean(score.acc.value for score in scores)
        rows.append(
            [
                arm,
                str(len(courses)),
                _estimates([score.acc for score in scores], "{:.3f}"),
                f"{acc / fmean(joint):.3f}" if joint else "",
                _estimates([score.bwt for score in scores if score.bwt], "{:+.3f}"),
                _mean([score.fwt for score in scores], "{:+.3f}"),
                _mean([score.plasticity for score in scores], "{:.3f}"),
                _mean([score.kept for score in scores], "{:.3f}"),
                f"{fmean(own.train_cpu_s for own in trained):.0f}",
                f"{fmean(own.train_cpu_s for own in last):.0f}",
                f"{fmean(own.cpu_s for own in last):.0f}",
                f"{sum(own.replayed for own in trained) / max(1, sum(own.rows for own in trained)):.0%}",
                f"{judged.count('accepted')}/{len(judged)}" if judged else "",
            ]
        )
    return rows


def lesson_rows(names: Sequence[str], found: Scored) -> list[list[str]]:
    """A line a lesson: before it, right after it and at the end, in each arm; means over the seeds."""
    rows = []
    for name in names:
        own = {arm: [score.lessons[name] for _, score in courses] for arm, courses in found.items()}
        cells = [_course_of(scores) for scores in own.values()]
        base = _mean([score.base for scores in own.values() for score in scores], "{:.2f}")
        rows.append([name, base, *cells])
    return rows


def _course_of(scores: Sequence[LessonScore]) -> str:
    """Before the lesson → right after it → at the end."""
    stages = ([o.before for o in scores], [o.after for o in scores], [o.end for o in scores])
    return " → ".join(_mean(values, "{:.2f}") or "–" for values in stages)


def verdict_notes(found: Scored) -> list[str]:
    """A sentence for each generation that was turned away."""
    return [
        f"{arm}, seed {course.seed}: {own.lesson} rejected: {own.reason}"
        for arm, courses in found.items()
        for course, _ in courses
        for own in course.trained.values()
        if own.verdict == "rejected"
    ]


def _estimates(values: Sequence[Estimate], form: str) -> str:
    """One seed: its value and half of the interval from the items. Several: their mean, least and most."""
    if not values:
        return ""
    if len(values) == 1:
        return f"{form.format(values[0].value)} ± {values[0].half:.3f}"
    found = [one.value for one in values]
    return f"{form.format(fmean(found))} [{form.format(min(found))}, {form.format(max(found))}]"


def _mean(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    return form.format(fmean(known)) if known else ""
