"""What was said before, as text: one rendering and one budget for import, training, evaluation and serving.

A talk is its system text, then exchanges (`User: …`, `Luna: …`), and in a dialogue what the voices before this one
said (`Thesis: …`, `Antithesis: …`). `render_talk` writes it whole; `fit` makes the prompt that has room.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from curriculum.render import ANTITHESIS, LUNA, THESIS, USER, quoted, render_prompt
from ledger.errors import LunaError
from ledger.roles import Role

MOST_CHARACTERS = 16_384
"""Of exchanges that are read or stored at all, the newest: four times what 1,024 tokens of English hold. Without a
bound the contexts of one conversation would take space by the square of its length."""

_PIECE = re.compile(r"\s{1,16}\S{0,32}|\S{1,32}")
"""A word with the space before it; endless words and spaces come in several."""
_LEFT_OUT = "…"


class LengthSettings(BaseModel):
    """The one longest length, for training, evaluation and serving: what is trained is what is served.

    The defaults are for a dialogue of all three with a base of 2,048 tokens or more. Its last voice reads a thesis and
    an antithesis of up to `answer_tokens` each, some 40 tokens of frame, a question of 100: 540 of the 824 that a
    prompt may have, and the newest exchange has room beside them. Training packs rows without padding, so a longer
    maximum costs nothing where examples are short; a long one costs its tokens, and attention over a batch is padded
    to its longest row.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_tokens: int = Field(1024, ge=16)
    """Longest prompt and answer together. A talk loses its oldest exchanges, then a text that alone is too long its
    middle; an answer loses its end."""
    answer_tokens: int = Field(200, ge=1)
    """Kept free for the answer behind a prompt; the longest answer of `/generate` and `/dialogue` by default."""

    @property
    def room(self) -> int:
        """Most tokens of a prompt."""
        return self.max_tokens - self.answer_tokens

    @model_validator(mode="after")
    def _leave_room(self) -> Self:
        if self.answer_tokens > self.max_tokens // 2:
            raise ValueError(
                f"answer_tokens is {self.answer_tokens}, more than half of max_tokens = {self.max_tokens}; leave the "
                "prompt at least half"
            )
        return self


@dataclass(frozen=True)
class Exchange:
    """A question and its answer."""

    user: str
    luna: str


@dataclass(frozen=True)
class Talk:
    """A list of messages, told apart."""

    system: str
    exchanges: tuple[Exchange, ...]
    question: str
    """What is to be answered; empty where the last message is not the user's."""


@dataclass(frozen=True)
class Fitted:
    """A prompt that has room."""

    prompt: str
    dropped: int
    """Exchanges left out, the oldest."""
    cut: bool
    """Whether a text that alone was too long lost its middle."""
    tokens: int
    """Of the prompt, as `count` counts."""


def talk_of(messages: Iterable[tuple[str, str]]) -> Talk:
    """Tell apart (speaker, text) messages: consecutive ones of a speaker are joined by a line break.

    `system` and `developer` make the system text, wherever they stand. Speakers other than these, `user` and
    `assistant` are left out (a tool's result is nothing that a person said), and so are empty messages.
    """
    system: list[str] = []
    exchanges: list[Exchange] = []
    user: list[str] = []
    luna: list[str] = []
    for speaker, said in messages:
        text = said.strip()
        if not text:
            continue
        if speaker in ("system", "developer"):
            system.append(text)
        elif speaker == "assistant":
            luna.append(text)
        elif speaker == "user":
            if luna:
                exchanges.append(Exchange("\n".join(user), "\n".join(luna)))
                user, luna = [], []
            user.append(text)
    if luna:
        exchanges.append(Exchange("\n".join(user), "\n".join(luna)))
        user = []
    return Talk("\n".join(system), tuple(exchanges), "\n".join(user))


def render_talk(exchanges: Iterable[Exchange], system: str = "") -> str:
    """The whole talk, the system text first; what an example's or a turn's `context` holds.

    Space around a message is left out. A line of a message that begins like one of ours is set off by a space.
    """
    said = [_rendered(exchange) for exchange in exchanges]
    return "\n".join([quoted(system.strip()), *said] if system.strip() else said)


def keep_recent(exchanges: Sequence[Exchange]) -> Sequence[Exchange]:
    """The newest exchanges, of at most `MOST_CHARACTERS`: `fit` reads no others."""
    return exchanges[_too_old([_rendered(exchange) for exchange in exchanges]) :]


def fit(role: Role | str | None, input: str, context: str, room: int, count: Callable[[str], int]) -> Fitted:
    """The prompt of at most `room` tokens: the one place where a length is kept.

    The oldest exchanges go first, whole. Where even without any the rest is too long, its longest texts (system text,
    thesis, antithesis, question) lose their middle, between words. It works on text, so that every engine reads the
    same; what a role's frame holds is never cut.

    Args:
        role: None for the base, whose prompt has no frame.
        context: as `render_talk` writes it, then as `dialogue_context` does; any other text counts as system text.
        count: tokens of a prompt, with the tokenizer's own beginning.

    Raises:
        LunaError: the frame alone has no room.
    """
    parts = _Parts.of(context)
    question, old = input.strip(), _too_old(parts.exchanges)
    recent = parts.exchanges[old:]

    def prompt(dropped: int, most: int | None = None) -> str:
        system, *before = (_shortened(text, most) for text in (parts.system, *parts.before))
        body = "\n".join(part for part in (system, *recent[dropped:], *before) if part)
        return render_prompt(role, _shortened(question, most), body)

    def fitted(dropped: int, most: int | None = None) -> Fitted:
        text = prompt(dropped, most)
        return Fitted(text, old + dropped, most is not None, count(text))

    if (whole := fitted(0)).tokens <= room:
        return whole
    if (alone := fitted(len(recent))).tokens <= room:
        # The count falls with every exchange dropped, but for tokens that span a boundary; what is found does fit.
        found = bisect_left(range(len(recent)), True, key=lambda dropped: fitted(dropped).tokens <= room)
        return fitted(found) if found < len(recent) else alone
    longest = max(len(_PIECE.findall(text)) for text in (parts.system, *parts.before, question))
    found = bisect_left(range(min(longest, room) + 1), True, key=lambda most: fitted(len(recent), most).tokens > room)
    if not found:
        raise LunaError(
            f"a prompt may have {room} tokens and its frame alone has more; set [text] max_tokens higher, or "
            "answer_tokens lower."
        )
    return fitted(len(recent), found - 1)


@dataclass(frozen=True)
class _Parts:
    """A context, told apart into texts whose lines together are the context."""

    system: str
    exchanges: list[str]
    before: list[str]
    """Thesis and antithesis."""

    @classmethod
    def of(cls, context: str) -> Self:
        texts: list[list[str]] = [[]]
        begins: tuple[str, ...] = (USER, THESIS)
        exchanges = 0
        for line in context.split("\n") if context else []:
            if line.startswith(begins):
                exchanges += line.startswith(USER)
                begins = (ANTITHESIS,) if line.startswith((THESIS, ANTITHESIS)) else (USER, THESIS)
                texts.append([])
            texts[-1].append(line)
        system, *others = ("\n".join(lines) for lines in texts)
        return cls(system, others[:exchanges], others[exchanges:])


def _rendered(exchange: Exchange) -> str:
    return f"{USER}{quoted(exchange.user.strip())}\n{LUNA}{quoted(exchange.luna.strip())}"


def _too_old(exchanges: Sequence[str]) -> int:
    """How many of the oldest are beyond `MOST_CHARACTERS`."""
    total = 0
    for number in range(len(exchanges) - 1, -1, -1):
        total += len(exchanges[number]) + 1
        if total > MOST_CHARACTERS:
            return number + 1
    return 0


def _shortened(text: str, most: int | None) -> str:
    """The text without its middle: at most so many words of it, half of them from each end."""
    if most is None:
        return text
    pieces = _PIECE.findall(text)
    if len(pieces) <= most:
        return text
    end_most = most - most // 2  # of a single word the end: what is asked for mostly stands there
    begin, end = "".join(pieces[: most // 2]).rstrip(), "".join(pieces[len(pieces) - end_most :]).lstrip()
    return " ".join(part for part in (begin, _LEFT_OUT, end) if part)
