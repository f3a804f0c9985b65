"""The teacher: have answers written and judged, and look at the labels.

    luna teach label --teacher rules              offline, from a clean home
    luna teach label                              by the endpoint of [teacher] in luna.toml
    luna submit teach -- label                    the same as a Ray job

A set is a folder `data/teacher/<set>/` of the home with `candidates.jsonl` and `labels.jsonl`. Both grow row by row,
and a run that was killed goes on where it stopped. Every request stands in `*.requests.jsonl` beside them.
"""

from __future__ import annotations

import json
import queue
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import typer

from jobs.context import HOME_OPTION, JSON_OPTION, friendly_errors, out, resolve_home, say
from ledger.errors import LunaError
from ledger.home import Home

if TYPE_CHECKING:
    from curriculum.reward import Source, TeacherLabel
    from curriculum.teacher.candidates import Candidate
    from curriculum.teacher.seed_prompts import SeedPrompt
    from curriculum.teacher.settings import TeacherSettings
    from jobs.teacher.endpoint import Asked, Endpoint
    from jobs.teacher.rows import Row, RowFile

app = typer.Typer(no_args_is_help=True, help="Have answers written and judged by a teacher, and look at the labels.")

TEACHERS = ("endpoint", "rules")
"""Who judges: a model behind an endpoint, or the offline rules, whose labels say so."""

Item = TypeVar("Item")

_LINE_EVERY_S = 5.0
_FAILED_IN_A_ROW = 10
"""So many items that fail one after another stop a run: something is wrong with all of them."""

SET_OPTION = typer.Option("seed", "--set", help="Name of the set under data/teacher/.")
TEACHER_OPTION = typer.Option("endpoint", "--teacher", help="endpoint ([teacher] in luna.toml), or rules (offline).")
BASE_URL_OPTION = typer.Option(None, "--base-url", help="Instead of [teacher] base_url.")
MODEL_OPTION = typer.Option(None, "--model", help="Instead of [teacher] model.")


# -------------------------------------------------------------------------------------------------------- commands


@app.command()
def generate(
    teacher: str = TEACHER_OPTION,
    candidates: int | None = typer.Option(None, help="Answers a prompt, instead of [teacher] candidates."),
    prompts: Path | None = typer.Option(None, help="TOML file of prompts; default the shipped ones."),
    limit: int | None = typer.Option(None, help="Only the first so many prompts."),
    set_: str = SET_OPTION,
    base_url: str | None = BASE_URL_OPTION,
    model: str | None = MODEL_OPTION,
    home: Path | None = HOME_OPTION,
) -> None:
    """Have several answers to each prompt written: the candidates that are judged later."""
    with friendly_errors():
        place = resolve_home(home)
        settings = _settings(place, base_url, model)
        if candidates is not None:
            settings = settings.model_copy(update={"candidates": _at_least_one("--candidates", candidates)})
        path = write_candidates(place, set_, _teacher(teacher), settings, _prompts(prompts, limit))
        out.print(str(path), soft_wrap=True, markup=False)


@app.command()
def label(
    teacher: str = TEACHER_OPTION,
    candidates: Path | None = typer.Option(None, help="JSONL with prompt and response; default the set's own."),
    prompts: Path | None = typer.Option(None, help="TOML file of prompts, if candidates are written first."),
    limit: int | None = typer.Option(None, help="Only the first so many answers."),
    set_: str = SET_OPTION,
    base_url: str | None = BASE_URL_OPTION,
    model: str | None = MODEL_OPTION,
    home: Path | None = HOME_OPTION,
) -> None:
    """Have the candidates judged. A set without candidates gets them first, by the same teacher."""
    from curriculum.teacher.candidates import read_candidates

    with friendly_errors():
        place, who = resolve_home(home), _teacher(teacher)
        settings = _settings(place, base_url, model)
        source = candidates or set_folder(place, set_) / "candidates.jsonl"
        if candidates is None and not is_done(source, who):
            write_candidates(place, set_, who, settings, _prompts(prompts, None))
        answers = read_candidates(source)
        if limit is not None:
            answers = answers[: _at_least_one("--limit", limit)]
        path = label_candidates(place, set_, who, settings, answers)
        out.print(str(path), soft_wrap=True, markup=False)


@app.command()
def validate(
    labels: Path | None = typer.Argument(None, help="JSONL of labels; default the set's."),
    set_: str = SET_OPTION,
    json_: bool = JSON_OPTION,
    home: Path | None = HOME_OPTION,
) -> None:
    """Check a file of labels: every value in its range, every line a label. Exit status 1 if anything is wrong."""
    from curriculum.reward import RANGES, read_labels

    with friendly_errors():
        path = labels or set_folder(resolve_home(home), set_) / "labels.jsonl"
        report = read_labels(path, out_of_range="drop")
        problems = [*map(str, report.out_of_range), *map(str, report.bad_lines), *_judged_twice(report.labels)]
        sources = Counter(f"{one.source}{f' ({one.teacher})' if one.teacher else ''}" for one in report.labels)
        if json_:
            out.print_json(json.dumps({"labels": len(report.labels), "sources": sources, "problems": problems}))
        else:
            for problem in problems:
                out.print(problem, markup=False, soft_wrap=True)
            told = ", ".join(f"{count} by {name}" for name, count in sorted(sources.items()))
            out.print(f"{len(report.labels)} labels within {len(RANGES)} ranges: {told}", markup=False, soft_wrap=True)
            out.print(f"{len(problems)} problems" if problems else "no problems")
        if problems:
            raise typer.Exit(1)


@app.command()
def sample(
    labels: Path | None = typer.Argument(None, help="JSONL of labels; default the set's."),
    n: int = typer.Option(3, help="How many."),
    seed: int = typer.Option(1, help="Equal seeds draw the same."),
    category: str | None = typer.Option(None, help="Only this category."),
    set_: str = SET_OPTION,
    json_: bool = JSON_OPTION,
    home: Path | None = HOME_OPTION,
) -> None:
    """Show some labels as a person would check them: prompt, answer, values, rationale."""
    from random import Random

    from curriculum.reward import read_labels

    with friendly_errors():
        path = labels or set_folder(resolve_home(home), set_) / "labels.jsonl"
        read = read_labels(path, out_of_range="drop").labels
        found = [one for one in read if category in (None, one.category)]
        if not found:
            known = sorted({one.category for one in read})
            raise LunaError(f"{path} has no label of category {category!r}; use one of {', '.join(known)}.")
        drawn = Random(seed).sample(found, min(_at_least_one("--n", n), len(found)))
        if json_:
            out.print_json(json.dumps([one.model_dump(mode="json") for one in drawn], ensure_ascii=False))
        else:
            for one in drawn:
                _show(one)


@app.command()
def pairs(
    labels: Path | None = typer.Argument(None, help="JSONL of labels; default the set's."),
    role: str = typer.Option("dialectical", help="Whose pairs they become: creative, logical or dialectical."),
    min_margin: float = typer.Option(0.25, help="Smallest difference of the means of the seven dimensions."),
    per_prompt: int = typer.Option(6, help="Most pairs of a prompt, the widest first."),
    set_: str = SET_OPTION,
    home: Path | None = HOME_OPTION,
) -> None:
    """Make preference pairs of a file of labels, frozen under data/; prints their SHA."""
    from curriculum.preferences.pairs import freeze_preferences, label_pairs, merge
    from curriculum.reward import read_labels
    from ledger.roles import ROLES

    with friendly_errors():
        if role not in ROLES:
            raise LunaError(f"there is no role {role!r}; use one of {', '.join(ROLES)}.")
        place = resolve_home(home)
        report = read_labels(labels or set_folder(place, set_) / "labels.jsonl", out_of_range="drop")
        for problem in (*report.out_of_range, *report.bad_lines):
            say(f"left out: {problem}")
        made = merge(label_pairs(report.labels, role, min_margin=min_margin, per_prompt=per_prompt))
        if not made:
            raise LunaError(f"no two answers to one prompt lie {min_margin:g} apart; label more candidates a prompt.")
        weighty = sum(pair.weight > 0 for pair in made)
        say(f"{len(made)} pairs of {len({pair.prompt for pair in made})} prompts, {weighty} with a weight above 0")
        out.print(freeze_preferences(made, place.create()), soft_wrap=True)


# ------------------------------------------------------------------------------------------------------- what is done


def set_folder(home: Home, name: str) -> Path:
    """Where a set lies.

    Raises:
        LunaError: the name could leave the folder.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
        raise LunaError(f"--set is {name!r}; use letters, digits, - and _.")
    return home.data_dir / "teacher" / name


def is_done(candidates: Path, teacher: str) -> bool:
    """Whether a set has the answers to judge. An interrupted run is finished first, by the teacher that began it;
    a file without a manifest is the user's own."""
    from jobs.teacher.rows import read_manifest

    if not candidates.exists() or not candidates.stat().st_size:
        return False
    manifest = read_manifest(candidates.with_suffix(".manifest.json"))
    return not manifest or manifest.get("state") == "done" or manifest["identity"].get("by") != teacher


def write_candidates(
    home: Home, set_: str, teacher: str, settings: TeacherSettings, prompts: Sequence[SeedPrompt]
) -> Path:
    """Have `settings.candidates` answers to each prompt written into the set; returns their file.

    Raises:
        LunaError: the endpoint cannot be used, or some answers could not be had (the others are kept).
    """
    from curriculum.teacher.asking import LabelRefused, candidate_messages, style_of
    from curriculum.teacher.candidates import OFFLINE_WRITER, make_candidate, write_offline

    writer = OFFLINE_WRITER if teacher == "rules" else settings.writer_model or settings.model
    identity = {"by": teacher, "model": writer, "seed": settings.seed}
    if teacher == "endpoint":
        identity |= {"url": _url(settings), "temperature": settings.candidate_temperature}
    work = [(prompt, number) for prompt in prompts for number in range(settings.candidates)]

    def read(text: str) -> str:
        if len(text) > settings.max_judged_chars:
            raise LabelRefused(f"the answer has {len(text)} characters")
        return text.strip()

    def make(item: tuple[SeedPrompt, int], endpoint: Endpoint | None) -> Row:
        prompt, number = item
        if endpoint is None:
            text = write_offline(prompt, number, settings.seed)
        else:
            messages = candidate_messages(prompt.text, style_of(number))
            text = endpoint.complete(f"{prompt.id}/{number}", writer, messages, read, writing=True)
        source: Source = "rules" if endpoint is None else "teacher"
        return make_candidate(prompt, number, text, source, writer).model_dump(mode="json")

    task = _Task(
        what="answers",
        path=set_folder(home, set_) / "candidates.jsonl",
        identity=identity,
        items=work,
        name=lambda item: f"{item[0].id}/{item[1]}",
        key=lambda item: (item[0].id, item[1], item[0].text),
        key_of_row=lambda row: (row.get("prompt_id"), row.get("number"), row.get("prompt")),
        make=make,
    )
    return _fill(task, settings, offline=teacher == "rules")


def label_candidates(
    home: Home, set_: str, teacher: str, settings: TeacherSettings, answers: Sequence[Candidate]
) -> Path:
    """Have the answers judged into the set's `labels.jsonl`; returns that file.

    Raises:
        LunaError: the endpoint cannot be used, or some answers got no label (the others are kept).
    """
    from curriculum.reward import TeacherLabel
    from curriculum.teacher import rules as rules_teacher
    from curriculum.teacher.asking import PROMPT_VERSION, asked_again, label_request, parse_answer
    from jobs.teacher.endpoint import GivenUp

    judge = rules_teacher.NAME if teacher == "rules" else settings.model
    identity: dict[str, Any] = {"by": teacher, "model": judge}
    if teacher == "endpoint":
        identity |= {"url": _url(settings), "prompt_version": PROMPT_VERSION}

    def make(answer: Candidate, endpoint: Endpoint | None) -> Row:
        origin = {"candidate_source": answer.source, "candidate_model": answer.model, "style": answer.style}
        if endpoint is None:
            reward = rules_teacher.label(answer.prompt, answer.response)
            rationale = rules_teacher.reasons(answer.prompt, answer.response)
        else:
            size = len(answer.prompt) + len(answer.response)
            if size > settings.max_judged_chars:
                raise GivenUp(f"{size} characters, more than [teacher] max_judged_chars = {settings.max_judged_chars}")
            request = label_request(answer.prompt, answer.response)
            judged = endpoint.complete(
                answer.id,
                settings.model,
                request.messages,
                lambda text: parse_answer(text, request.check),
                writing=False,
                again=lambda reason: asked_again(request, reason),
            )
            reward, rationale = judged.reward, judged.rationale
            origin["prompt_version"] = PROMPT_VERSION
        return TeacherLabel(
            id=answer.id,
            prompt_id=answer.prompt_id,
            category=answer.category,
            prompt=answer.prompt,
            response=answer.response,
            reward=reward,
            source="rules" if endpoint is None else "teacher",
            teacher=judge,
            rationale=rationale,
            provenance={key: value for key, value in origin.items() if value},
        ).model_dump(mode="json")

    task = _Task(
        what="labels",
        path=set_folder(home, set_) / "labels.jsonl",
        identity=identity,
        items=answers,
        name=lambda answer: answer.id,
        key=lambda answer: (answer.prompt, answer.response),
        key_of_row=lambda row: (row.get("prompt"), row.get("response")),
        make=make,
    )
    return _fill(task, settings, offline=teacher == "rules")


@dataclass(frozen=True)
class _Task(Generic[Item]):
    """What becomes rows: one row an item."""

    what: str
    """Plural, for messages."""
    path: Path
    identity: dict[str, Any]
    """What the rows are made with; rows made otherwise are not mixed in."""
    items: Sequence[Item]
    name: Callable[[Item], str]
    key: Callable[[Item], object]
    """By which an item that has its row is known, with `key_of_row`."""
    key_of_row: Callable[[Row], object]
    make: Callable[[Item, Endpoint | None], Row]
    """The row of an item. Without an endpoint it comes from rules and templates."""


def _fill(task: _Task[Item], settings: TeacherSettings, offline: bool) -> Path:
    """Append the row of every item that has none yet; the manifest beside the file says how it went."""
    from jobs.teacher.endpoint import Endpoint
    from jobs.teacher.rows import RowFile, claim_manifest, write_manifest
    from ledger.files import sha256_file

    manifest_path = task.path.with_suffix(".manifest.json")
    failures: dict[str, str] = {}
    with ExitStack() as stack:
        rows = stack.enter_context(RowFile(task.path))
        if rows.dropped:
            say(f"{task.path.name}: a half-written last line was dropped and is done again")
        manifest = claim_manifest(manifest_path, task.identity)
        spent, files, endpoint = _Spent(settings), [rows], None
        if not offline:
            requests = stack.enter_context(RowFile(task.path.with_name(f"{task.path.stem}.requests.jsonl")))
            spent.add_rows(requests.rows)
            files.append(requests)
            endpoint = Endpoint(settings, _recorder(requests, spent))
        done = {task.key_of_row(row) for row in rows.rows}
        todo = [item for item in task.items if task.key(item) not in done]
        say(f"{len(task.items)} {task.what} asked for, {len(task.items) - len(todo)} there already, {len(todo)} to do")
        progress = _Progress(len(todo), task.what, spent)
        try:
            if todo:
                write_manifest(manifest_path, manifest | {"state": "running"})
                _work_off(task, todo, endpoint, rows, files, failures, progress)
        finally:
            if endpoint is not None:
                endpoint.stopping.set()
            for file in files:
                file.sync()
            whole = progress.good == len(todo)
            result = {
                "rows": len(rows.rows),
                "rows_sha256": sha256_file(task.path),
                "failures": failures,
                **spent.told(),
            }
            write_manifest(manifest_path, manifest | {"state": "done" if whole else "unfinished"} | result)
            progress.end()
    if failures:
        raise LunaError(
            f"{len(failures)} of {len(task.items)} {task.what} are missing; {manifest_path} says which and why. "
            "Run the same command to try them again."
        )
    return task.path


def _work_off(
    task: _Task[Item],
    todo: Sequence[Item],
    endpoint: Endpoint | None,
    rows: RowFile,
    files: Sequence[RowFile],
    failures: dict[str, str],
    progress: _Progress,
) -> None:
    """Make the rows, in parallel where a network answers.

    Raises:
        LunaError: nothing can succeed any more, or the cost has reached its limit.
    """
    results: Iterator[tuple[Item, tuple[Row | None, str]]]
    if endpoint is None:
        results = ((item, (task.make(item, None), "")) for item in todo)
    else:
        threads, stopping = endpoint.settings.concurrency, endpoint.stopping
        results = _in_parallel(todo, lambda item: _row_or_reason(task, item, endpoint), threads, stopping)
    failed_in_a_row = 0
    with _sigterm_as_interrupt():
        for item, (row, reason) in results:
            if row is None:
                failures[task.name(item)] = reason
                failed_in_a_row += 1
                say(f"  {task.name(item)}: {reason}")
            else:
                rows.append(row)
                failed_in_a_row = 0
            if progress.step(row is not None):
                for file in files:
                    file.sync()
            if failed_in_a_row >= _FAILED_IN_A_ROW:
                raise LunaError(f"{failed_in_a_row} {task.what} failed one after another, the last one: {reason}.")
            if progress.left() and progress.spent.is_too_much():
                raise LunaError(
                    f"this has cost {progress.spent.cost():.4f}, and [teacher] max_cost is "
                    f"{progress.spent.settings.max_cost:g}. Raise it and run the same command to go on."
                )


def _row_or_reason(task: _Task[Item], item: Item, endpoint: Endpoint) -> tuple[Row | None, str]:
    from jobs.teacher.endpoint import GivenUp

    try:
        return task.make(item, endpoint), ""
    except GivenUp as error:
        return None, str(error)


def _in_parallel(
    items: Sequence[Item], work: Callable[[Item], Any], threads: int, stopping: threading.Event
) -> Iterator[tuple[Item, Any]]:
    """Each item with its result, as they are done. The first error of a worker is raised here, and ends the others.

    The threads are daemons: a request that hangs does not keep a stopped command alive.
    """
    waiting: queue.SimpleQueue[Item] = queue.SimpleQueue()
    for item in items:
        waiting.put(item)
    finished: queue.SimpleQueue[tuple[Item, Any, BaseException | None]] = queue.SimpleQueue()

    def worker() -> None:
        while not stopping.is_set():
            try:
                item = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                finished.put((item, work(item), None))
            except BaseException as error:
                finished.put((item, None, error))
                return

    for number in range(min(threads, len(items))):
        threading.Thread(target=worker, name=f"teacher-{number}", daemon=True).start()
    for _ in items:
        while True:
            try:
                item, result, error = finished.get(timeout=0.5)  # a timeout, so that Ctrl-C gets through
                break
            except queue.Empty:
                continue
        if error is not None:
            raise error
        yield item, result


def _recorder(requests: RowFile, spent: _Spent) -> Callable[[Asked], None]:
    def record(asked: Asked) -> None:
        row = {**asdict(asked), **asdict(asked.usage)}
        del row["usage"]
        requests.append(row)
        spent.add_rows([row])

    return record


class _Spent:
    """Requests and tokens of a set, over all its runs."""

    def __init__(self, settings: TeacherSettings) -> None:
        from curriculum.teacher.asking import Usage

        self.settings, self.usage, self.requests, self.retries = settings, Usage(), 0, 0
        self._lock = threading.Lock()

    def add_rows(self, rows: Sequence[Row]) -> None:
        from curriculum.teacher.asking import Usage

        with self._lock:
            for row in rows:
                self.usage += Usage(row["prompt_tokens"], row["answer_tokens"], row["estimated"])
                self.requests += 1
                self.retries += row["attempt"] > 0

    def cost(self) -> float:
        """Of all requests so far, in the settings' currency."""
        from curriculum.teacher.asking import cost

        return cost(self.usage, self.settings)

    def is_too_much(self) -> bool:
        """Whether the cost has reached its limit."""
        return 0 < self.settings.max_cost <= self.cost()

    def told(self) -> dict[str, Any]:
        """As the manifest has it."""
        if not self.requests:
            return {}
        prices = {"price_in": self.settings.price_in, "price_out": self.settings.price_out}
        counts = {"requests": self.requests, "retries": self.retries, **asdict(self.usage)}
        return {**counts, "cost": round(self.cost(), 6), **prices}

    def __str__(self) -> str:
        if not self.requests:
            return ""
        about = "about " if self.usage.estimated else ""
        priced = self.settings.price_in or self.settings.price_out
        money = f", cost {self.cost():.4f}" if priced else ", no price set"
        return (
            f", {self.requests:,} requests ({self.retries:,} again), "
            f"{about}{self.usage.prompt_tokens:,} + {self.usage.answer_tokens:,} tokens{money}"
        )


class _Progress:
    """A line every few seconds, and one at the end."""

    def __init__(self, total: int, what: str, spent: _Spent) -> None:
        self.total, self.what, self.spent = total, what, spent
        self.good = self.failed = 0
        self._begun = self._told_at = time.monotonic()

    def step(self, good: bool) -> bool:
        """Count one item; says a line when one is due, and whether it did."""
        self.good += good
        self.failed += not good
        now = time.monotonic()
        due = now - self._told_at >= _LINE_EVERY_S and self.left() > 0
        if due:
            left_s = (now - self._begun) / (self.good + self.failed) * self.left()
            say(f"  {self._line()}, {left_s:.0f} s left")
            self._told_at = now
        return due

    def left(self) -> int:
        """Items that are not done."""
        return self.total - self.good - self.failed

    def end(self) -> None:
        if self.total:
            say(f"  {self._line()}, {time.monotonic() - self._begun:.1f} s")

    def _line(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.good}/{self.total} {self.what}{failed}{self.spent}"


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """`ray job stop` sends SIGTERM: end as after Ctrl-C, with the manifest written."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# -------------------------------------------------------------------------------------------------- asked and shown


def _settings(home: Home, base_url: str | None, model: str | None) -> TeacherSettings:
    """The home's `[teacher]`; the defaults where the home has no settings yet."""
    from curriculum.teacher.settings import TeacherSettings

    given = {key: value for key, value in (("base_url", base_url), ("model", model)) if value is not None}
    if not home.settings_file.exists():
        return TeacherSettings(**given)
    from cluster.settings import settings_of

    return settings_of(home).teacher.model_copy(update=given)


def _teacher(name: str) -> str:
    if name not in TEACHERS:
        raise LunaError(f"there is no teacher {name!r}; use one of {', '.join(TEACHERS)}.")
    return name


def _prompts(path: Path | None, limit: int | None) -> list[SeedPrompt]:
    from curriculum.teacher.seed_prompts import read_prompts, seed_prompts

    found = seed_prompts() if path is None else read_prompts(path)
    return found if limit is None else found[: _at_least_one("--limit", limit)]


def _url(settings: TeacherSettings) -> str:
    from curriculum.teacher.settings import endpoint_url

    return endpoint_url(settings)


def _at_least_one(option: str, value: int) -> int:
    if value < 1:
        raise LunaError(f"{option} is {value}; ask for at least one.")
    return value


def _judged_twice(labels: Sequence[TeacherLabel]) -> list[str]:
    """Answers that one judge labelled more than once."""
    seen = Counter((one.source, one.teacher, one.prompt, one.response) for one in labels)
    return [
        f"{count} labels by {source} {teacher} for one answer to {prompt[:60]!r}"
        for (source, teacher, prompt, _), count in seen.items()
        if count > 1
    ]


def _show(label: TeacherLabel) -> None:
    from curriculum.reward import VALUES

    out.rule(f"{label.prompt_id}  by {label.source} {label.teacher}", characters="─")
    out.print(_printable(label.prompt), style="bold", markup=False)
    out.print(_printable(label.response), markup=False)
    values = "  ".join(f"{name} {value:+.2f}" for name, value in zip(VALUES, label.reward.values(), strict=True))
    out.print(values, style="cyan", markup=False)
    if label.rationale:
        out.print(_printable(label.rationale), style="dim", markup=False)


def _printable(text: str) -> str:
    """Without control characters, which could move about in the reader's terminal."""
    return "".join(character if character.isprintable() or character in "\n\t" else "?" for character in text)


if __name__ == "__main__":
    app()
