"""`luna chat` and `luna compare`: talk to what is being served, in a terminal, over the same HTTP as everybody."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from curriculum.reward import VALUES
from jobs.context import ADDRESS_OPTION, HOME_OPTION, friendly_errors, gen_number, out, printable, resolve_home
from jobs.http import answered, events, part
from ledger.conversations import AXES, LabelledTurn
from ledger.errors import LunaError
from ledger.home import Home
from ledger.roles import BASE, ROLES

if TYPE_CHECKING:
    from serving.api.reward import RewardAnswer

_SCORE_WAITS_S = (0.0, 0.5, 1.0, 2.0, 4.0)
"""Before each look at whether an answer was judged, which happens behind it."""

HELP = (
    "/role creative|logical|dialectical|base · /all all three · /new · /quit · "
    "of the last answer: /+2 /+1 /0 /-1 /-2 · /arousal /discrepancy /prospect /reflection /broadcast high|low · "
    "/fix what it should have said · /reward what the reward model makes of it"
)


def chat_command(
    role: str = typer.Option("dialectical", help="creative, logical, dialectical or base."),
    max_tokens: int = typer.Option(120, help="Longest answer."),
    home: Path | None = HOME_OPTION,
) -> None:
    """Talk to what `luna serve` serves. Ctrl-C stops an answer, and at the prompt the talk."""
    with friendly_errors():
        chat(resolve_home(home), role, max_tokens, out, lambda: input("> "))


def compare_command(
    prompt: str = typer.Argument(..., help="What to ask."),
    who: list[str] = typer.Argument(..., help="Generations and base: G1 G3 base."),
    role: str = typer.Option("dialectical", help="creative, logical or dialectical."),
    max_tokens: int = typer.Option(60, help="Longest answer."),
    home: Path | None = HOME_OPTION,
    address: str | None = ADDRESS_OPTION,
) -> None:
    """Ask several generations the same and show their answers side by side, rejected ones too."""
    with friendly_errors():
        compare(resolve_home(home), prompt, who, role, max_tokens, address, out)


def chat(home: Home, role: str, max_tokens: int, out: Console, read: Callable[[], str]) -> None:
    """Ask, answer and label until `read` raises EOFError or `/quit` is said; every exchange is stored.

    What was said before is the next question's context. Ctrl-C ends the answer that is being given. Commands: `HELP`.
    """
    talk = _Talk(role=_voice(role), max_tokens=max_tokens)
    out.print(f"{talk.role} · {HELP}", style="dim", markup=False, soft_wrap=True)
    while True:
        try:
            line = read().strip()
        except EOFError:
            return
        if line == "/quit":
            return
        try:
            if line.startswith("/"):
                _command(home, talk, line, out)
            elif line:
                _exchange(home, talk, line, out)
        except LunaError as error:
            out.print(printable(str(error)), markup=False, soft_wrap=True)
        except KeyboardInterrupt:
            out.print("\nstopped", style="dim")


@dataclass
class _Talk:
    """Where a conversation is."""

    role: str
    """A voice, or `all`."""
    max_tokens: int
    conversation: str | None = None
    last: str | None = None
    """Id of the last answer."""
    unread: int = 0
    """The oldest exchanges, which there is no room for any more; said when it grows."""


def _command(home: Home, talk: _Talk, line: str, out: Console) -> None:
    name, _, rest = line[1:].partition(" ")
    rest = rest.strip()
    if name == "new":
        talk.conversation, talk.last, talk.unread = None, None, 0
    elif name == "all":
        talk.role = "all"
        out.print("all three: thesis, antithesis, synthesis", style="dim")
    elif name == "role":
        talk.role = _voice(rest)
        out.print(talk.role, style="dim")
    elif name in ("+2", "+1", "2", "1", "0", "-1", "-2"):
        _label(home, talk, "valence", int(name), out)
    elif name in AXES and rest in ("high", "low"):
        _label(home, talk, name, rest, out)
    elif name == "fix" and rest:
        _label(home, talk, "correction", rest, out)
    elif name == "reward":
        _show_reward(home, talk, out)
    else:
        out.print(HELP, style="dim", markup=False, soft_wrap=True)


def _exchange(home: Home, talk: _Talk, message: str, out: Console) -> None:
    body: dict[str, Any] = {"message": message, "max_tokens": talk.max_tokens, "temperature": 0}
    if talk.conversation:
        body["conversation"] = talk.conversation
    path = "/dialogue"
    if talk.role != "all":
        path, body = "/generate", body | {"role": talk.role, "stream": True}
    for name, data in events(home, path, body):
        if name == "start":
            if "turn" in data:  # an answer that is stopped is stored as well: it can be labelled, and the talk goes on
                talk.conversation = str(part(data, "conversation", path=path))
                talk.last = str(data["turn"])
            _tell_unread(talk, data, out)
            if talk.role == "all":
                out.print(f"{part(data, 'role', path=path)}: ", style="dim", end="")
        elif name == "token":
            out.print(printable(str(part(data, "text", path=path))), end="", markup=False, soft_wrap=True)
        elif name == "turn":
            out.print()
            talk.conversation = str(part(data, "conversation", path=path))
            talk.last = str(part(data, "id", path=path))
        elif name == "error":
            raise LunaError(f"the answer broke off: {part(data, 'message', path=path)}")


def _tell_unread(talk: _Talk, start: Mapping[str, Any], out: Console) -> None:
    unread = start.get("context_dropped")
    if isinstance(unread, int) and unread > talk.unread:
        talk.unread = unread
        which = "oldest exchange is" if talk.unread == 1 else f"{talk.unread} oldest exchanges are"
        out.print(f"(the {which} no longer read)", style="dim")
    if start.get("text_cut"):
        out.print("(a text is too long: its middle is not read)", style="dim")


def _label(home: Home, talk: _Talk, name: str, value: Any, out: Console) -> None:
    if talk.last is None:
        raise LunaError("there is no answer to label yet.")
    # The server replaces a label as a whole, and the page may have given one meanwhile.
    found = _last_turn(home, talk).label
    stands = found.model_dump(exclude={"at"}, exclude_none=True) if found else {}
    label = stands | {name: value}
    answered(home, "POST", "/feedback", TypeAdapter(dict[str, Any]), {"turn": talk.last, **label})
    out.print("stored: " + ", ".join(f"{key} {said}" for key, said in label.items()), style="dim", markup=False)


def _show_reward(home: Home, talk: _Talk, out: Console) -> None:
    """The reward vector of the last answer and what it earned, as soon as it was judged."""
    if talk.last is None:
        raise LunaError("there is no answer to judge yet.")
    if not home.reward_pointer.exists():
        raise LunaError("this home has no reward model that could judge an answer; train one with `luna reward train`.")
    for wait in _SCORE_WAITS_S:
        time.sleep(wait)
        turn = _last_turn(home, talk)
        if not turn.answer.strip():
            raise LunaError("the answer is empty; nothing can be said of it.")
        if turn.score:
            named = (f"{name} {getattr(turn.score, name):+.2f}" for name in (*VALUES, "scalar_preference"))
            earned = "" if turn.karma is None else f" · karma {turn.karma:+.2f}"
            out.print(" · ".join(named) + earned, style="dim", markup=False, soft_wrap=True)
            return
    raise LunaError("the answer was not judged yet; ask /reward again in a moment.")


def _last_turn(home: Home, talk: _Talk) -> LabelledTurn:
    path = f"/conversations/{talk.conversation}"
    turns = answered(home, "GET", path, TypeAdapter(list[LabelledTurn]))
    found = next((turn for turn in turns if turn.id == talk.last), None)
    if found is None:
        raise LunaError("the server does not have the last answer any more; /new begins another talk.")
    return found


def compare(
    home: Home, prompt: str, who: Sequence[str], role: str, max_tokens: int, address: str | None, out: Console
) -> None:
    """One prompt to several generations (`G1`) or the `base`, their greedy answers side by side."""
    from cluster.ray_head import connect
    from cluster.server.client import load

    _voice(role)
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
        answers.append(_completion(home, body))
    table.add_row(*(Text(printable(answer)) for answer in answers))
    out.print(table)
    if home.reward_pointer.exists():
        out.print(_reward_table(who, _rewards(home, prompt, answers)))


def _rewards(home: Home, prompt: str, answers: Sequence[str]) -> list[RewardAnswer | None]:
    """What the served reward model makes of each answer; None for an empty one, which cannot be judged."""
    from serving.api.reward import RewardAnswer

    pairs = [{"prompt": prompt, "response": answer} for answer in answers if answer.strip()]
    if not pairs:
        return [None] * len(answers)
    judged = answered(home, "POST", "/reward", TypeAdapter(list[RewardAnswer]), pairs)
    if len(judged) != len(pairs):
        raise LunaError(f"the server judged {len(judged)} of {len(pairs)} answers; ask again.")
    left = iter(judged)
    return [next(left) if answer.strip() else None for answer in answers]


def _reward_table(who: Sequence[str], rewards: Sequence[RewardAnswer | None]) -> Table:
    """One column for each answer: its reward vector, intensity and safety, and one number for the whole."""
    table = Table("reward", *who)
    for name in (*VALUES, "scalar_preference"):
        table.add_row(name, *(f"{getattr(one.reward, name):+.2f}" if one else "" for one in rewards))
    return table


def _voice(role: str) -> str:
    if role != BASE and role not in ROLES:
        raise LunaError(f"there is no voice {role!r}; use one of {', '.join(ROLES)} or {BASE}.")
    return role


def _completion(home: Home, body: dict[str, Any]) -> str:
    """A whole chat answer over the OpenAI API."""
    path = "/v1/chat/completions"
    answer = answered(home, "POST", path, TypeAdapter(dict[str, Any]), body)
    return str(part(answer, "choices", 0, "message", "content", path=path) or "")
