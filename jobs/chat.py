"""`luna chat` and `luna compare`: talk to what is being served, in a terminal, over the same API as everybody."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs.context import gen_number
from ledger.errors import LunaError
from ledger.home import Home
from ledger.roles import ROLES
from serving.table import BASE

_ANSWER_S = 300


def chat(home: Home, role: str, max_tokens: int, out: Console, read: Callable[[], str]) -> None:
    """Ask and answer until `read` raises EOFError; what was said before is the next question's context.

    `/role` goes on with another voice, `/new` forgets what was said, `/quit` ends.
    """
    model, said = _model(role), list[dict[str, str]]()
    out.print(f"{model} · /role creative|logical|dialectical|base · /new · /quit", style="dim", markup=False)
    while True:
        try:
            line = read().strip()
        except EOFError:
            return
        if line == "/quit":
            return
        if line == "/new":
            said = []
        elif line.startswith("/role"):
            try:
                model = _model(line.removeprefix("/role").strip())
                out.print(model, style="dim")
            except LunaError as error:
                out.print(str(error), markup=False)
        elif line:
            said.append({"role": "user", "content": line})
            answer = ""
            for piece in _stream(home, {"model": model, "messages": said, "max_tokens": max_tokens, "temperature": 0}):
                answer += piece
                out.print(piece, end="", markup=False, soft_wrap=True)
            out.print()
            said.append({"role": "assistant", "content": answer})


def compare(
    home: Home, prompt: str, who: Sequence[str], role: str, max_tokens: int, address: str | None, out: Console
) -> None:
    """One prompt to several generations (`G1`) or the `base`, their greedy answers side by side."""
    from cluster.deployment import load
    from cluster.rig import connect

    _model(role)
    numbers = {name: gen_number(name) for name in who if name != BASE}
    connect(address)
    for number in numbers.values():
        load(home, number)
    table = Table(*who, title=f"{role}: {prompt}", expand=True, show_lines=True)
    messages = [{"role": "user", "content": prompt}]
    answers = []
    for name in who:
        model = BASE if name == BASE else f"luna-{role}-g{numbers[name]}"
        body = {"model": model, "messages": messages, "max_tokens": max_tokens, "temperature": 0}
        answers.append("".join(_stream(home, body)))
    table.add_row(*map(Text, answers))
    out.print(table)


def _model(role: str) -> str:
    if role == BASE:
        return BASE
    if role not in ROLES:
        raise LunaError(f"there is no voice {role!r}; use one of {', '.join(ROLES)} or {BASE}.")
    return f"luna-{role}"


def _stream(home: Home, body: dict[str, Any]) -> Iterator[str]:
    """The pieces of a chat answer as they come.

    Raises:
        LunaError: no server answers, or it refuses; with its reason.
    """
    import requests

    from cluster.settings import settings_of
    from serving.app import KEY_VARIABLE, url

    where = url(settings_of(home).serving)
    key = os.environ.get(KEY_VARIABLE)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        with requests.post(
            f"{where}/v1/chat/completions", json=body | {"stream": True}, headers=headers, stream=True,
            timeout=_ANSWER_S,
        ) as answer:  # fmt: skip
            if answer.status_code != 200:
                raise LunaError(f"{where} refused ({answer.status_code}): {_reason(answer.text)}")
            for line in answer.iter_lines():
                data = line.decode().removeprefix("data: ")
                if data and data != "[DONE]":
                    yield _piece(json.loads(data))
    except requests.RequestException as error:
        raise LunaError(f"nothing answers at {where} ({type(error).__name__}); start it with `luna serve`.") from error


def _piece(event: dict[str, Any]) -> str:
    if "error" in event:
        raise LunaError(f"the answer broke off: {event['error'].get('message', event['error'])}")
    return "".join(choice["delta"].get("content") or "" for choice in event["choices"])


def _reason(text: str) -> str:
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return text.strip()[:200]
