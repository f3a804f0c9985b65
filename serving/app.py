"""The Ray Serve app `luna`: one deployment that holds the engine, the table of names, and the front.

Users reach it over HTTP. The coordinator and the command line change what is served by calling its methods through a
Ray handle, which no HTTP request can do.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ledger.errors import LunaError
from ledger.files import write_atomic
from ledger.home import Home
from ledger.roles import Role
from ledger.store import Ledger
from serving.front import App, Front, Leases
from serving.settings import ServingSettings
from serving.table import Adapter, Table
from serving.validate import base_shapes, check_adapter
from serving.vllm_engine import VllmEngine

APP = "luna"
KEY_VARIABLE = "LUNA_API_KEY"


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


class Luna:
    """See the module. One replica; `run` gives it to Ray Serve."""

    def __init__(self, root: str, base_sha: str, settings: dict[str, Any], key: str | None):
        self._home, self._settings, self._key = Home(Path(root)), ServingSettings.model_validate(settings), key
        base = self._home.base_dir(base_sha)
        self._base_sha, self._shapes = base_sha, base_shapes(base)
        self._engine = VllmEngine(base, self._shapes, self._home.root / "models" / "zero", self._settings)
        self._table, self._leases, self._lock = Table(), Leases(), asyncio.Lock()
        self._problems: dict[int, str] = {}
        self._lineage = ""

    async def __serve_build_asgi_app__(self) -> App:
        inner = await self._engine.start()
        self._engine.list_names(lambda: self._table.names())
        await self._restore()
        return Front(inner, lambda: self._table, self._leases, self._settings, self._engine.base_name, self._key)

    async def deploy(self, gen: int, shas: Mapping[Role, str] | None = None, current: bool = True) -> dict[str, Any]:
        """Serve a generation under its number and, with `current`, as `luna-<role>`.

        Args:
            shas: the adapters of a candidate that has no verdict; by default what the ledger says.

        Raises:
            LunaError: it is unknown, of another base, broken, or there is no room. What is served stays as it was.
        """
        async with self._lock:
            started = time.perf_counter()
            table = await self._load(self._table, gen, shas or self._recorded(gen))
            loaded = time.perf_counter()
            self._take(table.switch(gen) if current else table)
            self._problems.pop(gen, None)
            return {**self._names(), "load_s": loaded - started, "switch_s": time.perf_counter() - loaded}

    async def rollback(self) -> dict[str, Any]:
        """Let `luna-<role>` mean the generation before the current one. Nothing is loaded for it."""
        async with self._lock:
            started = time.perf_counter()
            self._take(self._table.rollback())
            return {**self._names(), "switch_s": time.perf_counter() - started}

    def state(self) -> dict[str, Any]:
        """What is served, what could not be, and requests in work."""
        problems = {f"G{gen}": problem for gen, problem in self._problems.items()}
        return {
            **self._names(),
            "home": str(self._home.root),
            "url": url(self._settings),
            "problems": problems,
            "in_work": self._leases.total,
            "pid": os.getpid(),
        }

    async def check_health(self) -> None:
        """Ray Serve replaces this replica when the engine's process is gone."""
        await self._engine.check_health()

    def __del__(self) -> None:
        if hasattr(self, "_engine"):
            self._engine.stop()

    # -- inside ----------------------------------------------------------------------------------------------

    async def _restore(self) -> None:
        """Load what is to be served after a start."""
        with Ledger.open(self._home) as ledger:
            self._lineage, head = ledger.current_lineage(), ledger.head()
            line = [] if head is None else ledger.parent_chain(head)
        before = table_to_restore(_saved(self._file), self._lineage, line)
        last = [gen for gen in (before.previous, before.current) if gen is not None]
        beside = [gen for gen in before.generations if gen not in last][: self._settings.generations - len(last)]
        table = Table(version=before.version)
        for gen in [*beside, *last]:
            try:  # One rotten adapter must not keep the others from being served.
                table = await self._load(table, gen, before.generations.get(gen) or self._recorded(gen))
                table = table.switch(gen) if gen in last else table
            except LunaError as error:
                self._problems[gen] = str(error)
        self._take(table)

    async def _load(self, table: Table, gen: int, shas: Mapping[Role, str]) -> Table:
        """The table with a generation that is ready to answer."""
        added = table.add(gen, shas)
        if added is table:
            return table
        adapters = [Adapter(gen=gen, role=role, sha=sha) for role, sha in shas.items()]
        for adapter in adapters:
            folder = self._home.adapter_dir(adapter.sha)
            await asyncio.to_thread(check_adapter, folder, self._shapes, self._settings.max_rank)
        added = (await self._make_room(table)).add(gen, shas)
        try:
            for adapter in adapters:
                await self._engine.load(adapter, self._home.adapter_dir(adapter.sha))
        except LunaError:
            for adapter in adapters:
                await self._engine.unload(adapter)
            raise
        return added

    def _recorded(self, gen: int) -> dict[Role, str]:
        with Ledger.open(self._home) as ledger:
            lineage, rows = ledger.current_lineage(), ledger.generation(gen)
        if lineage != self._lineage:
            raise LunaError(
                f"this server serves the lineage {self._lineage!r}, the current one is {lineage!r}; "
                "start `luna serve` again."
            )
        if rows[0].base_sha != self._base_sha:
            raise LunaError(
                f"G{gen} was trained on the base {rows[0].base_sha[:12]}, this engine holds {self._base_sha[:12]}; "
                "start `luna serve` again."
            )
        return {row.role: row.child_sha for row in rows}

    async def _make_room(self, table: Table) -> Table:
        """Unload what was asked for longest ago until one more generation fits."""
        while len(table.generations) >= self._settings.generations:
            free = [gen for gen in table.generations if gen not in (table.current, table.previous)]
            oldest = self._leases.least_recently_used(free)
            if oldest is None:
                raise LunaError(
                    f"{self._settings.generations} generations are loaded and in use; wait, or set [serving] "
                    "generations higher."
                )
            table = table.remove(oldest)
            await self._drop(table, oldest)
        return table

    async def _drop(self, table: Table, gen: int) -> None:
        """First no new request can find it, then its memory is freed."""
        adapters = [Adapter(gen=gen, role=role, sha=sha) for role, sha in self._table.generations[gen].items()]
        self._take(table)
        for adapter in adapters:
            await self._engine.unload(adapter)

    @property
    def _file(self) -> Path:
        return self._home.root / "serving.json"

    def _take(self, table: Table) -> None:
        """On disk first, then in one assignment for every request that comes."""
        with Ledger.open(self._home) as ledger:
            head = ledger.head(self._lineage)
        saved = Saved(lineage=self._lineage, head=head, table=table)
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


def _saved(file: Path) -> Saved | None:
    """What an earlier replica wrote; None if there is nothing, or nothing that can be read: the ledger knows it too."""
    try:
        return Saved.model_validate_json(file.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def run(home: Home, base_sha: str, settings: ServingSettings) -> Any:
    """Start the app on the cluster that this process has joined, or replace a running one; returns its handle.

    Raises:
        LunaError: another address than loopback without LUNA_API_KEY, a port that is taken, or a start that failed.
    """
    key = os.environ.get(KEY_VARIABLE) or None
    if key is None and not _is_loopback(settings.host):
        raise LunaError(
            f"[serving] host is {settings.host}, which others can reach: set the environment variable {KEY_VARIABLE} "
            "to a secret of your own first, or listen on 127.0.0.1."
        )
    if running() is None:
        _refuse_taken_port(settings)
    from ray import serve

    serve.start(http_options={"host": settings.host, "port": settings.port})
    variables = {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    deployment = serve.deployment(
        serve.ingress()(Luna),
        name="engine",
        health_check_period_s=2,
        health_check_timeout_s=10,
        graceful_shutdown_timeout_s=10,
        max_ongoing_requests=settings.max_waiting + 64,  # the front refuses earlier, with a reason
        ray_actor_options={"num_cpus": 0, "runtime_env": {"env_vars": variables}},
    )
    # The key as an argument: environment variables of an actor are shown in Ray's dashboard.
    bound = deployment.bind(str(home.root), base_sha, settings.model_dump(mode="json"), key)
    try:
        return serve.run(bound, name=APP, route_prefix="/", blocking=False)
    except RuntimeError as error:
        raise LunaError(f"the engine did not start: {str(error).strip().splitlines()[-1]}") from error


def url(settings: ServingSettings) -> str:
    """Where the app listens."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{settings.port}"


def running() -> Any | None:
    """The handle of the running app on the cluster that this process has joined; None if it does not run."""
    import ray

    try:  # Asked first, since importing Serve takes seconds.
        ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    except ValueError:
        return None
    from ray import serve

    return serve.get_app_handle(APP) if APP in serve.status().applications else None


def stop() -> None:
    """Take the app and its port down."""
    from ray import serve

    serve.shutdown()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _refuse_taken_port(settings: ServingSettings) -> None:
    """Two servers on one port would share it silently (SO_REUSEPORT), so that answers alternate."""
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise LunaError(
                f"{settings.host}:{settings.port} cannot be listened on ({error.strerror}); "
                "stop what uses it, or set [serving] port."
            ) from error
