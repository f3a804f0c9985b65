"""Ray's token: what Luna starts asks for one, and what asks for one gets it.

Ray sends a token to a cluster that it finds by itself, never to one that is named by its address (`ray.init`), so that
Luna asks the cluster. Where `RAY_AUTH_MODE` is set, it decides and nothing here does.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
from pathlib import Path
from typing import Literal
from urllib.error import URLError
from urllib.request import urlopen

from ledger.errors import LunaError

logger = logging.getLogger(__name__)

MODE_VARIABLE = "RAY_AUTH_MODE"

Answer = Literal["open", "token", "unknown"]
"""What a cluster asks for; unknown where nothing answers, or it speaks another protocol."""

_ANSWER_S = 3.0

_NO_TOKEN = (
    "the Ray cluster at {where} asks for a token, and {what}. Copy ~/.ray/auth_token from its head (there "
    "`ray get-auth-token` prints it), or name it with RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH."
)


def mode_of_a_new_head() -> str:
    """What a head that Luna starts is given as its mode; a token is made where the user has none."""
    if (chosen := os.environ.get(MODE_VARIABLE)) is not None:
        return chosen
    if token() is None:
        make_token()
    return "token"


def agree_with(address: str) -> None:
    """Let this process speak to the cluster at `address` (host:port) as it asks for.

    Raises:
        LunaError: it asks for a token, and there is none here or another one.
    """
    if os.environ.get(MODE_VARIABLE) is not None:
        return
    asked = asked_by(address)
    if asked == "open":
        os.environ[MODE_VARIABLE] = "disabled"  # Ray would ask the cluster's own processes for the token that lies here
    elif asked == "token":
        mine = _token_for(address)
        if asked_by(address, mine) == "token":
            raise LunaError(_NO_TOKEN.format(where=address, what="the one of this machine is another"))
        _send_the_token()


def agree_with_job_server(url: str) -> None:
    """Let this process speak to the job server at `url` as it asks for.

    Raises:
        LunaError: it asks for a token, and there is none here.
    """
    if os.environ.get(MODE_VARIABLE) is None and job_server_asks(url) == "token":
        _token_for(url)
        _send_the_token()


def asked_by(address: str, with_token: str | None = None) -> Answer:
    """What the cluster at `address` (host:port) makes of a question with this token; `token`: that it lacks the right
    one."""
    import grpc  # type: ignore[import-untyped]
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    headers = (("authorization", f"Bearer {with_token}"),) if with_token else ()
    try:
        with grpc.insecure_channel(address, options=(("grpc.enable_http_proxy", 0),)) as channel:
            stub = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
            stub.CheckAlive(gcs_service_pb2.CheckAliveRequest(), timeout=_ANSWER_S, metadata=headers)
    except grpc.RpcError as error:
        return "token" if error.code() == grpc.StatusCode.UNAUTHENTICATED else "unknown"
    except (ValueError, TypeError):  # no address
        return "unknown"
    return "open"


def job_server_asks(url: str) -> Answer:
    """What the job server at `url` asks for."""
    try:
        with urlopen(f"{url.rstrip('/')}/api/authentication_mode", timeout=_ANSWER_S) as page:
            mode = json.loads(page.read(1000)).get("authentication_mode")
    except (OSError, URLError, ValueError, AttributeError):
        return "unknown"
    return "token" if mode == "token" else "open"


def token() -> str | None:
    """The user's token, where Ray looks for it: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token."""
    if given := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return given
    try:
        return token_file().read_text(encoding="utf-8").strip() or None
    except (OSError, ValueError):
        return None


def token_file() -> Path:
    """Where the token lies, or would."""
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return Path(named).expanduser() if named else Path.home() / ".ray" / "auth_token"


def make_token() -> None:
    """Write a token of 256 random bits, for this user's eyes alone; one that is there stays.

    Raises:
        LunaError: it cannot be written.
    """
    place = token_file()
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        place.touch(0o600, exist_ok=False)
        place.write_text(secrets.token_hex(32), encoding="utf-8")
    except OSError as error:
        if token() is not None:
            return
        if isinstance(error, FileExistsError) and place.is_file():
            raise LunaError(f"{place} holds no token; remove it, and a new one is made.") from None
        raise LunaError(
            f"Ray's token could not be written to {place}: {error.strerror}. Set RAY_AUTH_TOKEN_PATH to a file that "
            f"can be, or {MODE_VARIABLE}=disabled to let everybody on this machine use Ray."
        ) from error
    logger.info(f"a token for Ray was made in {place}; other machines need a copy of it to join")


def _token_for(where: str) -> str:
    if (mine := token()) is None:
        raise LunaError(_NO_TOKEN.format(where=where, what="there is none on this machine"))
    return mine


def _send_the_token() -> None:
    """From this process, although Ray has read its settings already, and from those that it starts."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    os.environ[MODE_VARIABLE] = "token"
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
