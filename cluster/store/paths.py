"""Which paths under a home a trainer's call names, and the same call under other paths. Pure.

What a record holds as text is a path only where it is listed here: an example may quote one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import singledispatch
from pathlib import Path
from typing import Any, TypeVar

from trainers.evals.exam import Compared
from trainers.health.probe import HealthPlan
from trainers.job import TrioJob
from trainers.models.adapter_set import AdapterSet
from trainers.models.frozen import Base

Value = TypeVar("Value")
Move = Callable[[Path], Path]


@dataclass(frozen=True)
class Named:
    """What a call does with the files and folders that it names; a folder stands for all in it."""

    read: tuple[Path, ...] = ()
    state: tuple[Path, ...] = ()
    """Folders that it goes on from, changes, and removes files from."""
    added: tuple[Path, ...] = ()
    """Folders to which it may add files."""

    def __add__(self, other: Named) -> Named:
        return Named(self.read + other.read, self.state + other.state, self.added + other.added)


def named_by(method: str, arguments: Sequence[Any]) -> Named:
    """What a call of a trainer's method names. A bare path says nothing of its use: the method does."""
    found = sum(map(named, arguments), Named())
    paths = tuple(one for one in arguments if isinstance(one, Path))
    if method == "health":  # the reward model, and where its curves go
        return found + Named(read=paths[:1], added=paths[1:])
    return found + Named(added=paths)  # where a blend is written


@singledispatch
def named(value: Any) -> Named:
    """What an argument names; nothing, unless it is of a kind registered here."""
    return Named()


@named.register
def _(base: Base) -> Named:
    return Named(read=(base.path,))


@named.register
def _(adapters: AdapterSet) -> Named:
    return Named(read=tuple(map(adapters.path, adapters.shas)))


@named.register
def _(compared: Compared) -> Named:
    sets = [compared.child, *([compared.parent] if compared.parent else []), *compared.learned.values()]
    return sum(map(named, sets), Named())


@named.register
def _(plan: HealthPlan) -> Named:
    return Named(read=(plan.child, *([plan.parent] if plan.parent else [])))


@named.register
def _(job: TrioJob) -> Named:
    adapters = Path(job.adapters_dir)
    files = [job.train_file, job.preference_file, job.rewards_file, job.delta_file]
    parents = [adapters / sha for sha in job.parents.values() if sha is not None]
    return Named(
        read=(*(Path(file) for file in files if file), *parents), state=(Path(job.run_dir),), added=(adapters,)
    )


@named.register(list)
@named.register(tuple)
def _(values: Sequence[Any]) -> Named:
    return sum(map(named, values), Named())


def moved(value: Value, move: Move) -> Value:
    """An argument or answer with every path that it names moved, and nothing else changed."""
    found: Value = _moved(value, move)
    return found


@singledispatch
def _moved(value: Any, move: Move) -> Any:
    return value


@_moved.register
def _(path: Path, move: Move) -> Path:
    return move(path)


@_moved.register
def _(base: Base, move: Move) -> Base:
    return replace(base, path=move(base.path))


@_moved.register
def _(adapters: AdapterSet, move: Move) -> AdapterSet:
    return replace(adapters, folder=move(adapters.folder))


@_moved.register
def _(compared: Compared, move: Move) -> Compared:
    return Compared(
        _moved(compared.child, move),
        _moved(compared.parent, move),
        {gen_id: _moved(adapters, move) for gen_id, adapters in compared.learned.items()},
    )


@_moved.register
def _(plan: HealthPlan, move: Move) -> HealthPlan:
    return replace(plan, child=move(plan.child), parent=move(plan.parent) if plan.parent else None)


@_moved.register
def _(job: TrioJob, move: Move) -> TrioJob:
    def text(path: str) -> str:
        return str(move(Path(path)))

    return replace(
        job,
        train_file=text(job.train_file),
        adapters_dir=text(job.adapters_dir),
        run_dir=text(job.run_dir),
        preference_file=text(job.preference_file) if job.preference_file else None,
        rewards_file=text(job.rewards_file) if job.rewards_file else None,
        delta_file=text(job.delta_file) if job.delta_file else None,
    )


@_moved.register
def _(values: list, move: Move) -> list[Any]:  # type: ignore[type-arg]  # singledispatch knows the bare one
    return [_moved(value, move) for value in values]


@_moved.register
def _(values: tuple, move: Move) -> tuple[Any, ...]:  # type: ignore[type-arg]
    return tuple(_moved(value, move) for value in values)


def from_to(root: Path, other: Path) -> Move:
    """The move of what lies under one folder to the same place under another.

    Raises:
        ValueError: by the move, of a path that lies elsewhere.
    """
    return lambda path: other / path.relative_to(root)
