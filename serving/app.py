"""The Ray Serve apps: `luna` is the gateway at `/`, `luna-engine` the engine at `/v1`, `luna-reward` the reward model.

They are several so that a token of /v1 passes no second process, the page stays up while an engine is replaced, and
answers can be given where nothing can be scored. `luna-reward` answers at `/reward`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp

from ledger.conversations import Label, Turn
from ledger.errors import LunaError
from ledger.home import Home
from ledger.scores import Score
from serving.accepted import Coordinator, NoAnswer, RemoteAccepted, RemoteCoordinator
from serving.api.errors import Refused
from serving.api.gateway import OPEN_PATHS, build
from serving.api.guard import guarded, is_loopback
from serving.engine import Asked, Piece, Sampling, Started
from serving.engine_app import EngineReplica
from serving.settings import ServingSettings, SharedSettings

if TYPE_CHECKING:
    from serving.reward_app import Load

APP = "luna"
ENGINE_APP = "luna-engine"
KEY_VARIABLE = "LUNA_API_KEY"

_STATE_S = 2


@dataclass(frozen=True)
class Places:
    """What the replicas ask Ray for, as options of their actors.

    The gateway reads `luna.db` and the reward model the home, so both stay on the coordinator's node. An engine reads
    no database (:mod:`serving.accepted`) and goes where there is a card for it.
    """

    home: Mapping[str, Any] = field(default_factory=dict)
    """The node of the coordinator."""
    engine: Mapping[str, Any] = field(default_factory=dict)
    """`num_gpus`, and the node where several replicas share its one card."""


class Gateway:
    """The gateway's deployment."""

    def __init__(
        self, root: str, settings: dict[str, Any], shared: dict[str, Any], key: str | None, coordinator: Coordinator
    ):
        from serving.reward_app import RemoteJudge

        home = Home(Path(root))
        self._settings, self._key = ServingSettings.model_validate(settings), key
        self._app = build(
            home,
            RemoteEngine(),
            RemoteKeeper(coordinator),
            RemoteJudge(home),
            self._settings,
            SharedSettings.model_validate(shared),
        )

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        return guarded(self._app, self._settings, self._key, OPEN_PATHS)


class RemoteEngine:
    """The engine through its Ray handle."""

    def __init__(self) -> None:
        self._known: Any = None

    async def speak(self, model: str, question: Asked, sampling: Sampling) -> AsyncIterator[Started | Piece]:
        stream = self._handle.options(stream=True).speak.remote(model, question, sampling)
        try:
            async for item in stream:
                yield item
        except Exception as error:
            raise _refusal(error) from error
        finally:
            stream.cancel()  # does nothing where the answer is complete

    async def state(self) -> dict[str, Any]:
        return await self._ask("state")

    async def metrics(self) -> str:
        return await self._ask("metrics")

    async def _ask(self, method: str) -> Any:
        try:
            return await asyncio.wait_for(getattr(self._handle, method).remote(), _STATE_S)
        except Exception as error:
            raise _refusal(error) from error

    @property
    def _handle(self) -> Any:
        from ray import serve

        if self._known is None:
            try:
                self._known = serve.get_app_handle(ENGINE_APP)
            except Exception as error:
                raise _refusal(error) from error
        return self._known


class RemoteKeeper:
    """The coordinator, which alone writes."""

    def __init__(self, coordinator: Coordinator):
        self._coordinator = RemoteCoordinator(coordinator)

    async def add_turn(self, turn: Turn) -> None:
        await self._ask("add_turn", turn)

    async def add_label(self, turn: str, label: Label) -> None:
        await self._ask("add_label", turn, label)

    async def add_scores(self, scores: Sequence[Score]) -> None:
        await self._ask("add_scores", list(scores))

    async def _ask(self, method: str, *arguments: Any) -> None:
        try:
            await self._coordinator.ask(method, *arguments)
        except NoAnswer as error:
            raise Refused(503, f"it could not be stored: {error}") from error
        except LunaError as error:
            raise Refused(404 if method == "add_label" else 503, str(error)) from error


def _refusal(error: Exception) -> Refused:
    """What a user is told when the engine does not answer."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, Refused):
        return cause
    if isinstance(error, Refused):
        return error
    if isinstance(cause, LunaError):
        return Refused(400, str(cause))
    return Refused(
        503, f"the engine does not answer ({type(error).__name__}); it comes back by itself.", {"retry-after": "5"}
    )


def run(
    home: Home,
    base_sha: str,
    settings: ServingSettings,
    shared: SharedSettings,
    places: Places,
    coordinator: Coordinator,
    load: Load,
) -> Any:
    """Start the apps on the cluster that this process has joined, or replace running ones; returns the engine's handle.

    The reward model's start is not waited for.

    Args:
        load: loads the reward model.

    Raises:
        LunaError: another address than loopback without LUNA_API_KEY, a port that is taken, or a start that failed.
    """
    key = key_for(settings)
    if not serve_runs():
        _refuse_taken_port(settings)
    from ray import serve
    from ray.serve.exceptions import RayServeException

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(proxy_location="HeadOnly", http_options={"host": settings.host, "port": settings.port})
    _refuse_other_address(settings)
    engine, gateway = applications(home, base_sha, settings, shared, places, coordinator)
    try:
        _run_reward(reward_app(settings, places, load, key))
        handles = serve.run_many(
            [
                serve.RunTarget(engine, name=ENGINE_APP, route_prefix="/v1"),
                serve.RunTarget(gateway, name=APP, route_prefix="/"),
            ]
        )
    except (RuntimeError, RayServeException) as error:
        raise LunaError(f"the engine did not start: {last_line(error)}") from error
    return handles[0]


def applications(
    home: Home,
    base_sha: str,
    settings: ServingSettings,
    shared: SharedSettings,
    places: Places,
    coordinator: Coordinator,
) -> tuple[Any, Any]:
    """The engine's and the gateway's application, not started.

    Raises:
        LunaError: another address than loopback without LUNA_API_KEY.
    """
    plain, key = settings.model_dump(mode="json"), key_for(settings)
    # The key as an argument: environment variables of an actor are shown in Ray's dashboard.
    engine = _engine_deployment(settings, places).bind(
        str(home.root), base_sha, plain, shared.text.model_dump(mode="json"), key, RemoteAccepted(coordinator)
    )
    gateway = _gateway_deployment(settings, places).bind(
        str(home.root), plain, shared.model_dump(mode="json"), key, coordinator
    )
    return engine, gateway


def key_for(settings: ServingSettings) -> str | None:
    """The key that users must give, from the environment; None if there is none.

    Raises:
        LunaError: there is none, and others than this machine can reach the address.
    """
    key = os.environ.get(KEY_VARIABLE) or None
    if key is None and not is_loopback(settings.host):
        raise LunaError(
            f"[serving] host is {settings.host}, which others can reach: set the environment variable {KEY_VARIABLE} "
            "to a secret of your own first, or listen on 127.0.0.1."
        )
    return key


def reward_app(settings: ServingSettings, places: Places, load: Load, key: str | None) -> Any:
    """The reward model's application, not started; without a model yet it waits for one."""
    from serving.reward_app import reward_deployment

    return reward_deployment(settings, places.home).bind(load, settings.model_dump(mode="json"), key)


def _run_reward(application: Any) -> None:
    """Start the reward model's app beside the others, or replace it."""
    from ray import serve

    from serving.reward_app import REWARD_APP, REWARD_ROUTE

    target = serve.RunTarget(application, name=REWARD_APP, route_prefix=REWARD_ROUTE)
    serve.run_many([target], wait_for_applications_running=False)


def reward_running() -> Any | None:
    """The handle of the reward model's app, where it runs; Ray Serve must run."""
    from ray import serve

    from serving.reward_app import REWARD_APP

    return serve.get_app_handle(REWARD_APP) if REWARD_APP in serve.status().applications else None


def _engine_deployment(settings: ServingSettings, places: Places) -> Any:
    from ray import serve

    variables = {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    return serve.deployment(
        serve.ingress()(EngineReplica),
        name="engine",
        num_replicas=settings.replicas,
        health_check_period_s=2,
        health_check_timeout_s=10,
        graceful_shutdown_timeout_s=10,
        max_ongoing_requests=settings.max_concurrent_requests + 64,  # the front refuses earlier, with a reason
        ray_actor_options={"num_cpus": 0, **places.engine, "runtime_env": {"env_vars": variables}},
    )


def _gateway_deployment(settings: ServingSettings, places: Places) -> Any:
    from ray import serve

    return serve.deployment(
        serve.ingress()(Gateway),
        name="gateway",
        graceful_shutdown_timeout_s=5,
        max_ongoing_requests=2 * settings.max_concurrent_requests + 64,
        ray_actor_options={"num_cpus": 0, **places.home},
    )


def url(settings: ServingSettings) -> str:
    """Where the apps listen."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{settings.port}"


def running() -> Any | None:
    """The handle of the running engine on the cluster that this process has joined; None if it does not run."""
    if not serve_runs():  # asked first, since importing Serve takes seconds
        return None
    from ray import serve

    return serve.get_app_handle(ENGINE_APP) if ENGINE_APP in serve.status().applications else None


def serve_runs() -> bool:
    """Whether Ray Serve runs on the cluster that this process has joined, with whatever apps."""
    import ray

    try:
        ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    except ValueError:
        return False
    return True


def stop() -> bool:
    """Take Luna's apps down; Ray Serve and its port too where nobody else's app runs there. False: none of ours ran."""
    if not serve_runs():
        return False
    from ray import serve

    from serving.reward_app import REWARD_APP

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    present = set(serve.status().applications)
    ours = present & {APP, ENGINE_APP, REWARD_APP}
    for name in ours:
        serve.delete(name)
    if ours == present:
        serve.shutdown()
    return bool(ours)


def last_line(error: BaseException) -> str:
    """What a remote traceback ends with: the error itself."""
    return str(error).strip().splitlines()[-1]


def _refuse_other_address(settings: ServingSettings) -> None:
    """Ray Serve that runs for other apps keeps its own address, which may be one that others reach."""
    from ray.serve.context import _get_global_client

    found = _get_global_client().http_config
    if (found.host, found.port) != (settings.host, settings.port):
        raise LunaError(
            f"Ray Serve runs on this cluster for other apps, at {found.host}:{found.port}; Luna would be served there "
            f"too, not at {settings.host}:{settings.port}. Set [serving] host and port to that address, or stop the "
            "other apps first."
        )


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
