"""Luna's apps for those who declare what Ray Serve runs: `serve deploy`, and RayService on Kubernetes.

Each function is an `import_path` of a Serve config, under the app's own name and route
(deploy/kuberay/rayservice.yaml). Its argument `home` names the home's folder.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from cluster.coordinator import coordinator_for
from cluster.server.reward import loader
from cluster.server.start import to_serve
from cluster.settings import settings_of
from ledger.home import Home
from serving import app


def engine(args: dict[str, str]) -> Any:
    """The engine behind /v1.

    Raises:
        LunaError: nothing to serve, or an address that others reach without LUNA_API_KEY.
    """
    return _applications(_home(args))[0]


def gateway(args: dict[str, str]) -> Any:
    """The gateway behind everything else.

    Raises:
        LunaError: as :func:`engine`.
    """
    return _applications(_home(args))[1]


def reward(args: dict[str, str]) -> Any:
    """The reward model behind /reward; without a model yet it waits for one."""
    from serving.reward_app import reward_app

    home = _home(args)
    settings = settings_of(home).serving
    return reward_app(settings, loader(home), app.key_for(settings))


def _applications(home: Home) -> tuple[Any, Any]:
    return app.applications(home, *to_serve(home, coordinator_for), partial(coordinator_for, home))


def _home(args: dict[str, str]) -> Home:
    return Home(Path(args["home"]))
