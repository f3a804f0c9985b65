"""The figures of a course: accuracy at the end, backward and forward transfer, plasticity (Lopez-Paz and Ranzato 2017,
NeurIPS). Pure.

A lesson with one right answer is scored by it: the whole answer with its end of text. An open one by the share of
answers that are likelier than for the untouched base, one yardstick for all arms; beside it stands what was *kept*.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, pvariance

from ledger.intervals import Z_95

KEPT_NATS = 0.25
"""A true answer is kept that is at most so many nats a token less likely than right after its lesson."""


@dataclass(frozen=True)
class Marks:
    """What one model made of a lesson's probes, in their order."""

    means: tuple[float, ...]
    """Mean log-likelihood a token of each true answer."""
    right: tuple[bool, ...] | None
    """Whether the answer itself came, to its end; None for an open lesson."""


Asked = Mapping[tuple[int, str], Marks]
"""By (lessons learned, lesson that is asked)."""


@dataclass(frozen=True)
class Estimate:
    """A mean over lessons and half of its 95 % interval, from the items."""

    value: float
    half: float


@dataclass(frozen=True)
class LessonScore:
    """One lesson: shares in [0, 1]; None where it was not asked."""

    base: float
    before: float | None
    after: float | None
    end: float
    learned: float | None
    """Of an open lesson: share likelier right after it than right before it."""
    kept: float | None
    """Of an open lesson: share kept to the end."""


@dataclass(frozen=True)
class CourseScore:
    """All lessons of a course."""

    lessons: Mapping[str, LessonScore]
    acc: Estimate
    """Mean score at the end."""
    bwt: Estimate | None
    """Mean of end minus right after the lesson, over all lessons but the last."""
    fwt: float | None
    """Mean of right before the lesson minus the base, over closed lessons but the first."""
    plasticity: float | None
    """Mean score right after the lesson."""
    kept: float | None
    """Mean over open lessons but the last of what was kept."""


def passed(marks: Marks, base: Marks) -> list[bool]:
    """Which probes count as right."""
    if marks.right is not None:
        return list(marks.right)
    return [own > before for own, before in zip(marks.means, base.means, strict=True)]


def score_course(names: Sequence[str], base: Mapping[str, Marks], asked: Asked) -> CourseScore:
    """The figures of a course that has been asked everything at its end."""
    last = len(names)
    lessons, diffs, forward = dict[str, LessonScore](), list[list[int]](), list[float]()
    for number, name in enumerate(names, 1):
        own, end = base[name], asked[last, name]
        learned, before = asked.get((number, name)), asked.get((number - 1, name), own if number == 1 else None)
        is_open = own.right is None
        lessons[name] = LessonScore(
            base=fmean(passed(own, own)),
            before=None if before is None else fmean(passed(before, own)),
            after=None if learned is None else fmean(passed(learned, own)),
            end=fmean(passed(end, own)),
            learned=_share_above(learned, before, 0.0) if is_open and learned and before else None,
            kept=_share_above(end, learned, -KEPT_NATS) if is_open and learned and number < last else None,
        )
        if learned is not None and number < last:
            diffs.append([e - a for e, a in zip(passed(end, own), passed(learned, own), strict=True)])
        if before is not None and not is_open and number > 1:
            forward.append(fmean(passed(before, own)) - fmean(passed(own, own)))
    after, scores = [score.after for score in lessons.values()], lessons.values()
    return CourseScore(
        lessons=lessons,
        acc=_estimate([[int(ok) for ok in passed(asked[last, name], base[name])] for name in names]),
        bwt=_estimate(diffs) if diffs else None,
        fwt=fmean(forward) if forward else None,
        plasticity=_mean(after) if None not in after else None,
        kept=_mean(score.kept for score in scores),
    )


def _share_above(found: Marks, reference: Marks, by: float) -> float:
    return fmean(own > other + by for own, other in zip(found.means, reference.means, strict=True))


def _estimate(by_lesson: Sequence[Sequence[int]]) -> Estimate:
    """Mean of the lessons' means; lessons and items are taken as independent."""
    variance = sum(pvariance(values) / len(values) for values in by_lesson) / len(by_lesson) ** 2
    return Estimate(fmean(map(fmean, by_lesson)), Z_95 * sqrt(variance))


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
