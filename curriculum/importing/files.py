"""Read files of the user's own data: once, whatever the roles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from curriculum.example import make_example
from curriculum.importing.encoding import NOT_UTF8, has_bytes, text_of
from curriculum.importing.formats import format_of
from curriculum.importing.formats.values import utc_of
from curriculum.importing.found import Found, Lesson, Note, Pair, Talk
from curriculum.importing.json_values import Numbered, json_values
from curriculum.importing.manuals import NAME as MANUAL
from curriculum.importing.manuals import manual_lessons
from curriculum.importing.masking import masked
from curriculum.importing.report import ImportReport, Kept
from curriculum.importing.sources import JSON, MARKDOWN, PARQUET, TABLES, Source, sources_of
from curriculum.importing.tables import csv_records, parquet_records
from curriculum.importing.talks import lessons_of, preferences_of
from curriculum.importing.texts import cleaned, with_texts
from curriculum.jsonl import BadLine
from curriculum.preferences.pairs import Preference
from ledger.errors import LunaError
from ledger.roles import ROLES, Role

OnError = Literal["continue", "stop"]

F = TypeVar("F", Talk, Lesson, Pair)


@dataclass(frozen=True)
class ImportOptions:
    roles: tuple[Role, ...] = ROLES
    """Of records that name none: an example for each of them."""
    on_error: OnError = "continue"
    """`stop` raises `LunaError` at the first bad line."""
    created_at: str = ""
    """ISO-8601 with a zone, for records that have no time."""
    keep_personal_data: bool = False


def import_file(path: str | Path, role: Role, on_error: OnError = "continue", *, created_at: str = "") -> ImportReport:
    """`import_paths` for one path and one role."""
    if role not in ROLES:
        raise LunaError(f"there is no role {role!r}; use one of {', '.join(ROLES)}.")
    return import_paths([str(path)], ImportOptions((role,), on_error, created_at))


def import_paths(paths: Sequence[str], options: ImportOptions) -> ImportReport:
    """Read files, folders, zip archives and standard input (`-`), of the forms in `formats` or manuals.

    A line that cannot be read is reported with file and line number.

    Raises:
        LunaError: nothing can be learned from: a path is missing, of an unknown kind, or empty. A damaged file among
            others is reported as a line is.
    """
    if options.on_error not in ("continue", "stop"):
        raise LunaError(f"on_error is {options.on_error!r}; use 'continue' or 'stop'.")
    reading = _Reading(replace(options, created_at=utc_of(options.created_at)))
    for path in paths:
        for source in sources_of(path, reading.note):
            reading.read(source, alone=len(paths) == 1 and source.label in (str(Path(path)), "standard input"))
    report = reading.finished()
    if not (report.kept or report.pairs or report.problems or report.records):
        named = ", ".join(paths[:3])
        raise LunaError(f"{named} holds nothing to learn from; it is empty or has only headings and code.")
    return report


class _Reading:
    """An import under way."""

    def __init__(self, options: ImportOptions) -> None:
        self._options = options
        self._report = ImportReport()
        self._kept: dict[str, Kept] = {}
        self._pairs: dict[str, Preference] = {}

    def note(self, left_out: str) -> None:
        self._report.left_out[left_out] += 1

    def read(self, source: Source, *, alone: bool) -> None:
        """Read one file. One that is damaged is an error if it is all that was named, and a problem otherwise."""
        line = 0
        try:
            for line, form, found in _contents(source, self.note):
                if isinstance(found, LunaError):
                    self._problem(source, line, found)
                    continue
                try:
                    self._take(found, form, f"file/{source.name}:{line}")
                except LunaError as error:
                    self._problem(source, line, error)
        except OSError as error:
            self._problem(source, line + 1, LunaError(f"the rest could not be read ({error.strerror})"))
        except LunaError as error:
            if alone or self._options.on_error == "stop":
                raise
            self._problem(source, line + 1, error)

    def finished(self) -> ImportReport:
        self._report.kept, self._report.pairs = list(self._kept.values()), list(self._pairs.values())
        return self._report

    def _problem(self, source: Source, line: int, error: LunaError) -> None:
        found = BadLine(source.label, line, str(error))
        if self._options.on_error == "stop":
            raise LunaError(f"{found}. Nothing was imported; correct the line, or import with --on-error continue.")
        self._report.add_problem(found)

    def _take(self, found: Sequence[Found], form: str, place: str) -> None:
        """The examples and pairs of a record: all of them, or none if one of them is wrong."""
        lessons: list[Lesson] = []
        pairs: list[list[Preference]] = []
        for one in found:
            if isinstance(one, Pair):
                pairs.append(list(preferences_of(self._checked(one))))
            elif isinstance(one, Talk):
                lessons += lessons_of(self._checked(one), self.note)
            else:
                lessons.append(self._checked(one))
        kept = [examples_of(lesson, self._options, place) for lesson in lessons]
        self._report.records[form] += 1
        for of_one in kept:
            fresh = [self._keep(one) for one in of_one]
            self._report.lessons += any(fresh)
            self._report.duplicates += not any(fresh)
        for of_one_pair in pairs:
            before = [self._pairs[pair.id] for pair in of_one_pair if pair.id in self._pairs]
            self._report.duplicates += len(before) == len(of_one_pair)
            self._report.reweighted += any(one not in of_one_pair for one in before)
            self._pairs.update({pair.id: pair for pair in of_one_pair})

    def _keep(self, one: Kept) -> bool:
        """Whether it is new; of one that is not, the last weight stands."""
        first = self._kept.get(one.example.id)
        if first is None:
            self._kept[one.example.id] = one
        elif first.example.weight != one.example.weight:
            self._report.reweighted += 1
            example = replace(first.example, weight=one.example.weight)
            self._kept[one.example.id] = replace(first, example=example)
        return first is None

    def _checked(self, found: F) -> F:
        """Without control characters, and without secrets unless they are to be kept.

        Raises:
            LunaError: a prompt or an answer has nothing that a reader sees.
        """
        fresh: Counter[str] = Counter()

        def plain(text: str) -> str:
            return cleaned(text, lambda kind: fresh.update((kind,)))

        def change(text: str) -> str:
            text = plain(text)
            return text if self._options.keep_personal_data else masked(text, self._mask)

        changed = with_texts(found, change, plain)
        self._report.repaired += fresh
        return changed

    def _mask(self, kind: str) -> None:
        self._report.masked[kind] += 1


def _contents(source: Source, note: Note) -> Iterator[tuple[int, str, Sequence[Found] | LunaError]]:
    """(line, form, what was found or why nothing was) of one file."""
    with source.open() as stream:
        if source.suffix in PARQUET:
            yield from _of_records(parquet_records(stream, source.label), note)
            return
        text = text_of(stream, None if source.suffix in TABLES else "\n")
        if source.suffix in JSON:
            yield from _of_records(json_values(text), note)
        elif source.suffix in TABLES:
            yield from _of_records(csv_records(text, source.suffix), note)
        else:
            yield from _of_manual(text.read(), source, note)


def _of_records(values: Iterable[Numbered], note: Note) -> Iterator[tuple[int, str, Sequence[Found] | LunaError]]:
    for line, record in values:
        if isinstance(record, LunaError):
            yield line, "", record
            continue
        told: list[str] = []
        try:
            form = format_of(record)
            found = form.read(cast("Mapping[str, Any]", record), told.append)
        except LunaError as error:
            yield line, "", error
        else:
            for left_out in told:
                note(left_out)
            yield line, form.NAME, found


def _of_manual(text: str, source: Source, note: Note) -> Iterator[tuple[int, str, Sequence[Found] | LunaError]]:
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    for number, line in enumerate(lines, start=1):
        if has_bytes(line):
            yield number, "", LunaError(NOT_UTF8)
            lines[number - 1] = ""
    whole = "\n".join(lines)
    for line_of, lesson in manual_lessons(whole, source.name, markdown=source.suffix in MARKDOWN, note=note):
        yield line_of, MANUAL, [lesson]


def examples_of(lesson: Lesson, options: ImportOptions, place: str) -> list[Kept]:
    """The examples of a lesson, one a role; `place` is their source where it names none."""
    roles = (lesson.role,) if lesson.role else options.roles
    context = lesson.before.text() if lesson.before else lesson.context
    examples = [
        make_example(
            role=role,
            stage=lesson.stage,
            category=lesson.category,
            kind=lesson.kind,
            input=lesson.input,
            output=lesson.output,
            context=context,
            source=lesson.source or place,
            group=lesson.group,
            weight=lesson.weight,
            created_at=lesson.created_at or options.created_at,
        )
        for role in roles
    ]
    if lesson.before is None:
        return [Kept(example) for example in examples]
    return [Kept(replace(example, context=""), lesson.before) for example in examples]
