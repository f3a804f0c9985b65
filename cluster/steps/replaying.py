"""What of the line each role replays, and what the parent is asked about it before that is fixed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from cluster.settings import DataSettings
from curriculum.example import Example
from curriculum.mix import rows_of_passes
from curriculum.parent_view import ParentView
from curriculum.replay import draw_half_least_sure, draw_replay, with_answer
from ledger.errors import LunaError
from ledger.roles import Role

Line = Mapping[int, Sequence[Example]]
"""What generations of the line were trained on as new, by number."""

Views = Mapping[str, ParentView]
"""What the parent makes of examples, by id."""

AskParent = Callable[[Mapping[Role, Sequence[Example]], bool], Views]
"""The parent's view of each role's examples; with its own answers if asked for."""


@dataclass(frozen=True)
class Earlier:
    """What replay is drawn from, all roles."""

    line: Line = field(default_factory=dict)
    """Of every generation that may be drawn from."""
    seed: str = ""
    views: Views = field(default_factory=dict)
    """What the parent makes of what may be replayed, where it has a say in that."""
    own_words: Sequence[Example] = ()
    """What the untouched base says itself, and may be repeated."""


_CANDIDATES = 4
"""So many times the rows that are replayed the parent is asked about, where it decides which."""


@dataclass(frozen=True)
class ReplayPool:
    """What one role may replay, and how much of it."""

    line: Line
    count: int
    seed: str
    closed: Collection[str]
    """Categories whose answers stay as they were recorded."""
    own_words: Sequence[Example] = ()
    """What the base says itself."""
    rehearsed: int = 0
    """Rows of that."""


def candidates(pool: ReplayPool) -> dict[int, list[Example]]:
    """What is chosen from where the parent decides, by generation. Pure."""
    return draw_replay(pool.line, _CANDIDATES * pool.count, pool.seed)


def chosen(pool: ReplayPool, data: DataSettings, views: Views) -> dict[int, list[Example]]:
    """The rows that are replayed as they were recorded, by generation. Pure.

    Raises:
        LunaError: the parent decides, and its view of a candidate is missing.
    """
    if data.replay_select == "uniform":
        return draw_replay(pool.line, pool.count, pool.seed)
    among = candidates(pool)
    if unseen := [e for own in among.values() for e in own if e.id not in views]:
        raise LunaError(
            f"the parent's view of {len(unseen)} examples that may be replayed is missing, among them "
            f"{unseen[0].id[:12]}; restore its frozen file from a copy."
        )
    return draw_half_least_sure(among, pool.count, {name: view.nats for name, view in views.items()}, pool.seed)


def rehearsal(pool: ReplayPool) -> list[Example]:
    """The rows in which the base repeats itself, some of them several times. Pure."""
    return rows_of_passes(pool.own_words, pool.rehearsed, f"{pool.seed}:base")


def as_replayed(rows: Iterable[Example], pool: ReplayPool, data: DataSettings, views: Views) -> list[Example]:
    """The rows, those of open categories with the parent's own answers where it gave any. Pure."""
    if not data.own_answers:
        return list(rows)
    return [with_answer(e, views[e.id].own) if e.id in views and e.category not in pool.closed else e for e in rows]


def asked_views(pools: Mapping[Role, ReplayPool], data: DataSettings, ask: AskParent) -> Views:
    """All that a plan needs to know of the parent; nothing where nothing is replayed or it has no say."""
    views: dict[str, ParentView] = {}
    if data.replay_select == "least_sure":
        views |= _ask({role: _flat(candidates(pool)) for role, pool in pools.items()}, False, ask)
    if data.own_answers:
        replayed = {role: _flat(chosen(pool, data, views)) for role, pool in pools.items()}
        opened = {role: [e for e in own if e.category not in pools[role].closed] for role, own in replayed.items()}
        answered = _ask(opened, True, ask)
        # What was chosen by stays to the last bit: of other batches the same likelihood may be rounded otherwise.
        views |= {name: replace(views.get(name, view), own=view.own) for name, view in answered.items()}
    return views


def _ask(examples: Mapping[Role, Sequence[Example]], with_own: bool, ask: AskParent) -> Views:
    return ask(examples, with_own) if any(examples.values()) else {}


def _flat(by_generation: Line) -> list[Example]:
    return [example for own in by_generation.values() for example in own]
