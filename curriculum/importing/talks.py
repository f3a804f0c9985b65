"""What was found in a record, as prompts and answers: a talk gives one for each of its answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from curriculum.importing.found import Before, Lesson, Note, Pair, Talk, Turn
from curriculum.preferences.pairs import Preference, make_preference
from curriculum.transcript import Exchange, keep_recent
from ledger.errors import LunaError
from ledger.files import sha256_bytes
from ledger.roles import ROLES

_GROUP_DIGITS = 12


@dataclass
class _Said:
    """A talk up to some turn; what one speaker says in a row is one message."""

    system: list[str] = field(default_factory=list)
    exchanges: list[Exchange] = field(default_factory=list)
    user: list[str] = field(default_factory=list)
    luna: list[str] = field(default_factory=list)
    weight: float = 1.0
    """Of the answer that is being given: the lowest of its parts."""

    def before(self) -> Before:
        return Before(tuple(self.exchanges), "\n".join(self.system))

    def close(self) -> None:
        """End the exchange. Only the newest are kept, since a prompt has no room for more."""
        if self.luna:
            exchange = Exchange("\n".join(self.user), "\n".join(self.luna))
            self.exchanges = list(keep_recent([*self.exchanges, exchange]))
            self.user, self.luna, self.weight = [], [], 1.0

    def add(self, turn: Turn) -> None:
        if turn.speaker == "system":
            self.system.append(turn.text)
        elif turn.speaker == "luna":
            self.luna.append(turn.text)
            self.weight = min(self.weight, turn.weight) if len(self.luna) > 1 else turn.weight
        else:
            self.close()
            self.user.append(turn.text)


def lessons_of(talk: Talk, note: Note) -> list[Lesson]:
    """One lesson for each answer to a question. A greeting before the first question is context only.

    Raises:
        LunaError: there is none.
    """
    lessons: list[Lesson] = []
    said = _Said()
    group = talk.group or _group(talk.turns)
    for number, turn in enumerate(talk.turns):
        said.add(turn)
        following = talk.turns[number + 1].speaker if number + 1 < len(talk.turns) else "user"
        if turn.speaker != "luna" or following == "luna" or not said.user:
            continue
        if not said.weight:
            note("answers of weight 0 (context only)")
            continue
        lessons.append(
            Lesson(
                input="\n".join(said.user),
                output="\n".join(said.luna),
                before=said.before(),
                group=group,
                weight=talk.weight * said.weight,
                created_at=talk.created_at,
            )
        )
    if not lessons and not any(turn.speaker == "luna" and not turn.weight for turn in talk.turns):
        raise LunaError("it holds no assistant answer to a question")
    if said.user and not said.luna:
        note("questions without an answer")
    return [replace(lessons[0], group=talk.group)] if len(lessons) == 1 else lessons


def preferences_of(pair: Pair) -> Iterator[Preference]:
    """The pair for its own role, or for each where it names none: what is better said is so by any voice.

    Raises:
        LunaError: it has no prompt, or both answers are the same.
    """
    said = _Said()
    for turn in pair.turns:
        said.add(turn)
    if said.luna or not said.user:
        raise LunaError("a pair's prompt must end with what the user says")
    for role in (pair.role,) if pair.role else ROLES:
        yield make_preference(
            role=role,
            prompt="\n".join(said.user),
            context="\n".join(part for part in (pair.context, said.before().text()) if part),
            chosen=pair.chosen,
            rejected=pair.rejected,
            margin=pair.margin,
            weight=pair.weight,
            origin="imported",
        )


def _group(turns: Sequence[Turn]) -> str:
    """The conversation by its first exchange, so that longer and shorter copies of one talk are one group."""
    first: list[str] = []
    for turn in turns:
        if turn.speaker != "system":
            first.append(turn.text)
            if turn.speaker == "luna" and len(first) > 1:
                break
    return f"conversation/{sha256_bytes(chr(0).join(first).encode())[:_GROUP_DIGITS]}"
