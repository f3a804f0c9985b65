"""The HTTP gateway: conversations, labels, scores, the lineage and the page. /v1 is the engine's own.

`build` makes the FastAPI application over three protocols (who answers, who stores, who judges), `serving.app` runs it
on Ray Serve.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, cast

from fastapi import FastAPI, Request, Response
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from curriculum.reward_plot import plot_content
from ledger.clock import utc_now
from ledger.conversations import Heading, Label, LabelledTurn, Level, Turn, Voice
from ledger.errors import LunaError
from ledger.home import Home
from ledger.records import TurnId
from ledger.rules.gates import GateSettings
from ledger.scores import Score
from ledger.store import Stores
from serving.api.events import Events
from serving.api.exchange import Event, Question, Record, Said, Voices, all_voices, last_exchanges, one_voice
from serving.api.guard import Refused, error_body
from serving.api.lineage import lineage_state, loss_curves
from serving.api.reward import Background, Judge, Text, add_reward
from serving.engine import Sampling
from serving.engine_app import Started
from serving.settings import ServingSettings

PAGE = Path(__file__).resolve().parent.parent / "page"

OPEN_PATHS = ("/", "/page/", "/healthz", "/favicon.ico")
"""What needs no key: the page itself holds no data, and whether the server is well is no secret."""

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


Message = Annotated[Text, Field(examples=["Is 7 an even number?"])]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class DialogueRequest(_Body):
    """A question to all three voices."""

    message: Message
    generation: int | None = Field(None, ge=0, le=1_000_000, description="Default: the current generation.")
    conversation: TurnId | None = Field(None, description="Go on with a conversation; default: begin one.")
    max_tokens: int | None = Field(None, ge=1, le=1_000_000, description="Default: [serving] answer_tokens.")
    temperature: float = Field(0.7, ge=0, le=2, allow_inf_nan=False, description="0: always the likeliest word.")
    seed: int | None = Field(None, ge=0, lt=1 << 31, description="Makes an answer repeatable.")


class GenerateRequest(DialogueRequest):
    """A question to one voice."""

    role: Voice = "dialectical"
    stream: bool = Field(False, description="Answer as server-sent events: start, token, turn, end, or error.")


class FeedbackRequest(_Body):
    """What a user thinks of an answer; it takes the place of what was said of it before."""

    turn: TurnId
    valence: int | None = Field(None, ge=-2, le=2, strict=True, description="-2 bad to +2 good.", examples=[1])
    arousal: Level | None = Field(None, description="How stirring it is.")
    discrepancy: Level | None = Field(None, description="How far from what was expected.")
    prospect: Level | None = Field(None, description="Whether it looks ahead.")
    reflection: Level | None = Field(None, description="Whether it looks back.")
    broadcast: Level | None = Field(None, description="Whether one would tell others.")
    correction: str | None = Field(None, max_length=20_000, description="What should have been said.")


class FeedbackAnswer(_Body):
    """The label as stored."""

    turn: str
    label: Label | None
    """None: the label was taken back."""


class ErrorAnswer(BaseModel):
    """Every error's form, OpenAI's."""

    error: dict[str, Any]


_ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorAnswer, "description": text}
    for code, text in {
        400: "The request cannot be answered; the message says why.",
        401: "An API key is needed.",
        403: "Pages of this origin may not use this server.",
        404: "There is no such thing.",
        413: "The body is too large.",
        421: "This server answers to names of this machine only.",
        422: "The request's shape is wrong.",
        429: "Too many requests; Retry-After says when to come again.",
        503: "The engine does not answer; it comes back by itself.",
    }.items()
}
_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "Server-sent events."}
}


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


def build(
    home: Home, engine: Engine, keeper: Keeper, judge: Judge, settings: ServingSettings, gates: GateSettings
) -> FastAPI:
    """The application. It still needs the guard before it (:func:`serving.api.guard.guarded`)."""
    app = FastAPI(
        title="Luna",
        description="Talk to a trio of voices, label what they say, and look at their lineage. "
        "`/v1` is an OpenAI-compatible API beside this one.",
        version="1",
        docs_url=None,
        redoc_url=None,
        responses=_ERRORS,
    )
    measured = Measured()
    scoring = Background(judge, keeper.add_scores, settings.reward_queue, measured.registry)

    @app.post("/generate", response_model=LabelledTurn, responses=_EVENTS, summary="Ask one voice")
    async def generate(request: GenerateRequest) -> Any:
        question = _question(home, request, settings)
        events = _noted(one_voice(engine, keeper, question, request.role), measured, scoring)
        if request.stream:
            return await _stream(events)
        async with aclosing(events):
            async for event in events:
                if isinstance(event, LabelledTurn):
                    return JSONResponse(
                        event.model_dump(mode="json"), headers=_who(event.generation, event.adapter_sha)
                    )
        raise Refused(503, "the engine gave no answer; try again.")

    @app.post(
        "/dialogue", response_class=StreamingResponse, responses=_EVENTS, summary="Ask all three, one after another"
    )
    async def dialogue(request: DialogueRequest) -> Any:
        question = _question(home, request, settings)
        return await _stream(_noted(all_voices(engine, keeper, question), measured, scoring))

    @app.post("/feedback", summary="Label or correct an answer")
    async def feedback(request: FeedbackRequest) -> FeedbackAnswer:
        label = Label(**request.model_dump(exclude={"turn"}), at=utc_now())
        await keeper.add_label(request.turn, label)
        measured.labels.inc()
        return FeedbackAnswer(turn=request.turn, label=None if label.is_empty else label)

    add_reward(app, judge)

    @app.get("/lineage/rewards", summary="Reward vectors as points, and the course of reward health")
    def reward_plot() -> dict[str, Any]:
        return plot_content(home)

    @app.get("/conversations", summary="The latest conversations")
    def conversations() -> list[Heading]:
        with Stores.open(home) as stores:
            return stores.conversations.latest()

    @app.get("/conversations/{conversation}", summary="One conversation, oldest turn first")
    def conversation(conversation: TurnId) -> list[LabelledTurn]:
        with Stores.open(home) as stores:
            turns = stores.conversations.turns(conversation)
        if not turns:
            raise Refused(404, f"there is no conversation {conversation}.")
        return turns

    @app.get("/lineage", summary="Generations, scores, gates, age and karma")
    async def lineage() -> dict[str, Any]:
        from starlette.concurrency import run_in_threadpool

        try:
            served = await engine.state()
        except Refused:
            served = None
        return await run_in_threadpool(lineage_state, home, gates, served)

    @app.get("/lineage/{generation}/loss", summary="Training loss of a generation by role")
    def loss(generation: Annotated[int, PathParameter(ge=0, le=1_000_000)]) -> dict[str, list[tuple[int, float]]]:
        try:
            return loss_curves(home, generation)
        except LunaError as error:
            raise Refused(404, str(error)) from error

    @app.get("/healthz", summary="Whether answers can be given")
    async def healthz() -> JSONResponse:
        try:
            state = await engine.state()
        except Refused as refusal:
            return JSONResponse({"status": "unavailable", "reason": refusal.message, "engine": None}, 503)
        shown = {name: state[name] for name in ("engine", "current", "previous", "generations", "in_work", "problems")}
        return JSONResponse({"status": "ok", "reason": None, "engine": shown})

    @app.get("/metrics", response_class=PlainTextResponse, summary="For Prometheus")
    async def metrics() -> PlainTextResponse:
        own = generate_latest(measured.registry).decode()
        with suppress(Refused):  # The engine may be away; what the gateway counted is still true.
            own += await engine.metrics()
        return PlainTextResponse(own, media_type="text/plain; version=0.0.4")

    _add_pages(app)
    add_error_handlers(app)
    return app


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


def add_error_handlers(app: FastAPI) -> None:
    """Every error in OpenAI's form, with a sentence."""

    def answered(refusal: Refused) -> JSONResponse:
        return JSONResponse(error_body(refusal), refusal.status, headers=refusal.headers)

    @app.exception_handler(Refused)
    def refused(_: Request, error: Exception) -> JSONResponse:
        return answered(cast(Refused, error))

    @app.exception_handler(LunaError)
    def users_error(_: Request, error: Exception) -> JSONResponse:
        return answered(Refused(503, str(error)))

    @app.exception_handler(HTTPException)
    def no_such_path(request: Request, error: Exception) -> JSONResponse:
        error = cast(HTTPException, error)
        return answered(
            Refused(error.status_code, f"{request.method} {request.url.path}: {error.detail}.", error.headers)
        )

    @app.exception_handler(RequestValidationError)
    def wrong_shape(_: Request, error: Exception) -> JSONResponse:
        # What was sent is not repeated: it may be no valid text at all.
        mistakes = (
            f"{'.'.join(str(part) for part in mistake['loc'])}: {mistake['msg']}"
            for mistake in cast(RequestValidationError, error).errors()
        )
        return answered(Refused(422, "; ".join(mistakes).encode("utf-8", "replace").decode() + "."))


def _question(home: Home, request: DialogueRequest, settings: ServingSettings) -> Question:
    earlier: list[Turn] = []
    if request.conversation is not None:
        with Stores.open(home) as stores:
            # A dialogue has three turns to a question.
            known = stores.conversations.turns(request.conversation, 3 * settings.context_turns + 1)
        if not known:
            raise Refused(404, f"there is no conversation {request.conversation}; leave it out to begin one.")
        earlier = last_exchanges(known, settings.context_turns)
    return Question(
        message=request.message,
        conversation=request.conversation or uuid.uuid4().hex,
        earlier=earlier,
        sampling=Sampling(request.max_tokens or settings.answer_tokens, request.temperature, request.seed),
        generation=request.generation,
    )


async def _noted(
    events: AsyncGenerator[Event, None], measured: Measured, scoring: Background
) -> AsyncGenerator[Event, None]:
    """The events; whole answers are counted and have themselves scored."""
    async with aclosing(events):
        async for event in events:
            if isinstance(event, LabelledTurn):
                measured.turn(event)
                scoring.take(event)
            yield event


async def _stream(events: AsyncGenerator[Event, None]) -> Events:
    """Server-sent events. The first is waited for, so that a refusal still is an HTTP error."""
    first = await anext(events)
    assert isinstance(first, Started)
    headers = {"x-accel-buffering": "no", **_who(first.generation, first.adapter_sha)}
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
    if isinstance(event, Started):
        role = event.role or "base"
        return _sse("start", {"role": role, "generation": event.generation, "adapter_sha": event.adapter_sha})
    if isinstance(event, Said):
        return _sse("token", {"role": event.voice, "text": event.text})
    return _sse("turn", event.model_dump(mode="json"))


def _sse(name: Literal["start", "token", "turn", "error", "end"], data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


def _who(generation: int | None, sha: str | None) -> dict[str, str]:
    return {
        "x-luna-generation": "base" if generation is None else f"G{generation}",
        "x-luna-adapter-sha": sha or "",
    }
