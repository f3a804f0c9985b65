"""What happens between a question and a stored answer, for one voice or for all three in turn.

Free of HTTP and Ray: voices are asked and turns are stored through two small protocols.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast

from curriculum.render import dialogue_context
from curriculum.transcript import Exchange, keep_recent, render_talk
from ledger.clock import utc_now
from ledger.conversations import LabelledTurn, Turn
from ledger.roles import ROLES, Voice
from serving.api.errors import Refused
from serving.engine import Asked, Piece, Sampling, Started
from serving.table import model_name

logger = logging.getLogger(__name__)


class Voices(Protocol):
    """Who answers."""

    def speak(self, model: str, question: Asked, sampling: Sampling) -> AsyncIterator[Started | Piece]:
        """See :meth:`serving.engine_app.EngineReplica.speak`."""
        ...


class Record(Protocol):
    """Who stores."""

    async def add_turn(self, turn: Turn) -> None:
        """Store an exchange.

        Raises:
            Refused: it could not be stored.
        """
        ...


@dataclass(frozen=True)
class Question:
    """What a user wants to know."""

    message: str
    conversation: str
    earlier: Sequence[Exchange]
    """What was said to the user before, oldest first."""
    sampling: Sampling
    generation: int | None = None
    """None: the current one."""
    left_out: int = 0
    """Exchanges before `earlier`."""


@dataclass(frozen=True)
class Begun:
    """A voice begins its answer."""

    by: Started
    conversation: str
    turn: str
    """Id under which the answer will be stored, also if the user stops it."""
    dropped: int
    """The oldest exchanges of the conversation, which are not read any more."""


@dataclass(frozen=True)
class Said:
    """The next part of a voice's answer."""

    voice: Voice
    text: str


Event = Begun | Said | LabelledTurn


@dataclass
class _Heard:
    """What one voice has said so far."""

    question: Question
    voice: Voice
    kind: Literal["generate", "dialogue"]
    context: str
    turn_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    began: float = field(default_factory=time.monotonic)
    started: Started | None = None
    answer: str = ""
    last: Piece = field(default_factory=lambda: Piece("", 0, 0))

    def turn(self, finish: Literal["stop", "length", "aborted"]) -> Turn:
        """The exchange as it is stored."""
        assert self.started is not None
        return Turn(
            id=self.turn_id,
            conversation=self.question.conversation,
            kind=self.kind,
            lineage=self.started.lineage,
            role=self.voice,
            generation=self.started.generation,
            adapter_sha=self.started.adapter_sha,
            message=self.question.message,
            context=self.context,
            answer=self.answer,
            prompt_tokens=self.last.prompt_tokens,
            answer_tokens=self.last.tokens,
            seconds=time.monotonic() - self.began,
            finish_reason=finish,
            temperature=self.question.sampling.temperature,
            seed=self.question.sampling.seed,
            at=utc_now(),
        )


async def one_voice(
    voices: Voices,
    record: Record,
    question: Question,
    voice: Voice,
    kind: Literal["generate", "dialogue"] = "generate",
    before: str = "",
) -> AsyncGenerator[Event, None]:
    """One voice's answer as it comes, and at the end the turn as it was stored.

    Args:
        before: what the voices before this one said, as its context.

    Raises:
        Refused: nobody can answer, or the answer could not be stored.
    """
    recent = keep_recent(question.earlier)
    context = "\n".join(part for part in (render_talk(recent), before) if part)
    heard = _Heard(question, voice, kind, context)
    asked = Asked(question.message, context)
    pieces = voices.speak(model_name(voice, question.generation), asked, question.sampling)
    try:
        async with aclosing(cast(Any, pieces)):
            async for piece in pieces:
                if isinstance(piece, Started):
                    heard.started = piece
                    older = question.left_out + len(question.earlier) - len(recent)
                    yield Begun(piece, question.conversation, heard.turn_id, older + piece.dropped)
                    continue
                heard.last, heard.answer = piece, heard.answer + piece.text
                if piece.text:
                    yield Said(voice, piece.text)
    except (asyncio.CancelledError, GeneratorExit, Refused):
        # The user went away, or the engine did: what was said is kept. Nothing may be awaited on the way out.
        if heard.started is not None:
            _later(record.add_turn(heard.turn("aborted")))
        raise
    if heard.started is None:
        raise Refused(503, "the engine gave no answer; try again.")
    stored = heard.turn(heard.last.finish or "aborted")
    # A user who goes away now cancels this request, but not the storing of the whole answer.
    await asyncio.shield(_later(record.add_turn(stored)))
    yield LabelledTurn(**stored.model_dump())


async def all_voices(voices: Voices, record: Record, question: Question) -> AsyncGenerator[Event, None]:
    """Thesis, antithesis, synthesis; each voice hears those before it."""
    said: list[str] = []
    for role in ROLES:
        before = dialogue_context(*said) if said else ""
        async with aclosing(one_voice(voices, record, question, role, "dialogue", before)) as events:
            async for event in events:
                if isinstance(event, LabelledTurn):
                    said.append(event.answer)
                yield event


_unfinished: set[asyncio.Task[None]] = set()
"""Held until they are done: the event loop itself keeps tasks weakly."""


def _later(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    task = asyncio.create_task(work)
    _unfinished.add(task)
    task.add_done_callback(_finish)
    return task


def _finish(task: asyncio.Task[None]) -> None:
    _unfinished.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.warning("an exchange was lost: %r", error)
