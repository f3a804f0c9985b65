"""Runs that meet faults: processes killed, nodes lost, cables cut, disks full or read-only. Each goes on or says why.

    python -m bench.chaos                     200 faults of seed 1; goes on where an earlier call was cut off
    python -m bench.chaos --faults 20 --seed 7 --only "full disk"

Each fault meets a real run of the profile `tiny` at a moment that the seed draws. Then the run is asked to go on until
it has its verdict or is given up, and its home is examined. The bar: no accepted generation lost, no entry of the
ledger twice, `luna ledger verify` clean, and each run ends or says why in a sentence. Exit status 1 where it is missed.

Cut cables and disks take root on Linux; elsewhere the other faults are drawn in their place.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import chaos_disk, chaos_rig
from bench.chaos_faults import (
    HEADER,
    KINDS,
    ON_DISK,
    Fault,
    Kind,
    Outcome,
    draw,
    known_outcomes,
    note_outcome,
    rows_of,
)
from bench.chaos_home import new_home
from bench.own_ray import end_in_order
from bench.progress import say
from bench.report import keep

FAULTS = 200

DISKS = (
    "the coordinator, its stores and a real training in one process without Ray, on a tmpfs that ends after so many "
    "pages, or on an ext4 that the kernel has made read-only under open files"
)
RIG = (
    "one warm cluster of two nodes with a simulated GPU each; the second node lives in a network namespace, and its "
    "cable is taken from a bridge"
)

Note = Callable[[Outcome], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=FAULTS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=KINDS, nargs="*", default=list(KINDS), help="draw among these")
    parser.add_argument("--out", type=Path, default=Path("home/chaos"), help="outcomes so far, and homes")
    parser.add_argument("--no-table", action="store_true", help="leave bench/results/chaos.md as it is")
    asked = parser.parse_args()
    end_in_order()  # so that disks are unmounted
    possible = [kind for kind in _possible() if kind in asked.only]
    faults = draw(asked.faults, asked.seed, possible)
    name = "-".join(str(part) for part in (asked.faults, asked.seed, *(KINDS.index(kind) for kind in possible)))
    outcomes = meet_all(faults, asked.out, asked.out / f"{name}.jsonl")
    if not asked.no_table:
        table(outcomes, asked.seed, [kind for kind in KINDS if kind not in possible])
    sys.exit(any(one.problems for one in outcomes))


def _possible() -> tuple[Kind, ...]:
    """The faults that this machine lets us make."""
    with chaos_rig.cable() as has_cable:
        of_rig = [kind for kind in KINDS if kind not in ON_DISK and (has_cable or kind != "network cut")]
    return (*chaos_disk.possible(), *of_rig)


def meet_all(faults: Sequence[Fault], folder: Path, file: Path) -> list[Outcome]:
    """The outcomes of all faults, of which an earlier call may have noted some in the file."""
    known = {one.number: one for one in known_outcomes(file)}
    left = [fault for fault in faults if fault.number not in known]
    say(f"{len(faults)} faults, {len(known)} of them known")
    folder.mkdir(parents=True, exist_ok=True)

    def note(outcome: Outcome) -> None:
        known[outcome.number] = outcome
        note_outcome(file, outcome)
        how = "; ".join(outcome.problems) or f"{outcome.ended}, asked again {outcome.resumes} times"
        say(f"{len(known)}/{len(faults)} {outcome.kind} in {outcome.hit or 'nothing'}: {how} ({outcome.seconds:.1f} s)")

    _meet_on_disk([fault for fault in left if fault.kind in ON_DISK], note)
    _meet_on_rig([fault for fault in left if fault.kind not in ON_DISK], folder, note)
    return [known[fault.number] for fault in faults]


def _meet_on_disk(faults: Sequence[Fault], note: Note) -> None:
    if faults:
        with tempfile.TemporaryDirectory(prefix="luna-chaos-") as folder:
            bed = chaos_disk.make_bed(Path(folder))
            for fault in faults:
                note(chaos_disk.meet(bed, fault))


def _meet_on_rig(faults: Sequence[Fault], folder: Path, note: Note) -> None:
    if faults:
        with chaos_rig.rig() as rig:
            home = new_home(Path(tempfile.mkdtemp(prefix="rig-", dir=folder.resolve())) / "home")
            for fault in faults:
                note(chaos_rig.meet(rig, home, fault))


def table(outcomes: Sequence[Outcome], seed: int, impossible: Sequence[Kind]) -> None:
    """Keep it as `bench/results/chaos.md`."""
    lost, twice, unclean, silent = (
        sum(map(len, found))
        for found in zip(*((one.lost, one.twice, one.unclean, one.silent) for one in outcomes), strict=True)
    )
    met = sum(bool(one.hit) for one in outcomes)
    problems = [one for one in outcomes if one.problems]
    notes = [
        f"seed {seed}: {len(outcomes)} faults, of which {met} met a run at work; a tenth of them is in `make test`",
        f"disks: {DISKS}",
        f"the others: {RIG}",
        f"{lost} accepted generations lost, {twice} entries twice, {unclean} complaints of `luna ledger verify`",
        f"{silent} times a run neither ended nor said why",
        f"the bar is none of these: {'NOT met' if problems else 'met'}",
        *([f"not possible on this machine: {', '.join(impossible)}"] if impossible else []),
        *(f"fault {one.number}, {one.kind}: {'; '.join(one.problems)}" for one in problems),
    ]
    keep("chaos", "Runs that meet faults", HEADER, rows_of(outcomes), notes)


if __name__ == "__main__":
    main()
