"""The HTTP gateway: conversations, labels, scores, the lineage and the page. /v1 is the engine's own.

`build` makes the FastAPI application over three protocols (who answers, who stores, who judges), `serving.app` runs it
on Ray Serve.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from fastapi import FastAPI, Request, Response
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from starlette.concurrency import run_in_threadpool

from curriculum.transcript import Exchange, LengthSettings
from ledger.clock import utc_now
from ledger.conversations import Heading, Label, LabelledTurn
from ledger.errors import LunaError
from ledger.home import Home
from ledger.records import TurnId
from ledger.roles import BASE
from ledger.rules.gates import GateSettings
from ledger.scores import Score
from ledger.store import Stores
from serving.api.errors import Refused, add_error_handlers
from serving.api.events import Events
from serving.api.exchange import Begun, Event, Question, Record, Said, Voices, all_voices, one_voice
from serving.api.guard import KEY_GIVEN
from serving.api.lineage import lineage_state, loss_curves, reward_points
from serving.api.reward import Background, Judge, add_reward
from serving.api.schemas import ERRORS, EVENTS, DialogueRequest, FeedbackAnswer, FeedbackRequest, GenerateRequest
from serving.engine import Sampling
from serving.settings import ServingSettings, SharedSettings

PAGE = Path(__file__).resolve().parent.parent / "page"

OPEN_PATHS = ("/", "/page/", "/healthz", "/favicon.ico")
"""What needs no key: the page itself holds no data, and whether the server is well is no secret; why is one."""

_PAGE_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


class Engine(Voices, Protocol):
    """Who answers, and how it is."""

    async def state(self) -> dict[str, Any]:
        """What is served.

        Raises:
            Refused: the engine does not answer.
        """
        ...

    async def metrics(self) -> str: ...


class Keeper(Record, Protocol):
    """Who stores turns and labels."""

    async def add_label(self, turn: str, label: Label) -> None:
        """Store a label.

        Raises:
            Refused: there is no such turn (404), or it could not be stored.
        """
        ...

    async def add_scores(self, scores: Sequence[Score]) -> None:
        """Store what the reward model made of answers.

        Raises:
            Refused: they could not be stored.
        """
        ...


class Measured:
    """What the gateway counts for Prometheus."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.answers = Counter(
            "luna_answers", "Answers given", ["kind", "role", "generation", "finish"], registry=self.registry
        )
        self.tokens = Counter("luna_answer_tokens", "Tokens of answers", ["role"], registry=self.registry)
        self.seconds = Histogram(
            "luna_answer_seconds", "Seconds from question to end", ["role"], registry=self.registry
        )
        self.labels = Counter("luna_labels", "Labels given by users", registry=self.registry)

    def turn(self, turn: LabelledTurn) -> None:
        generation = "base" if turn.generation is None else f"G{turn.generation}"
        self.answers.labels(turn.kind, turn.role, generation, turn.finish_reason).inc()
        self.tokens.labels(turn.role).inc(turn.answer_tokens)
        self.seconds.labels(turn.role).observe(turn.seconds)


@dataclass(frozen=True)
class _Parts:
    """What the paths work with."""

    home: Home
    engine: Engine
    keeper: Keeper
    settings: ServingSettings
    text: LengthSettings
    measured: Measured
    scoring: Background


def build(
    home: Home, engine: Engine, keeper: Keeper, judge: Judge, settings: ServingSettings, shared: SharedSettings
) -> FastAPI:
    """The application. It still needs the guard before it (:func:`serving.api.guard.guarded`)."""
    app = FastAPI(
        title="Luna",
        description="Talk to a trio of voices, label what they say, and look at their lineage. "
        "`/v1` is an OpenAI-compatible API beside this one.",
        version="1",
        docs_url=None,
        redoc_url=None,
        responses=ERRORS,
    )
    measured = Measured()
    scoring = Background(judge, keeper.add_scores, measured.registry)
    parts = _Parts(home, engine, keeper, settings, shared.text, measured, scoring)
    _add_answers(app, parts)
    add_reward(app, judge)
    _add_conversations(app, parts)
    _add_lineage(app, parts, shared.gates)
    _add_health(app, parts)
    _add_pages(app)
    add_error_handlers(app)
    return app


def _add_answers(app: FastAPI, parts: _Parts) -> None:
    engine, keeper = parts.engine, parts.keeper

    @app.post("/generate", response_model=LabelledTurn, responses=EVENTS, summary="Ask one voice")
    async def generate(request: GenerateRequest) -> Any:
        question = await run_in_threadpool(_question, parts, request)
        events = _noted(one_voice(engine, keeper, question, request.role), parts)
        if request.stream:
            return await _stream(events)
        headers: dict[str, str] = {}
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Begun):
                    headers = _headers(event)
                if isinstance(event, LabelledTurn):
                    return JSONResponse(event.model_dump(mode="json"), headers=headers)
        raise AssertionError("an answer ends with its turn")

    @app.post(
        "/dialogue", response_class=StreamingResponse, responses=EVENTS, summary="Ask all three, one after another"
    )
    async def dialogue(request: DialogueRequest) -> Any:
        question = await run_in_threadpool(_question, parts, request)
        return await _stream(_noted(all_voices(engine, keeper, question), parts))


def _add_conversations(app: FastAPI, parts: _Parts) -> None:
    @app.post("/feedback", summary="Label or correct an answer")
    async def feedback(request: FeedbackRequest) -> FeedbackAnswer:
        label = Label(**request.model_dump(exclude={"turn"}), at=utc_now())
        await parts.keeper.add_label(request.turn, label)
        parts.measured.labels.inc()
        return FeedbackAnswer(turn=request.turn, label=None if label.is_empty else label)

    @app.get("/conversations", summary="The latest conversations")
    def conversations() -> list[Heading]:
        with Stores.open(parts.home) as stores:
            return stores.conversations.latest()

    @app.get("/conversations/{conversation}", summary="One conversation, oldest turn first")
    def conversation(conversation: TurnId) -> list[LabelledTurn]:
        with Stores.open(parts.home) as stores:
            turns = stores.conversations.turns(conversation)
        if not turns:
            raise Refused(404, f"there is no conversation {conversation}.")
        return turns


def _add_lineage(app: FastAPI, parts: _Parts, gates: GateSettings) -> None:
    @app.get("/lineage/rewards", summary="Reward vectors as points, and the course of reward health")
    def rewards() -> dict[str, Any]:
        return reward_points(parts.home)

    @app.get("/lineage", summary="Generations, scores, gates, age and karma")
    async def lineage() -> dict[str, Any]:
        try:
            served = await parts.engine.state()
        except Refused:
            served = None
        return await run_in_threadpool(lineage_state, parts.home, gates, served)

    @app.get("/lineage/{generation}/loss", summary="Training loss of a generation by role")
    def loss(generation: Annotated[int, PathParameter(ge=0, le=1_000_000)]) -> dict[str, list[tuple[int, float]]]:
        try:
            return loss_curves(parts.home, generation)
        except LunaError as error:
            raise Refused(404, str(error)) from error


def _add_health(app: FastAPI, parts: _Parts) -> None:
    @app.get("/healthz", summary="Whether answers can be given; with the key also by what")
    async def healthz(request: Request) -> JSONResponse:
        try:
            state, reason = await parts.engine.state(), None
        except Refused as refusal:
            state, reason = None, refusal.message
        answer: dict[str, Any] = {"status": "unavailable" if state is None else "ok"}
        if request.scope.get(KEY_GIVEN, False):
            shown = ("engine", "current", "previous", "generations", "in_work", "problems")
            answer |= {"reason": reason, "engine": state and {name: state[name] for name in shown}}
        return JSONResponse(answer, 503 if state is None else 200)

    @app.get("/metrics", response_class=PlainTextResponse, summary="For Prometheus")
    async def metrics() -> PlainTextResponse:
        own = generate_latest(parts.measured.registry).decode()
        with suppress(Refused):  # The engine may be away; what the gateway counted is still true.
            own += await parts.engine.metrics()
        return PlainTextResponse(own, media_type="text/plain; version=0.0.4")


def _add_pages(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers=_PAGE_HEADERS)

    @app.get("/favicon.ico", include_in_schema=False)
    def favicon() -> Response:
        return Response(status_code=204)

    class PageFiles(StaticFiles):
        """The page's own files, revalidated each time, so that an update is seen at once."""

        def file_response(self, *arguments: Any, **named: Any) -> Response:
            response = super().file_response(*arguments, **named)
            response.headers.update(_PAGE_HEADERS)
            return response

    app.mount("/page", PageFiles(directory=PAGE), name="page")


def _question(parts: _Parts, request: DialogueRequest) -> Question:
    asked, limit = request.max_tokens or parts.text.answer_tokens, parts.settings.max_tokens
    if asked > limit and request.max_tokens:
        raise Refused(400, f"max_tokens is {asked}; at most {limit} are allowed here ([serving] max_tokens).")
    earlier: list[Exchange] = []
    left_out = 0
    if request.conversation is not None:
        with Stores.open(parts.home) as stores:
            # An exchange takes more than a token: there is never room for more of them than this.
            found = stores.conversations.exchanges(request.conversation, parts.text.room)
        if found is None:
            raise Refused(404, f"there is no conversation {request.conversation}; leave it out to begin one.")
        earlier = [Exchange(message, answer) for message, answer in found.newest]
        left_out = found.older
    return Question(
        message=request.message,
        conversation=request.conversation or uuid.uuid4().hex,
        earlier=earlier,
        sampling=Sampling(asked, request.temperature, request.seed),
        generation=request.generation,
        left_out=left_out,
    )


async def _noted(events: AsyncGenerator[Event, None], parts: _Parts) -> AsyncGenerator[Event, None]:
    """The events; whole answers are counted and have themselves scored."""
    async with aclosing(events):
        async for event in events:
            if isinstance(event, LabelledTurn):
                parts.measured.turn(event)
                parts.scoring.take(event)
            yield event


async def _stream(events: AsyncGenerator[Event, None]) -> Events:
    """Server-sent events. The first is waited for, so that a refusal still is an HTTP error."""
    first = await anext(events)
    assert isinstance(first, Begun)
    headers = {"x-accel-buffering": "no", **_headers(first)}
    return Events(_frames(first, events), events, headers)


async def _frames(first: Event, events: AsyncGenerator[Event, None]) -> AsyncGenerator[str, None]:
    yield _frame(first)
    try:
        async for event in events:
            yield _frame(event)
    except Refused as refusal:
        yield _sse("error", {"message": refusal.message})
        return
    yield _sse("end", {})


def _frame(event: Event) -> str:
    if isinstance(event, Begun):
        who = {"role": event.by.role or BASE, "generation": event.by.generation, "adapter_sha": event.by.adapter_sha}
        where = {"conversation": event.conversation, "turn": event.turn}
        return _sse("start", {**who, **where, "context_dropped": event.dropped, "text_cut": event.by.cut})
    if isinstance(event, Said):
        return _sse("token", {"role": event.voice, "text": event.text})
    return _sse("turn", event.model_dump(mode="json"))


def _sse(name: Literal["start", "token", "turn", "error", "end"], data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


def _headers(begun: Begun) -> dict[str, str]:
    who = begun.by
    return {
        "x-luna-generation": "base" if who.generation is None else f"G{who.generation}",
        "x-luna-adapter-sha": who.adapter_sha or "",
        "x-luna-context-dropped": str(begun.dropped),
    }
