"""Hugging Face transformers and PEFT as an engine, for machines where vLLM cannot be installed (macOS, other GPUs).

The slow fallback: one answer at a time, no batching of requests, no paged cache. The names that are used here are those
of transformers 5.19 and peft 0.21. `transformers serve` is not used: it knows no adapters, needs the `openai` package,
and drops or reinterprets parameters that it does not honour (`frequency_penalty` becomes another penalty).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from starlette.types import ASGIApp

from curriculum.transcript import LengthSettings
from ledger.errors import LunaError
from ledger.metadata import MODEL_FILE
from ledger.roles import BASE
from serving.engine import EngineName, Piece, Sampling, Stopped
from serving.settings import ServingSettings
from serving.table import Adapter

Row = tuple[Sequence[int], int]
T = TypeVar("T")

_SCORED_TOKENS = 1024
"""Padded tokens that are scored together; bounds the memory of their logits (0.6 GB at 150,000 words)."""
_GREEDY_BELOW = 1e-5
"""Dividing by a smaller temperature overflows; vLLM draws the same line."""


class TransformersEngine:
    """One Hugging Face model with LoRA adapters, one request at a time.

    All work on the model (loading, generating, scoring) runs on one worker thread. That thread is the lock: which
    adapter is active is a property of the whole model, so two answers can never be made at once. Requests wait their
    turn in the order they came; the event loop stays free.

    Args:
        application: makes the OpenAI application over this engine.
        text: how long a prompt and its answer may be.
    """

    name: EngineName = "transformers"

    def __init__(
        self,
        base: Path,
        settings: ServingSettings,
        application: Callable[[TransformersEngine], ASGIApp],
        text: LengthSettings = LengthSettings(),
    ):
        self.base, self.settings, self.text, self._application = base, settings, text, application
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

    async def start(self) -> ASGIApp:
        """Load the base; returns the OpenAI application.

        Raises:
            LunaError: the base is missing.
        """
        if not (self.base / "config.json").exists():
            raise LunaError(f"the base at {self.base} is missing; run `luna init` again to prepare it.")
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="luna-model")
        await self._submit(self._load_base)
        return self._application(self)

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
        """Answer a raw prompt, piece by piece, cut off at `max_tokens`. Closing stops the work within a token.

        Raises:
            LunaError: an unknown name, an empty prompt, or one that leaves no room for an answer.
        """
        tokens = await self.tokenise(prompt)
        room = max(1, self.text.max_tokens - len(tokens))
        asked = replace(sampling, max_tokens=min(sampling.max_tokens, room))
        async with aclosing(self.answer(name, tokens, asked)) as pieces:
            async for piece in pieces:
                yield piece

    async def tokenise(self, prompt: str) -> list[int]:
        """Tokens of a raw prompt, with the tokenizer's own beginning-of-text if it has one."""
        return await asyncio.to_thread(self._ids, prompt)

    def count(self, prompt: str) -> int:
        """How many tokens `tokenise` gives."""
        return len(self._ids(prompt))

    def _ids(self, prompt: str) -> list[int]:
        self._running()
        return list(self._tokenizer(prompt)["input_ids"])

    def check_length(self, prompt_tokens: int, answer_tokens: int) -> None:
        """Raises `LunaError` where prompt and answer do not fit."""
        limit = self.text.max_tokens
        if prompt_tokens == 0:
            raise LunaError("the prompt is empty; give it at least one token.")
        if prompt_tokens + answer_tokens > limit:
            raise LunaError(
                f"the prompt has {prompt_tokens} tokens and the answer may have {answer_tokens}, together "
                f"{prompt_tokens + answer_tokens}; at most {limit} fit ([text] max_tokens)."
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

    async def score(self, name: str, rows: Sequence[Row]) -> list[tuple[float, bool]]:
        """See :meth:`serving.engine.Engine.score`.

        Raises:
            LunaError: an unknown name, a row longer than `max_tokens`, or nothing to score or to score it by.
        """
        for tokens, given in rows:
            if not 0 < given < len(tokens):
                raise LunaError(f"a row of {len(tokens)} tokens cannot be scored after its first {given}.")
            self.check_length(given, len(tokens) - given)
        scores = [(0.0, False)] * len(rows)
        for batch in _score_batches(rows):
            # Each batch waits its turn again, so that users are answered between them.
            found = await self._submit(partial(self._score, name, [rows[i] for i in batch]))
            for i, score in zip(batch, found, strict=True):
                scores[i] = score
        return scores

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
            torch.cuda.set_per_process_memory_fraction(self.settings.gpu_memory_utilization)
        # As in training, the name of a special token is text.
        self._tokenizer = AutoTokenizer.from_pretrained(self.base, local_files_only=True, split_special_tokens=True)
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

    def _score(self, name: str, rows: Sequence[Row]) -> list[tuple[float, bool]]:
        """The scores of one batch, padded on the right."""
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
        scores = []
        for row, (tokens, given) in enumerate(rows):
            own = logits[row, given - 1 - first : len(tokens) - 1 - first].float()
            wanted = ids[row, given : len(tokens), None]
            greedy = bool((own.gather(1, wanted) >= own.amax(-1, keepdim=True)).all())
            scores.append((float(own.log_softmax(-1).gather(1, wanted).mean()), greedy))
        return scores


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
