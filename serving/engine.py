"""What Luna asks of an engine: hold adapters over one base, answer with one of them, and score given answers.

The engines themselves are in `serving.engines`; `choose` picks one.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from starlette.types import ASGIApp

from curriculum.transcript import Fitted, LengthSettings, fit
from ledger.errors import LunaError
from ledger.roles import Role
from serving.table import Adapter

EngineName = Literal["vllm", "transformers"]


class Stopped(LunaError):
    """The engine is not running, or no more."""


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn."""

    max_tokens: int
    temperature: float = 0.0
    """0 takes the likeliest token each time."""
    seed: int | None = None
    """Makes an answer with a temperature repeatable, as far as the engine can."""


@dataclass(frozen=True)
class Asked:
    """What a voice is asked; the prompt is made of it where the tokenizer is."""

    message: str
    context: str = ""
    """What was said before, as `curriculum.transcript` writes it."""


@dataclass(frozen=True)
class Reader:
    """Makes the prompt that has room."""

    text: LengthSettings
    count: Callable[[str], int]
    """Tokens of a prompt."""

    async def read(self, role: Role | None, asked: Asked) -> Fitted:
        """The prompt, made in a thread of its own; see :func:`curriculum.transcript.fit`."""
        return await asyncio.to_thread(fit, role, asked.message, asked.context, self.text.room, self.count)


@dataclass(frozen=True)
class Piece:
    """The next part of an answer."""

    text: str
    """May be empty, where a token ends inside a character."""
    tokens: int
    """Tokens of the answer so far."""
    prompt_tokens: int
    finish: Literal["stop", "length"] | None = None
    """Set on the last piece: the model ended its answer, or `max_tokens` did."""


@dataclass(frozen=True)
class Started:
    """Who answers; comes before the first piece."""

    role: Role | None
    """None: the base."""
    generation: int | None
    adapter_sha: str | None
    lineage: str
    dropped: int = 0
    """Exchanges of the context that there was no room for, the oldest."""
    cut: bool = False
    """Whether a text that alone was too long lost its middle."""


class Engine(Protocol):
    """One base with LoRA adapters. Adapters are known by `Adapter.name`, the base by `base_name`."""

    @property
    def name(self) -> EngineName: ...

    @property
    def base_name(self) -> str:
        """Under which name it answers as the untouched base. Known after `start`."""
        ...

    async def start(self) -> ASGIApp:
        """Load the base; returns an OpenAI application for /v1/models, /v1/completions and /v1/chat/completions.

        Chat requests that reach it hold one message: the whole prompt.
        """
        ...

    def list_names(self, names: Callable[[], Mapping[str, Adapter | None]]) -> None:
        """Let /v1/models list what `names()` gives: public name -> adapter, None for the base."""
        ...

    async def load(self, adapter: Adapter, folder: Path) -> None:
        """Make a validated adapter ready under its own name; loading it again does nothing."""
        ...

    async def unload(self, adapter: Adapter) -> None:
        """Forget an adapter and free its memory. No request may use it."""
        ...

    def count(self, prompt: str) -> int:
        """Tokens of a raw prompt, with the tokenizer's own beginning. Called from threads."""
        ...

    def speak(self, name: str, prompt: str, sampling: Sampling) -> AsyncIterator[Piece]:
        """Answer a raw prompt, cut off at the engine's longest length. Closing the iterator stops the work.

        Raises:
            LunaError: the prompt alone is too long.
        """
        ...

    async def score(self, name: str, rows: Sequence[tuple[Sequence[int], int]]) -> list[tuple[float, bool]]:
        """For each (tokens, n): the mean log-probability of the tokens after the first n, given those before, and
        whether each of them is the likeliest one."""
        ...

    async def check_health(self) -> None:
        """Raises when the engine is dead."""
        ...

    def metrics(self) -> str:
        """Its own measurements in Prometheus' text format; may be empty."""
        ...

    def stop(self) -> None: ...


def choose(wanted: Literal["auto", "vllm", "transformers"]) -> EngineName:
    """The engine to use: `auto` takes vLLM where it is installed.

    Raises:
        LunaError: vLLM is asked for and not installed.
    """
    there = importlib.util.find_spec("vllm") is not None
    if wanted == "vllm" and not there:
        raise LunaError(
            '[serving] engine is "vllm", which is not installed here; `make setup` installs it where it can, '
            'or set engine = "auto".'
        )
    if wanted == "auto":
        return "vllm" if there else "transformers"
    return wanted
