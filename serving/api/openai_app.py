"""OpenAI's HTTP API over an engine that has none of its own (`serving.engines.transformers`).

What `serving.api.front` lets through, and nothing else: a parameter that the engine cannot honour is refused.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from curriculum.transcript import LengthSettings
from ledger.errors import LunaError
from ledger.roles import BASE
from serving.api.events import Events
from serving.engine import Piece, Sampling, Stopped
from serving.settings import ServingSettings
from serving.table import Adapter

_OPENAI_COMPLETION_TOKENS = 16
"""What OpenAI and vLLM give a completion that asks for no number of tokens."""


class Tokenwise(Protocol):
    """What this application asks of an engine."""

    settings: ServingSettings
    text: LengthSettings

    def names(self) -> Mapping[str, Adapter | None]:
        """Public name -> adapter, None for the base."""
        ...

    def knows(self, name: str) -> bool:
        """Whether it can answer under this name."""
        ...

    async def tokenise(self, prompt: str) -> list[int]: ...

    def check_length(self, prompt_tokens: int, answer_tokens: int) -> None:
        """Raises `LunaError` where prompt and answer do not fit."""
        ...

    def answer(self, name: str, prompt: list[int], sampling: Sampling) -> AsyncGenerator[Piece, None]:
        """Answer a prompt given as tokens, piece by piece."""
        ...


_ASKS_NOTHING: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "top_p": (1,),
    "top_k": (0, -1),
    "min_p": (0,),
    "logit_bias": ({},),
    "stop": ([], ""),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none",),
    "response_format": ({"type": "text"},),
    "ignore_eos": (False,),
    "add_special_tokens": (True,),
    "add_generation_prompt": (False,),
}
"""Parameters that are not honoured, with the values that change nothing: clients send them without asking for
anything. Every other value is refused."""


class _StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    include_usage: bool | None = None


class _Asked(BaseModel):
    """What both endpoints honour."""

    model_config = ConfigDict(extra="forbid")

    model: str
    temperature: float = Field(1.0, ge=0, allow_inf_nan=False)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stream: bool = False
    stream_options: _StreamOptions = _StreamOptions()
    user: str = ""
    """For whom the client asks; changes no answer."""

    @model_validator(mode="before")
    @classmethod
    def _leave_out_what_asks_nothing(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        return {name: value for name, value in body.items() if value is not None and not _asks_nothing(name, value)}


class _CompletionAsked(_Asked):
    prompt: str
    max_tokens: int = Field(_OPENAI_COMPLETION_TOKENS, ge=1)


class _Message(BaseModel):
    role: str
    content: str


class _ChatAsked(_Asked):
    messages: list[_Message] = Field(min_length=1, max_length=1)
    """One: the whole prompt (see `serving.api.front`)."""
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)


def _asks_nothing(name: str, value: Any) -> bool:
    # `logprobs` of a completion may be 0, which asks for something, and 0 == False.
    return any(
        value == same and isinstance(value, bool) == isinstance(same, bool) for same in _ASKS_NOTHING.get(name, ())
    )


class _Bodies:
    """What is sent for one answer.

    Plain dictionaries in OpenAI's form: the `openai` package, which has models for them, comes with vLLM only.
    """

    def __init__(self, model: str, chat: bool, usage: bool):
        self.chat, self.usage = chat, usage
        self.head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, text: str, last: Piece) -> dict[str, Any]:
        said = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": last.finish}
        name = "chat.completion" if self.chat else "text_completion"
        return {**self.head, "object": name, "choices": [choice], "usage": _usage(last)}

    def first(self) -> list[dict[str, Any]]:
        """What comes before the first piece of a stream."""
        return [self._part({"delta": {"role": "assistant", "content": ""}}, None)] if self.chat else []

    def piece(self, piece: Piece) -> dict[str, Any]:
        said = {"delta": {"content": piece.text} if piece.text else {}} if self.chat else {"text": piece.text}
        return self._part(said, piece.finish)

    def last(self, piece: Piece) -> list[dict[str, Any]]:
        """What comes after the last piece of a stream."""
        return [{**self._part({}, None), "choices": [], "usage": _usage(piece)}] if self.usage else []

    def _part(self, said: dict[str, Any], finish: str | None) -> dict[str, Any]:
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": finish}
        name = "chat.completion.chunk" if self.chat else "text_completion"
        return {**self.head, "object": name, "choices": [choice], **({"usage": None} if self.usage else {})}


def _usage(piece: Piece) -> dict[str, int]:
    total = piece.prompt_tokens + piece.tokens
    return {"prompt_tokens": piece.prompt_tokens, "completion_tokens": piece.tokens, "total_tokens": total}


async def _events(pieces: AsyncGenerator[Piece, None], bodies: _Bodies) -> AsyncGenerator[str, None]:
    try:
        for body in bodies.first():
            yield _event(body)
        async for piece in pieces:
            if piece.text or piece.finish:
                yield _event(bodies.piece(piece))
            if piece.finish:
                for body in bodies.last(piece):
                    yield _event(body)
    except Exception as error:  # the status is sent already; the client must still hear of it
        yield _event(_error(500, str(error)))
    yield "data: [DONE]\n\n"


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body)}\n\n"


def _error(status: int, message: str, parameter: str | None = None) -> dict[str, Any]:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": parameter, "code": status}}


def openai_application(engine: Tokenwise) -> ASGIApp:
    """The OpenAI application over the engine: what the front lets through, and nothing else."""
    app = FastAPI(title="luna", docs_url=None, redoc_url=None, openapi_url=None)

    async def answered(request: Request, asked: _Asked, prompt: str, max_tokens: int | None, chat: bool) -> Response:
        if not engine.knows(asked.model):
            raise HTTPException(404, f"there is no model {asked.model!r}.")
        tokens = await engine.tokenise(prompt)
        if max_tokens is None:
            room = engine.text.max_tokens - len(tokens)
            max_tokens = max(1, min(engine.settings.max_tokens, room))
        engine.check_length(len(tokens), max_tokens)  # now, while there can still be another status than 200
        pieces = engine.answer(asked.model, tokens, Sampling(max_tokens, asked.temperature, asked.seed))
        bodies = _Bodies(asked.model, chat, bool(asked.stream_options.include_usage))
        if asked.stream:
            return Events(_events(pieces, bodies), pieces)
        text, last = "", Piece("", 0, len(tokens))
        async with aclosing(pieces):
            async for last in pieces:
                text += last.text
                if await request.is_disconnected():
                    break
        return JSONResponse(bodies.whole(text, last))

    @app.post("/v1/completions")
    async def complete(request: Request, asked: _CompletionAsked) -> Response:
        return await answered(request, asked, asked.prompt, asked.max_tokens, chat=False)

    @app.post("/v1/chat/completions")
    async def chat(request: Request, asked: _ChatAsked) -> Response:
        most = asked.max_completion_tokens or asked.max_tokens
        return await answered(request, asked, asked.messages[0].content, most, chat=True)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        cards = [
            {
                "id": name,
                "object": "model",
                "created": started,
                "owned_by": "luna",
                "root": adapter.sha if adapter else BASE,
                "parent": BASE if adapter else None,
                "max_model_len": engine.text.max_tokens,
            }
            for name, adapter in engine.names().items()
        ]
        return {"object": "list", "data": cards}

    _add_errors(app)
    started = int(time.time())
    return app


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return _refusal(error)

    @app.exception_handler(LunaError)
    async def refused(_: Request, error: LunaError) -> Response:
        status = 503 if isinstance(error, Stopped) else 400
        return JSONResponse(_error(status, str(error)), status)

    @app.exception_handler(HTTPException)
    async def lost(_: Request, error: HTTPException) -> Response:
        return JSONResponse(_error(error.status_code, error.detail), error.status_code)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        return JSONResponse(_error(500, f"{type(error).__name__}: {error}"), 500)


def _refusal(error: RequestValidationError) -> Response:
    """400 with every parameter that is wrong or cannot be honoured by its name."""
    found = {".".join(map(str, problem["loc"][1:])) or "the body": problem for problem in error.errors()}
    unknown = [name for name, problem in found.items() if problem["type"] == "extra_forbidden"]
    reasons = [f"{name}: {problem['msg']}" for name, problem in found.items() if name not in unknown]
    if unknown:
        reasons.insert(0, f"this engine cannot honour {', '.join(unknown)}; leave it out")
    return JSONResponse(_error(400, f"{'; '.join(reasons)}.", next(iter(found))), 400)
