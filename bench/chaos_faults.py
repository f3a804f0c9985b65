"""Which faults there are, which a seed draws, and what came of each. Pure but for the file of outcomes."""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from ledger.journal import STEPS, Step

Kind = Literal[
    "full disk", "read-only disk", "worker killed", "coordinator killed", "driver killed", "raylet killed",
    "network cut",
]  # fmt: skip
KINDS: tuple[Kind, ...] = get_args(Kind)
ON_DISK: tuple[Kind, ...] = ("full disk", "read-only disk")
"""Those that meet a run in one process without Ray."""

SHARES: dict[Kind, int] = {
    "full disk": 60, "read-only disk": 50, "worker killed": 30, "coordinator killed": 20, "driver killed": 10,
    "raylet killed": 15, "network cut": 15,
}  # fmt: skip
"""How many of 200. A fault that takes a minute is drawn less often than one that takes seconds."""

_BEFORE_ADMISSION: dict[Kind, float] = {"driver killed": 0.5, "full disk": 1 / 7, "read-only disk": 1 / 7}
"""How often a fault comes before its run is admitted."""

MOST_TRIES = 4
"""A fault that comes too late meets no run; it is tried again at an earlier moment."""

_WITHIN_A_STEP_S = 1.0
_COMMAND_S = 4.0
"""How long after its start a driver is killed at the latest, where it is to be killed before its run is admitted."""
_CUT_S = (1.0, 3.0, 8.0, 30.0)
"""Seconds of a cut: some are over before the node counts as dead, some are not."""
_BACK_AFTER_S = (0.0, 5.0, 15.0)
"""Seconds until a node whose raylet was killed comes back."""


@dataclass(frozen=True)
class Fault:
    """One fault, drawn before anything runs."""

    number: int
    kind: Kind
    step: Step | None
    """When: once this step of the run has begun; None: before its run is admitted."""
    delay_s: float
    """So long after that, but on a disk."""
    share: float
    """On a disk: when the step has written this share of what it writes undisturbed. Of several workers: which one."""
    lasts_s: float
    """Until a cut is over, or a node is back."""
    stays: bool
    """Whether the same process goes on when a full disk has room again, or a new one."""

    def earlier(self) -> Fault:
        """The same at an earlier moment: this one came when the run had ended."""
        place = -1 if self.step is None else STEPS.index(self.step) - 1
        step = None if place < 0 and self.kind in _BEFORE_ADMISSION else STEPS[max(0, place)]
        return replace(self, step=step, share=self.share / 2, delay_s=self.delay_s / 4)


@dataclass(frozen=True)
class Outcome:
    """What came of one fault."""

    number: int
    kind: Kind
    hit: str
    """The step of the run that was in work; empty where the run had ended before, so that nothing was met."""
    ended: str
    """The run's verdict, or `failed` where it was given up."""
    said: tuple[str, ...]
    """Every reason that was given for not going on."""
    resumes: int
    """How often it was asked to go on."""
    seconds: float
    """From the fault to the end of the run."""
    lost: tuple[str, ...]
    """Accepted generations that are no longer there."""
    twice: tuple[str, ...]
    """Entries of the ledger that are there more than once."""
    unclean: tuple[str, ...]
    """What `luna ledger verify` names."""
    silent: tuple[str, ...]
    """Where no sentence said why a run stood still, or it never ended."""

    @property
    def problems(self) -> tuple[str, ...]:
        return (*self.lost, *self.twice, *self.unclean, *self.silent)


def counts(total: int, possible: Collection[Kind]) -> dict[Kind, int]:
    """How many faults of each kind, by their shares, the largest remainders rounded up."""
    whole = sum(SHARES[kind] for kind in KINDS if kind in possible)
    exact = {kind: total * SHARES[kind] / whole for kind in KINDS if kind in possible}
    found = {kind: int(value) for kind, value in exact.items()}
    by_rest = sorted(exact, key=lambda kind: (found[kind] - exact[kind], KINDS.index(kind)))
    for kind in by_rest[: total - sum(found.values())]:
        found[kind] += 1
    return found


def draw(total: int, seed: int, possible: Collection[Kind]) -> list[Fault]:
    """The faults of a seed, kind by kind; each has a stream of its own, so that leaving some out changes no other."""
    kinds = [kind for kind, count in counts(total, possible).items() for _ in range(count)]
    return [_fault(number, kind, random.Random(f"chaos {seed} {number}")) for number, kind in enumerate(kinds, 1)]


def _fault(number: int, kind: Kind, stream: random.Random) -> Fault:
    step = stream.choice(STEPS)
    before_admission = stream.random() < _BEFORE_ADMISSION.get(kind, 0.0)
    return Fault(
        number=number,
        kind=kind,
        step=None if before_admission else step,
        delay_s=stream.uniform(0, _COMMAND_S if before_admission else _WITHIN_A_STEP_S),
        share=stream.uniform(0.01, 0.99),
        lasts_s=stream.choice(_CUT_S if kind == "network cut" else _BACK_AFTER_S),
        stays=stream.random() < 0.5,
    )


def known_outcomes(file: Path) -> list[Outcome]:
    """Those that an earlier call has written, without a last line that was cut off."""
    found = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        try:
            plain = json.loads(line)
        except ValueError:
            continue
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in plain.items()}
        found.append(Outcome(**values))
    return found


def note_outcome(file: Path, outcome: Outcome) -> None:
    """Add one to the file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(asdict(outcome), ensure_ascii=False) + "\n")


def rows_of(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """The table: a row for each kind, and one for all."""
    of_kind = [(kind, [one for one in outcomes if one.kind == kind]) for kind in KINDS]
    return [_row(name, own) for name, own in (*of_kind, ("all", list(outcomes))) if own]


HEADER = (
    "fault", "faults", "met in", "went on by itself", "asked again", "verdicts", "given up with a reason",
    "accepted lost", "entries twice", "verify not clean", "no sentence", "s to the end, median", "longest",
)  # fmt: skip


def _row(name: str, own: Sequence[Outcome]) -> list[str]:
    seconds = sorted(one.seconds for one in own)
    hits = [f"{hit} {n}" for hit in ("admission", *STEPS) if (n := sum(one.hit == hit for one in own))]
    missed = sum(not one.hit for one in own)
    numbers = [
        sum(not one.resumes for one in own),
        sum(one.resumes > 0 for one in own),
        sum(one.ended in ("accepted", "rejected") for one in own),
        sum(one.ended == "failed" for one in own),
        *(sum(len(found) for found in column) for column in (
            [one.lost for one in own], [one.twice for one in own], [one.unclean for one in own],
            [one.silent for one in own],
        )),
    ]  # fmt: skip
    met = ", ".join([*hits, *([f"nothing {missed}"] if missed else [])])
    middle, longest = seconds[len(seconds) // 2], seconds[-1]
    return [name, str(len(own)), met, *map(str, numbers), f"{middle:.1f}", f"{longest:.1f}"]
