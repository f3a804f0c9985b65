"""Hugging Face transformers and PEFT as an engine, for machines where vLLM cannot be installed (macOS, other GPUs).

The slow fallback: one answer at a time, no batching of requests, no paged cache. The names that are used here are those
of transformers 5.19 and peft 0.21. `transformers serve` is not used: it knows no adapters, needs the `openai` package,
and drops or reinterprets parameters that it does not honour (`frequency_penalty` becomes another penalty).
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.exceptions import HTTPException

from ledger.errors import LunaError
from ledger.metadata import MODEL_FILE
from serving.api.events import Events
from serving.engine import App, EngineName, Piece, Sampling
from serving.settings import ServingSettings
from serving.table import BASE, Adapter

Row = tuple[Sequence[int], int]
T = TypeVar("T")

_SCORED_TOKENS = 1024
"""Padded tokens that are scored together; bounds the memory of their logits (0.6 GB at 150,000 words)."""
_GREEDY_BELOW = 1e-5
"""Dividing by a smaller temperature overflows; vLLM draws the same line."""
_OPENAI_COMPLETION_TOKENS = 16
"""What OpenAI and vLLM give a completion that asks for no number of tokens."""


class Stopped(LunaError):
    """The engine is not running, or no more."""


class TransformersEngine:
    """One Hugging Face model with LoRA adapters, one request at a time.

    All work on the model (loading, generating, scoring) runs on one worker thread. That thread is the lock: which
    adapter is active is a property of the whole model, so two answers can never be made at once. Requests wait their
    turn in the order they came; the event loop stays free.
    """

    name: EngineName = "transformers"

    def __init__(self, base: Path, settings: ServingSettings):
        self.base, self.settings = base, settings
        self._worker: ThreadPoolExecutor | None = None
        self._stopping = threading.Event()
        self._names: Callable[[], Mapping[str, Adapter | None]] = lambda: {BASE: None}
        self._loaded: set[str] = set()
        # Of the worker thread alone:
        self._model: Any = None
        self._peft: Any = None
        """PEFT's handle on the adapters inside `_model`; None while there are none."""

    @property
    def base_name(self) -> str:
        """Under which name it answers as the untouched base."""
        return BASE

    async def start(self) -> App:
        """Load the base; returns the OpenAI application.

        Raises:
            LunaError: the base is missing.
        """
        if not (self.base / "config.json").exists():
            raise LunaError(f"the base at {self.base} is missing; run `luna init` again to prepare it.")
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="luna-model")
        await self._submit(self._load_base)
        return _application(self)

    def list_names(self, names: Callable[[], Mapping[str, Adapter | None]]) -> None:
        """Let /v1/models list what `names()` gives: public name -> adapter, None for the base."""
        self._names = names

    def names(self) -> Mapping[str, Adapter | None]:
        """What `list_names` was given gives now."""
        return self._names()

    def knows(self, name: str) -> bool:
        """Whether it can answer under this name."""
        return name == BASE or name in self._loaded

    async def load(self, adapter: Adapter, folder: Path) -> None:
        """Make an adapter ready under its own name; it must have been validated.

        Raises:
            LunaError: PEFT cannot read it, or it is of another base. Nothing is left of it.
        """
        if adapter.name not in self._loaded:
            await self._submit(lambda: self._add(adapter.name, folder))
            self._loaded.add(adapter.name)

    async def unload(self, adapter: Adapter) -> None:
        """Forget an adapter and free its memory. No request may use it."""
        self._loaded.discard(adapter.name)
        await self._submit(lambda: self._remove(adapter.name))

    async def speak(self, name: str, prompt: str, sampling: Sampling) -> AsyncGenerator[Piece, None]:
        """Answer a raw prompt, piece by piece, cut off at `max_model_len`. Closing stops the work within a token.

        Raises:
            LunaError: an unknown name, an empty prompt, or one that leaves no room for an answer.
        """
        tokens = await self.tokenise(prompt)
        room = max(1, self.settings.max_model_len - len(tokens))
        asked = replace(sampling, max_tokens=min(sampling.max_tokens, room))
        async with aclosing(self.answer(name, tokens, asked)) as pieces:
            async for piece in pieces:
                yield piece

    async def tokenise(self, prompt: str) -> list[int]:
        """Tokens of a raw prompt, with the tokenizer's own beginning-of-text if it has one."""
        self._running()
        found = await asyncio.to_thread(lambda: self._tokenizer(prompt)["input_ids"])
        return list(found)

    def check_length(self, prompt_tokens: int, answer_tokens: int) -> None:
        """Raises `LunaError` where prompt and answer do not fit."""
        limit = self.settings.max_model_len
        if prompt_tokens == 0:
            raise LunaError("the prompt is empty; give it at least one token.")
        if prompt_tokens + answer_tokens > limit:
            raise LunaError(
                f"the prompt has {prompt_tokens} tokens and the answer may have {answer_tokens}, together "
                f"{prompt_tokens + answer_tokens}; at most {limit} fit ([serving] max_model_len)."
            )

    async def answer(self, name: str, prompt: list[int], sampling: Sampling) -> AsyncGenerator[Piece, None]:
        """See `speak`; from tokens."""
        self.check_length(len(prompt), sampling.max_tokens)
        loop, found = asyncio.get_running_loop(), asyncio.Queue[Piece | None]()
        closed = threading.Event()

        def post(piece: Piece) -> None:
            loop.call_soon_threadsafe(found.put_nowait, piece)

        work = self._submit(lambda: self._generate(name, prompt, sampling, post, closed))
        work.add_done_callback(lambda _: found.put_nowait(None))
        try:
            while (piece := await found.get()) is not None:
                yield piece
            if work.cancelled():
                raise Stopped("the engine was stopped before it came to this answer.")
            work.result()  # raises what the worker raised
        finally:
            closed.set()
            work.cancel()  # where its turn has not come yet

    async def score(self, name: str, rows: Sequence[Row]) -> list[float]:
        """For each (tokens, n): the mean log-probability of the tokens after the first n, given those before.

        Raises:
            LunaError: an unknown name, a row longer than `max_model_len`, or nothing to score or to score it by.
        """
        for tokens, given in rows:
            if not 0 < given < len(tokens):
                raise LunaError(f"a row of {len(tokens)} tokens cannot be scored after its first {given}.")
            self.check_length(given, len(tokens) - given)
        means = [0.0] * len(rows)
        for batch in _score_batches(rows):
            # Each batch waits its turn again, so that users are answered between them.
            found = await self._submit(partial(self._score, name, [rows[i] for i in batch]))
            for i, mean in zip(batch, found, strict=True):
                means[i] = mean
        return means

    async def check_health(self) -> None:
        """Raises when it was not started or is stopped, or its device answers no more."""
        self._running()

        def probe() -> None:
            import torch

            torch.ones(1, device=self._device).item()

        await asyncio.to_thread(probe)

    def metrics(self) -> str:
        """There are none."""
        return ""

    def stop(self) -> None:
        """End the answer in work and take no more."""
        self._stopping.set()
        if self._worker is not None:
            self._worker.shutdown(wait=False, cancel_futures=True)
            self._worker = None

    def _running(self) -> ThreadPoolExecutor:
        if self._worker is None:
            raise Stopped("the engine is not running.")
        return self._worker

    def _submit(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Have it done on the worker thread, after all that waits there."""
        return asyncio.get_running_loop().run_in_executor(self._running(), work)

    # -- on the worker thread --------------------------------------------------------------------------------

    def _load_base(self) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
        from transformers.utils import logging

        logging.disable_progress_bar()
        self._device = _choose_device()
        dtype = _choose_dtype(self.settings.dtype, self._device)
        if self._device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(self.settings.gpu_share)
        self._tokenizer = AutoTokenizer.from_pretrained(self.base, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            self.base, dtype=dtype, local_files_only=True, use_safetensors=True
        )
        self._model = model.to(self._device).requires_grad_(False).eval()
        # A base's own file could set penalties, top_k and more, which `generate` adds to what it is called with.
        self._end = self._tokenizer.eos_token_id
        self._model.generation_config = GenerationConfig(eos_token_id=self._end, pad_token_id=self._end)

    def _add(self, name: str, folder: Path) -> None:
        from peft import LoraConfig, PeftModel

        # Without this file PEFT would read a pickle, or ask the hub for one.
        if not (folder / MODEL_FILE).is_file():
            raise LunaError(f"the adapter {folder} has no {MODEL_FILE}; restore the folder from a backup.")
        try:
            if self._peft is None:
                self._peft = PeftModel(self._model, LoraConfig.from_pretrained(folder), adapter_name=name)
            found = self._peft.load_adapter(folder, name, torch_device=str(self._device))
            if found.unexpected_keys:
                raise ValueError(f"{found.unexpected_keys[0]} is not in this base")
        except Exception as error:  # PEFT and safetensors raise many kinds for one cause
            self._remove(name)
            raise LunaError(f"PEFT did not load {name} from {folder}: {str(error).splitlines()[0]}") from error

    def _remove(self, name: str) -> None:
        if self._peft is None or name not in self._peft.peft_config:
            return
        others = [other for other in self._peft.peft_config if other != name]
        if others:
            self._peft.set_adapter(others[0], inference_mode=True)  # PEFT warns when the active one is deleted
            self._peft.delete_adapter(name)
        else:
            # PEFT has no model without an adapter.
            self._model, self._peft = self._peft.unload(), None

    @contextmanager
    def _voiced(self, name: str) -> Iterator[Any]:
        """The model as it is with this adapter, or bare."""
        if name != BASE:
            if self._peft is None or name not in self._peft.peft_config:
                raise LunaError(f"there is no adapter {name!r} in the engine.")
            self._peft.set_adapter(name, inference_mode=True)
            yield self._model
        elif self._peft is None:
            yield self._model
        else:
            with self._peft.disable_adapter():
                yield self._model

    def _generate(
        self, name: str, prompt: list[int], sampling: Sampling, post: Callable[[Piece], None], closed: threading.Event
    ) -> None:
        """Post the pieces of one answer until it ends or is `closed`."""
        import torch

        def stopped(ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            over = closed.is_set() or self._stopping.is_set()
            return torch.full((len(ids),), over, dtype=torch.bool, device=ids.device)

        ids = torch.tensor([prompt], device=self._device)
        spoken = _Spoken(self._tokenizer, len(prompt), sampling.max_tokens, post)
        with self._voiced(name) as model:
            model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=sampling.max_tokens,
                do_sample=False,
                logits_processor=[_Draw(sampling)] if sampling.temperature >= _GREEDY_BELOW else [],
                stopping_criteria=[stopped],
                streamer=spoken,
            )
        if not spoken.finished and not closed.is_set():
            raise Stopped("the engine was stopped in the middle of an answer.")

    def _score(self, name: str, rows: Sequence[Row]) -> list[float]:
        """The mean log-probabilities of one batch, padded on the right."""
        import torch

        width = max(len(tokens) for tokens, _ in rows)
        ids = torch.full((len(rows), width), self._end)
        mask = torch.zeros_like(ids)
        for row, (tokens, _) in enumerate(rows):
            ids[row, : len(tokens)], mask[row, : len(tokens)] = torch.tensor(tokens), 1
        first = min(given for _, given in rows) - 1  # whose logits say the first scored token
        ids, mask = ids.to(self._device), mask.to(self._device)
        with torch.no_grad(), self._voiced(name) as model:
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=width - first).logits
        means = []
        for row, (tokens, given) in enumerate(rows):
            log_probs = logits[row, given - 1 - first : len(tokens) - 1 - first].float().log_softmax(-1)
            means.append(float(log_probs.gather(1, ids[row, given : len(tokens), None]).mean()))
        return means


def _choose_device() -> Any:
    import torch

    if torch.cuda.is_available():  # ROCm's too
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _choose_dtype(wanted: str, device: Any) -> Any:
    import torch

    if wanted == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return getattr(torch, wanted)


def _score_batches(rows: Sequence[Row]) -> list[list[int]]:
    """Indices of rows that are scored together: of like length, at most `_SCORED_TOKENS` with their padding."""
    batches: list[list[int]] = []
    for i in sorted(range(len(rows)), key=lambda i: len(rows[i][0])):
        if batches and (len(batches[-1]) + 1) * len(rows[i][0]) <= _SCORED_TOKENS:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


class _Spoken:
    """Turns the tokens that `generate` makes into pieces of text; what transformers calls a streamer.

    Its own streamers keep text back until a space comes, count no tokens, and forget after a line break what stood
    before. Here text goes out as soon as its last character is whole, and all of it together is the decoded answer.
    """

    def __init__(self, tokenizer: Any, prompt_tokens: int, max_tokens: int, post: Callable[[Piece], None]):
        self.tokenizer, self.prompt_tokens, self.max_tokens, self.post = tokenizer, prompt_tokens, max_tokens, post
        self.finished = False
        self._begun = False
        self._tokens: list[int] = []
        self._kept = self._said = 0
        """Text of the tokens before `_said` is out. Decoding begins at `_kept`: how a token reads can depend on the
        one before it."""

    def put(self, tokens: Any) -> None:
        """Called by `generate` with the prompt, then with each new token."""
        if not self._begun:
            self._begun = True
            return
        (token,) = tokens.flatten().tolist()
        self._tokens.append(token)
        finish: Literal["stop", "length"] | None = None
        if token == self.tokenizer.eos_token_id:
            finish = "stop"
        elif len(self._tokens) == self.max_tokens:
            finish = "length"
        self.finished = finish is not None
        self.post(Piece(self._new_text(), len(self._tokens), self.prompt_tokens, finish))

    def end(self) -> None:
        """Called by `generate` after the last token."""

    def _new_text(self) -> str:
        said, now = self._decode(self._tokens[self._kept : self._said]), self._decode(self._tokens[self._kept :])
        half = len(now) <= len(said) or now.endswith("\N{REPLACEMENT CHARACTER}")
        if half and not self.finished:
            return ""
        self._kept, self._said = self._said, len(self._tokens)
        return now[len(said) :]

    def _decode(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))


class _Draw:
    """Makes the likeliest token a draw from softmax(logits / temperature), by Gumbel noise (Gumbel, 1954).

    With a generator of its own: the one that `generate` itself draws from is the whole process's, and the seed of one
    answer must not touch that.
    """

    def __init__(self, sampling: Sampling):
        import torch

        self.temperature, self.random = sampling.temperature, torch.Generator()
        if sampling.seed is None:
            self.random.seed()
        else:
            self.random.manual_seed(sampling.seed)

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        import torch

        # On the CPU, the same for a seed on any device. In float64: float32 rounds one draw in 2^24 to 0.
        uniform = torch.rand(scores.shape, generator=self.random, dtype=torch.float64)
        return scores / self.temperature - (-uniform.log()).log().to(scores)


# -- the OpenAI application ----------------------------------------------------------------------------------

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


def _application(engine: TransformersEngine) -> App:
    """The OpenAI application over the engine: what the front lets through, and nothing else."""
    app = FastAPI(title="luna", docs_url=None, redoc_url=None, openapi_url=None)

    async def answered(request: Request, asked: _Asked, prompt: str, max_tokens: int | None, chat: bool) -> Response:
        if not engine.knows(asked.model):
            raise HTTPException(404, f"there is no model {asked.model!r}.")
        tokens = await engine.tokenise(prompt)
        if max_tokens is None:
            room = engine.settings.max_model_len - len(tokens)
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
                "max_model_len": engine.settings.max_model_len,
            }
            for name, adapter in engine.names().items()
        ]
        return {"object": "list", "data": cards}

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

    started = int(time.time())
    return app


def _refusal(error: RequestValidationError) -> Response:
    """400 with every parameter that is wrong or cannot be honoured by its name."""
    found = {".".join(map(str, problem["loc"][1:])) or "the body": problem for problem in error.errors()}
    unknown = [name for name, problem in found.items() if problem["type"] == "extra_forbidden"]
    reasons = [f"{name}: {problem['msg']}" for name, problem in found.items() if name not in unknown]
    if unknown:
        reasons.insert(0, f"this engine cannot honour {', '.join(unknown)}; leave it out")
    return JSONResponse(_error(400, f"{'; '.join(reasons)}.", next(iter(found))), 400)
