"""HTTP that stays on this machine: asking the server that `luna serve` has started, whatever proxies are set."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError

from ledger.errors import LunaError
from ledger.home import Home

T = TypeVar("T")

_ANSWER_S = 300
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def is_this_machine(url: str) -> bool:
    """Whether an address is one of this machine's own, which no proxy can reach for us."""
    host = (urlsplit(url).hostname or "").rstrip(".").lower()
    try:
        address = ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified


@contextmanager
def without_proxies(url: str) -> Iterator[None]:
    """Keep clients that follow the environment (Ray's) from proxies and .netrc for an address of this machine."""
    names = ("NO_PROXY", "no_proxy", "NETRC")
    before = {name: os.environ.get(name) for name in names}
    if is_this_machine(url):
        others = before["no_proxy"] or before["NO_PROXY"]
        listed = ",".join((*_LOOPBACK, *([others] if others else [])))
        os.environ.update({"NO_PROXY": listed, "no_proxy": listed, "NETRC": os.devnull})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def asked(home: Home, method: str, path: str, body: Any = None) -> Iterator[Any]:
    """The response of this home's server to a request, its body still to be read.

    Raises:
        LunaError: no server answers, it refuses, or the answer breaks off; with its reason.
    """
    import requests

    from cluster.settings import settings_of
    from serving.app import KEY_VARIABLE, url

    where = url(settings_of(home).serving)
    headers = _key_header(os.environ.get(KEY_VARIABLE, ""), KEY_VARIABLE)
    began = False
    try:
        with requests.Session() as session:
            session.trust_env = False  # neither proxies nor .netrc: the server is this machine's
            with session.request(
                method, f"{where}{path}", json=body, headers=headers, stream=True, timeout=_ANSWER_S,
                allow_redirects=False,
            ) as answer:  # fmt: skip
                if answer.status_code != 200:
                    raise LunaError(f"{where} refused ({answer.status_code}): {_reason(answer.text)}")
                began = True
                yield answer
    except requests.RequestException as error:
        name = type(error).__name__
        if began:
            raise LunaError(f"the answer of {where} broke off ({name}); ask again.") from error
        if isinstance(error, requests.ReadTimeout):
            raise LunaError(f"{where} gave no answer in {_ANSWER_S} s; ask again, or look at `luna status`.") from error
        if isinstance(error, requests.ConnectionError):
            raise LunaError(f"nothing answers at {where} ({name}); start it with `luna serve`.") from error
        raise LunaError(f"{where} could not be asked ({name}: {error}); is Luna what listens there?") from error


def answered(home: Home, method: str, path: str, shape: TypeAdapter[T], body: Any = None) -> T:
    """What this home's server answers.

    Raises:
        LunaError: as :func:`asked`, or the answer is not of that shape.
    """
    with asked(home, method, path, body) as answer:
        try:
            return shape.validate_json(answer.content)
        except ValidationError as error:
            raise LunaError(_foreign(path)) from error


def events(home: Home, path: str, body: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The server-sent events of an answer, (name, data), as they come, up to its `end` or `error`.

    Raises:
        LunaError: as :func:`asked`, an event is none, or the answer stops before its end.
    """
    with asked(home, "POST", path, body) as answer:
        name = ""
        for line in answer.iter_lines():
            field, _, value = line.partition(b":")
            if field == b"event":
                name = value.strip().decode("utf-8", "replace")
            elif field == b"data":
                data = _json(value, path)
                if not isinstance(data, dict):
                    raise LunaError(_foreign(path))
                yield name, data
                if name in ("end", "error"):
                    return
    raise LunaError("the answer broke off before its end; ask again.")


def part(found: Any, *way: str | int, path: str) -> Any:
    """What lies at the end of a way into an answer: keys and positions, one after another.

    Raises:
        LunaError: the answer is not of that shape.
    """
    try:
        for step in way:
            found = found[step]
    except (KeyError, IndexError, TypeError) as error:
        raise LunaError(_foreign(path)) from error
    return found


def _json(data: bytes, path: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise LunaError(_foreign(path)) from error


def _foreign(path: str) -> str:
    return f"what answers at {path} is not Luna's server, or one of another version; `luna serve` starts this one's."


def _key_header(key: str, variable: str) -> dict[str, str]:
    if not key:
        return {}
    if not key.isascii() or not key.isprintable() or key != key.strip():
        raise LunaError(f"the key in {variable} has spaces at its ends or unprintable characters; set it again.")
    return {"authorization": f"Bearer {key}"}


def _reason(text: str) -> str:
    """The message of an error in OpenAI's form, or the beginning of whatever stands there."""
    from curriculum.teacher.answers import error_told

    try:
        reply = json.loads(text)
    except (ValueError, RecursionError):
        reply = None
    return error_told(reply, text) or "without a reason"
