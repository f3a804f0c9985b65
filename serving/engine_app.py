"""One replica of the engine deployment: the engine, the table of names, and the front before /v1.

Users reach it over HTTP, the gateway through a Ray handle. The coordinator and the command line change what is served
through the same handle, which no HTTP request can do.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from curriculum.transcript import LengthSettings
from ledger.errors import LunaError
from ledger.files import write_atomic
from ledger.home import Home
from ledger.roles import Role
from serving import metrics
from serving.accepted import Accepted
from serving.api.front import Front, Leases, refusal_of, refuse_when_full, resolve
from serving.api.guard import guarded
from serving.engine import Asked, Engine, Piece, Reader, Sampling, Started, choose
from serving.engines.validate import Shape, base_shapes, check_adapter
from serving.settings import ServingSettings
from serving.table import Adapter, Table

logger = logging.getLogger(__name__)

_WATCH_S = 0.25
_FAILURES_IN_A_ROW = 3
"""Failed checks after which an engine counts as dead; a single one may be a GPU that is full for a moment."""


class Saved(BaseModel):
    """`serving.json`: what was served when the lineage's head was `head`."""

    model_config = ConfigDict(extra="forbid")

    lineage: str
    head: int | None
    table: Table


def table_to_restore(saved: Saved | None, lineage: str, line: Sequence[int]) -> Table:
    """What to serve after a start: what was served, or the head and its parent where the head has moved since.

    Args:
        line: the head and its accepted ancestors, newest first.
    """
    head, parent = (*line, None, None)[:2]
    if saved and (saved.lineage, saved.head) == (lineage, head) and saved.table.current is not None:
        return saved.table
    return Table(version=saved.table.version if saved else 0, current=head, previous=parent)


class EngineReplica:
    """See the module."""

    def __init__(
        self,
        root: str,
        base_sha: str,
        settings: dict[str, Any],
        text: dict[str, Any],
        key: str | None,
        accepted: Accepted,
    ):
        self._accepted = accepted
        self._home, self._settings, self._key = Home(Path(root)), ServingSettings.model_validate(settings), key
        base = self._home.base_dir(base_sha)
        self._base_sha, self._shapes = base_sha, base_shapes(base)
        lengths = LengthSettings.model_validate(text)
        self._engine = _engine(base, self._shapes, self._home, self._settings, lengths)
        self._reader = Reader(lengths, self._engine.count)
        self._table, self._leases, self._lock = Table(), Leases(), asyncio.Lock()
        self._problems: dict[int, str] = {}
        self._lineage = ""
        self._head: int | None = None
        self._watch: asyncio.Task[None] | None = None

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        inner = await self._engine.start()
        self._engine.list_names(lambda: self._table.names())
        await self._restore()
        self._watch = asyncio.create_task(self._end_with_the_engine())
        front = Front(inner, lambda: self._table, self._leases, self._settings, self._reader, self._engine.base_name)
        return at_shutdown(guarded(front, self._settings, self._key), self._stop)

    # -- answering -------------------------------------------------------------------------------------------

    async def speak(self, model: str, question: Asked, sampling: Sampling) -> AsyncIterator[Started | Piece]:
        """Answer as a public model name: first who answers and what there was no room for, then the answer in pieces.

        Raises:
            Refused: nothing of that name is served, or too many requests are in work.
        """
        refuse_when_full(self._leases, self._settings)
        asked = Sampling(min(sampling.max_tokens, self._settings.max_tokens), sampling.temperature, sampling.seed)
        with self._held(model) as (adapter, name):
            try:
                prompt = await self._reader.read(adapter.role if adapter else None, question)
            except LunaError as error:
                raise refusal_of(error) from error
            started = Started(
                adapter.role if adapter else None,
                adapter.gen if adapter else None,
                adapter.sha if adapter else None,
                self._lineage,
                prompt.dropped,
                prompt.cut,
            )
            pieces = self._engine.speak(name, prompt.prompt, asked)
            async with aclosing(cast(Any, pieces)):
                try:
                    first = True
                    async for piece in pieces:
                        if first:  # Only now is it sure that there will be an answer.
                            yield started
                            first = False
                        yield piece
                except LunaError as error:
                    raise refusal_of(error) from error

    async def generate(self, model: str, prompts: Sequence[str], max_tokens: int) -> list[tuple[str, bool]]:
        """The greedy answer to each raw prompt, and whether the model ended it."""
        with self._held(model) as (_, name):

            async def whole(prompt: str) -> tuple[str, bool]:
                pieces = [piece async for piece in self._engine.speak(name, prompt, Sampling(max_tokens))]
                return "".join(piece.text for piece in pieces), bool(pieces) and pieces[-1].finish == "stop"

            return list(await asyncio.gather(*map(whole, prompts)))

    async def score(self, model: str, rows: Sequence[tuple[Sequence[int], int]]) -> list[tuple[float, bool]]:
        """See :meth:`serving.engine.Engine.score`, by public model name."""
        with self._held(model) as (_, name):
            return await self._engine.score(name, rows)

    @contextmanager
    def _held(self, model: str) -> Iterator[tuple[Adapter | None, str]]:
        """(adapter or None for the base, its name in the engine) of a public model name, leased meanwhile."""
        adapter = resolve(self._table, model)
        with self._leases.on(adapter.gen if adapter else None):
            yield adapter, adapter.name if adapter else self._engine.base_name

    # -- changing what is served -----------------------------------------------------------------------------

    async def load(self, gen: int, shas: Mapping[Role, str] | None = None) -> dict[str, Any]:
        """Serve a generation under its own number.

        Args:
            shas: the adapters of a candidate that has no verdict; by default what the ledger says.

        Raises:
            LunaError: it is unknown, of another base, broken, or there is no room. What is served stays as it was.
        """
        async with self._lock:
            started = time.perf_counter()
            await self._ask_for_head()
            self._take(await self._load(self._table, gen, shas or await self._recorded(gen)))
            self._problems.pop(gen, None)
            load_s = time.perf_counter() - started
            metrics.tell([metrics.LOAD.at(load_s, os.getpid())])
            return {**self._names(), "load_s": load_s}

    async def switch(self, gen: int) -> dict[str, Any]:
        """Let `luna-<role>` mean a generation that is loaded."""
        async with self._lock:
            started = time.perf_counter()
            await self._ask_for_head()
            self._take(self._table.switch(gen))
            switch_s = time.perf_counter() - started
            metrics.tell([metrics.SWAP.at(switch_s, os.getpid())])
            return {**self._names(), "switch_s": switch_s}

    async def retire(self, gen: int) -> dict[str, Any]:
        """Serve a generation no longer, unless it is current or the one before; requests in work are waited for."""
        async with self._lock:
            await self._ask_for_head()
            if gen in self._table.generations and gen not in (self._table.current, self._table.previous):
                adapters, table = self._adapters(self._table, gen), self._table.remove(gen)
                self._take(table)
                while self._leases.held(gen):
                    await asyncio.sleep(0.02)
                for adapter in adapters:
                    await self._engine.unload(adapter)
            return self._names()

    def state(self) -> dict[str, Any]:
        """What is served, what could not be, and requests in work."""
        problems = {f"G{gen}": problem for gen, problem in self._problems.items()}
        return {
            **self._names(),
            "home": str(self._home.root),
            "lineage": self._lineage,
            "base_sha": self._base_sha,
            "engine": self._engine.name,
            "host": self._settings.host,
            "port": self._settings.port,
            "problems": problems,
            "in_work": self._leases.total,
            "pid": os.getpid(),
            "replicas": self._settings.replicas,
            "gpu_memory_utilization": self._settings.gpu_memory_utilization,
            "gpus": _assigned_gpus(),
        }

    def metrics(self) -> str:
        """The engine's measurements in Prometheus' text format."""
        return self._engine.metrics()

    async def check_health(self) -> None:
        """Ray Serve replaces this replica when the engine's process is gone."""
        await self._engine.check_health()

    # -- inside ----------------------------------------------------------------------------------------------

    async def _end_with_the_engine(self) -> None:
        """Leave when the engine has died: Ray Serve's own checks would send it requests for seconds more."""
        await until_dead(self._check_and_tell, _WATCH_S)
        self._engine.stop()
        os._exit(1)

    async def _check_and_tell(self) -> None:
        own, current = os.getpid(), self._table.current
        served = [] if current is None else [metrics.SERVED.at(current, self._lineage, own)]
        metrics.tell([metrics.IN_WORK.at(self._leases.total, own), *served])
        await self._engine.check_health()

    def _stop(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._engine.stop()

    async def _restore(self) -> None:
        """Load what is to be served after a start."""
        line = await self._accepted.line()
        self._lineage, self._head = line.lineage, line.head
        before = table_to_restore(_saved(self._file), line.lineage, line.generations)
        last = [gen for gen in (before.previous, before.current) if gen is not None]
        beside = [gen for gen in before.generations if gen not in last][: self._settings.loaded_generations - len(last)]
        table = Table(version=before.version)
        for gen in [*beside, *last]:
            try:  # One rotten adapter must not keep the others from being served.
                table = await self._load(table, gen, before.generations.get(gen) or await self._recorded(gen))
                table = table.switch(gen) if gen in last else table
            except LunaError as error:
                self._problems[gen] = str(error)
        self._take(table)

    async def _load(self, table: Table, gen: int, shas: Mapping[Role, str]) -> Table:
        """The table with a generation that is ready to answer."""
        added = table.add(gen, shas)
        if added is table:
            return table
        adapters = self._adapters(added, gen)
        for adapter in adapters:
            folder = self._home.adapter_dir(adapter.sha)
            await asyncio.to_thread(check_adapter, folder, self._shapes, self._settings.max_lora_rank)
        added = (await self._make_room(table)).add(gen, shas)
        try:
            for adapter in adapters:
                await self._engine.load(adapter, self._home.adapter_dir(adapter.sha))
        except LunaError:
            for adapter in adapters:
                await self._engine.unload(adapter)
            raise
        return added

    async def _recorded(self, gen: int) -> Mapping[Role, str]:
        found = await self._accepted.recorded(gen)
        if found.lineage != self._lineage:
            raise LunaError(
                f"this server serves the lineage {self._lineage!r}, the current one is {found.lineage!r}; "
                "start `luna serve` again."
            )
        if found.base_sha != self._base_sha:
            raise LunaError(
                f"G{gen} was trained on the base {found.base_sha[:12]}, this engine holds {self._base_sha[:12]}; "
                "start `luna serve` again."
            )
        return found.shas

    async def _make_room(self, table: Table) -> Table:
        """Unload what was asked for longest ago until one more generation fits."""
        while len(table.generations) >= self._settings.loaded_generations:
            free = [gen for gen in table.generations if gen not in (table.current, table.previous)]
            oldest = self._leases.least_recently_used(free)
            if oldest is None:
                raise LunaError(
                    f"{self._settings.loaded_generations} generations are loaded and in use; wait, or set [serving] "
                    "loaded_generations higher."
                )
            adapters, table = self._adapters(table, oldest), table.remove(oldest)
            self._take(table)  # First no new request can find it, then its memory is freed.
            for adapter in adapters:
                await self._engine.unload(adapter)
        return table

    @staticmethod
    def _adapters(table: Table, gen: int) -> list[Adapter]:
        return [Adapter(gen=gen, role=role, sha=sha) for role, sha in table.generations[gen].items()]

    @property
    def _file(self) -> Path:
        return self._home.serving_file

    async def _ask_for_head(self) -> None:
        """Before a change: between the choice of what goes and :meth:`_take` no other request may run."""
        self._head = (await self._accepted.line(self._lineage)).head

    def _take(self, table: Table) -> None:
        """On disk first, then in one assignment for every request that comes."""
        saved = Saved(lineage=self._lineage, head=self._head, table=table)
        write_atomic(self._file, saved.model_dump_json(indent=2))
        self._table = table

    def _names(self) -> dict[str, Any]:
        table = self._table
        return {
            "version": table.version,
            "current": table.current,
            "previous": table.previous,
            "generations": sorted(table.generations),
        }


async def until_dead(check: Callable[[], Awaitable[None]], period_s: float) -> None:
    """Return once `check` has failed several times in a row."""
    failures = 0
    while failures < _FAILURES_IN_A_ROW:
        await asyncio.sleep(period_s)
        try:
            await check()
            failures = 0
        except Exception as error:
            failures += 1
            logger.warning("the engine's check failed (%d in a row): %r", failures, error)


def at_shutdown(app: ASGIApp, stop: Callable[[], None]) -> ASGIApp:
    """The application, with `stop` called once its own shutdown is over."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_after_stopping(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown."):  # complete or failed
                stop()
            await send(message)

        await app(scope, receive, send_after_stopping if scope["type"] == "lifespan" else send)

    return wrapped


def _engine(
    base: Path, shapes: Mapping[str, Shape], home: Home, settings: ServingSettings, text: LengthSettings
) -> Engine:
    """The engine that the settings choose; its library is imported only now."""
    if choose(settings.engine) == "vllm":
        from serving.engines.vllm import VllmEngine

        return VllmEngine(base, shapes, home.root / "models" / "zero", settings, text)
    from serving.api.openai_app import openai_application
    from serving.engines.transformers import TransformersEngine

    return TransformersEngine(base, settings, openai_application, text)


def _assigned_gpus() -> float:
    """What Ray has given this replica; 0 where it is no Ray actor."""
    import ray

    return float(ray.get_runtime_context().get_assigned_resources().get("GPU", 0)) if ray.is_initialized() else 0.0


def _saved(file: Path) -> Saved | None:
    """What an earlier replica wrote; None if there is nothing, or nothing that can be read: the ledger knows it too."""
    try:
        return Saved.model_validate_json(file.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
