"""What a run of the teacher works off: answers to write, or answers to judge, each one row of a file of the set."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from curriculum.reward import Source, TeacherLabel
from curriculum.teacher import rules as rules_teacher
from curriculum.teacher.answers import LabelRefused, parse_answer
from curriculum.teacher.asking import PROMPT_VERSION, asked_again, candidate_messages, label_request, style_of
from curriculum.teacher.candidates import OFFLINE_WRITER, Candidate, make_candidate, write_offline
from curriculum.teacher.seed_prompts import SeedPrompt
from curriculum.teacher.settings import TeacherSettings, endpoint_url
from jobs.context import err, is_terminal
from jobs.parallel import in_parallel, sigterm_as_interrupt
from jobs.teacher.budget import Budget, GivenUp
from jobs.teacher.rows import Row, RowFile, claim_manifest, read_manifest, write_manifest
from ledger.errors import LunaError
from ledger.files import sha256_file
from ledger.home import Home

if TYPE_CHECKING:
    from jobs.teacher.endpoint import Endpoint

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

_SYNC_EVERY_S = 5.0
_FAILED_IN_A_ROW = 10
"""So many items that fail one after another stop a run: something is wrong with all of them."""


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
    writer = OFFLINE_WRITER if teacher == "rules" else settings.writer_model or settings.model
    identity = {"by": teacher, "model": writer, "seed": settings.seed}
    if teacher == "endpoint":
        identity |= {"url": endpoint_url(settings), "temperature": settings.candidate_temperature}
    work = [(prompt, number) for prompt in prompts for number in range(settings.candidates)]

    def read(text: str) -> str:
        if len(text) > settings.max_judged_chars:
            raise LabelRefused(f"the answer has {len(text)} characters")
        return text.strip()

    async def make(item: tuple[SeedPrompt, int], endpoint: Endpoint | None) -> Row:
        prompt, number = item
        if endpoint is None:
            text = write_offline(prompt, number, settings.seed)
        else:
            messages = candidate_messages(prompt.text, style_of(number))
            text = await endpoint.complete(f"{prompt.id}/{number}", writer, messages, read, writing=True)
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
    judge = rules_teacher.NAME if teacher == "rules" else settings.model
    identity: dict[str, Any] = {"by": teacher, "model": judge}
    if teacher == "endpoint":
        identity |= {"url": endpoint_url(settings), "prompt_version": PROMPT_VERSION}

    async def make(answer: Candidate, endpoint: Endpoint | None) -> Row:
        origin = {"candidate_source": answer.source, "candidate_model": answer.model, "style": answer.style}
        if endpoint is None:
            reward = rules_teacher.label(answer.prompt, answer.response)
            rationale = rules_teacher.reasons(answer.prompt, answer.response)
        else:
            size = len(answer.prompt) + len(answer.response)
            if size > settings.max_judged_chars:
                raise GivenUp(f"{size} characters, more than [teacher] max_judged_chars = {settings.max_judged_chars}")
            request = label_request(answer.prompt, answer.response)
            judged = await endpoint.complete(
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
    make: Callable[[Item, Endpoint | None], Awaitable[Row]]
    """The row of an item. Without an endpoint it comes from rules and templates."""


def _fill(task: _Task[Item], settings: TeacherSettings, offline: bool) -> Path:
    """Append the row of every item that has none yet; the manifest beside the file says how it went."""
    manifest_path = task.path.with_suffix(".manifest.json")
    with ExitStack() as stack:
        rows = stack.enter_context(RowFile(task.path))
        if rows.dropped:
            logger.info("%s: a half-written last line was dropped and is done again", task.path.name)
        manifest = claim_manifest(manifest_path, task.identity)
        budget, files, endpoint = Budget(settings), [rows], None
        if not offline:
            from jobs.teacher.endpoint import Endpoint  # which takes seconds to import

            requests = stack.enter_context(RowFile(task.path.with_name(f"{task.path.stem}.requests.jsonl")))
            budget.add_rows(requests.rows)
            files.append(requests)
            endpoint = Endpoint(settings, partial(budget.record, requests))
        done = {task.key_of_row(row) for row in rows.rows}
        todo = [item for item in task.items if task.key(item) not in done]
        asked, there = len(task.items), len(task.items) - len(todo)
        logger.info("%d %s asked for, %d there already, %d to do", asked, task.what, there, len(todo))
        run = _Run(task, todo, rows, files, budget)
        try:
            if todo:
                write_manifest(manifest_path, manifest | {"state": "running"})
                with sigterm_as_interrupt():
                    asyncio.run(run.work_off(endpoint))
        finally:
            run.sync()
            result = {
                "rows": len(rows.rows), "rows_sha256": sha256_file(task.path), "failures": run.failures, **budget.told()
            }  # fmt: skip
            state = "unfinished" if run.left() or run.failures else "done"
            write_manifest(manifest_path, manifest | {"state": state} | result)
    if run.failures:
        raise LunaError(
            f"{len(run.failures)} of {len(task.items)} {task.what} are missing; {manifest_path} says which and why. "
            "Run the same command to try them again."
        )
    return task.path


@dataclass
class _Run(Generic[Item]):
    """Working off what is left to do of a task."""

    task: _Task[Item]
    todo: Sequence[Item]
    rows: RowFile
    files: Sequence[RowFile]
    """All that is written; rows that were told of survive a power cut."""
    budget: Budget
    good: int = 0
    failures: dict[str, str] = field(default_factory=dict)

    async def work_off(self, endpoint: Endpoint | None) -> None:
        """Make the rows, several at a time where a network answers.

        Raises:
            LunaError: nothing can succeed any more, or the cost has reached its limit.
        """
        at_once = 1 if endpoint is None else endpoint.settings.concurrency
        failed_in_a_row, synced_at = 0, time.monotonic()
        columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=err, transient=True, disable=not is_terminal()) as bar:
            shown = bar.add_task(self.task.what, total=len(self.todo))
            try:
                async with aclosing(in_parallel(self.todo, partial(self._row, endpoint), at_once)) as results:
                    async for item, (row, reason) in results:
                        failed_in_a_row = 0 if row is not None else failed_in_a_row + 1
                        self._take(item, row, reason)
                        bar.update(shown, advance=1, description=str(self))
                        if time.monotonic() - synced_at >= _SYNC_EVERY_S:
                            self.sync()
                            synced_at = time.monotonic()
                            if not is_terminal():
                                logger.info("  %s", self)
                        self._check(failed_in_a_row, reason)
            finally:
                if endpoint is not None:
                    await endpoint.close()
                logger.info("  %s", self)

    async def _row(self, endpoint: Endpoint | None, item: Item) -> tuple[Row | None, str]:
        """The row of an item, or why there is none."""
        try:
            return await self.task.make(item, endpoint), ""
        except GivenUp as error:
            return None, str(error)

    def _take(self, item: Item, row: Row | None, reason: str) -> None:
        if row is None:
            self.failures[self.task.name(item)] = reason
            logger.info("  %s: %s", self.task.name(item), reason)
        else:
            self.rows.append(row)
            self.good += 1

    def _check(self, failed_in_a_row: int, reason: str) -> None:
        if failed_in_a_row >= _FAILED_IN_A_ROW:
            raise LunaError(f"{failed_in_a_row} {self.task.what} failed one after another, the last one: {reason}.")
        if self.left() and self.budget.is_spent():
            raise LunaError(
                f"this has cost {self.budget.cost():.4f}, and [teacher] max_cost is "
                f"{self.budget.settings.max_cost:g}. Raise it and run the same command to go on."
            )

    def left(self) -> int:
        """Items that are not done."""
        return len(self.todo) - self.good - len(self.failures)

    def sync(self) -> None:
        """Make what was written survive a power cut."""
        for file in self.files:
            file.sync()

    def __str__(self) -> str:
        failed = f", {len(self.failures)} failed" if self.failures else ""
        return f"{self.good}/{len(self.todo)} {self.task.what}{failed}{self.budget}"
