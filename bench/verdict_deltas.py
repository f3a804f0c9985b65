"""Real deltas, judged with the shipped defaults: each is raised as G1 from the same G0.

G0 is raised once, on `luna curriculum build recipe`, in `<work>/g0`; every delta has a copy of that home. What is
finished stays; the same command goes on with the rest.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.courses.learning import cluster, judged_generations
from bench.deltas import DELTAS, Delta
from bench.progress import say
from bench.report import keep
from cluster.ray_head import Rig
from cluster.settings import settings_of
from curriculum.example import Example
from curriculum.parquet import write_examples
from curriculum.transcript import fit
from jobs.curriculum import build_into_inbox
from jobs.generation.engine import generation_rows, open_generation_engine
from jobs.generation.run import raise_generation
from jobs.home import make_home
from ledger.errors import LunaError
from ledger.home import Home
from ledger.records import EvalRecord, GenerationRow
from ledger.roles import ROLES, Role
from ledger.store import Ledger
from trainers.models.adapter_set import AdapterSet

G0_SEED = 1
ANSWER_TOKENS = 40
"""Longest answer of the parent that becomes data."""


def measure_deltas(work: Path, only: Sequence[str], profile: str) -> Path:
    """Raise every delta that has no verdict yet, then write the table of all that have one; returns its path.

    Raises:
        LunaError: no delta has such a name, G0 was rejected, or a generation did not finish.
    """
    if unknown := set(only) - {delta.name for delta in DELTAS}:
        raise LunaError(
            f"there is no delta {', '.join(sorted(unknown))}; there are {', '.join(d.name for d in DELTAS)}."
        )
    chosen = [delta for delta in DELTAS if not only or delta.name in only]
    waiting = [delta for delta in chosen if not _verdict(_home_of(work, delta))]
    if waiting:
        with cluster() as rig:
            first = raise_first(work, profile, rig)
            for delta in waiting:
                raise_delta(first, _home_of(work, delta), delta, rig)
    return keep_table(work)


def raise_first(work: Path, profile: str, rig: Rig) -> Home:
    """The home of G0, which is raised if it is not there yet."""
    home = Home((work / "g0").resolve())
    make_home(home, profile, rig.address)
    if not judged_generations(home):
        say("G0: what `luna curriculum build recipe` builds")
        sha = build_into_inbox(home, "recipe", None, G0_SEED)
        raise_generation(home, rig.address, (sha,), note="G0")
        (home.inbox_dir / f"{sha}.parquet").unlink(missing_ok=True)
    rows = judged_generations(home)[0]
    if rows[0].verdict == "rejected":
        raise LunaError(f"G0 in {home.root} was rejected ({rows[0].reason}); there is nothing to build on.")
    return home


def raise_delta(first: Home, home: Home, delta: Delta, rig: Rig) -> None:
    """One delta from a copy of G0's home; a run that was interrupted goes on."""
    if not home.root.exists():
        _copy_home(first, home)
    examples = delta.make(lambda role, asked: parents_answers(first, role, asked))
    say(f"{delta.name} ({'honest' if delta.honest else 'bad'}): {len(examples)} examples, {delta.what}")
    sha = write_examples(home.inbox_dir, examples)
    ended = raise_generation(home, rig.address, (sha,), note=delta.name)
    say(f"{delta.name}: {ended['verdict']} ({ended['reason']})")


def _copy_home(source: Home, target: Home) -> None:
    """Another home with the same ledger; weights, which never change, are shared."""
    part = target.root.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    # Locks and the index of SQLite's log belong to the process that has the other home open.
    shutil.copytree(source.root, part, copy_function=_link_weights, ignore=shutil.ignore_patterns("*-shm", "*.lock"))
    part.rename(target.root)


def parents_answers(home: Home, role: Role, asked: Sequence[Example]) -> list[str]:
    """The head's greedy answers; empty where one did not end in time."""
    rows, lengths = generation_rows(home, None), settings_of(home).text
    engine = open_generation_engine(home, rows[0])
    generator = engine.generator(AdapterSet(home.adapters_dir, {row.role: row.child_sha for row in rows}))
    prompts = [fit(role, one.input, one.context, lengths.room, generator.count).prompt for one in asked]
    return [one.text if one.ended else "" for one in generator.generate(role, prompts, ANSWER_TOKENS)]


def keep_table(work: Path) -> Path:
    """The table of every delta that has its verdict."""
    rows, right = [], {True: [0, 0], False: [0, 0]}
    for delta in DELTAS:
        found = _verdict(_home_of(work, delta))
        if found is None:
            continue
        generation, evals = found
        first = generation[0]
        right[delta.honest][0] += (first.verdict == "accepted") == delta.honest
        right[delta.honest][1] += 1
        alphas = " / ".join(f"{row.alpha:g}" for row in generation)
        scores = [_three(evals, name) for name in ("recall", "generalization", "style_drift", "bound")]
        kind = "honest" if delta.honest else "bad"
        rows.append([delta.name, kind, delta.what, first.verdict, first.reason, *scores, _learned(evals), alphas])
    accepted, rejected = (f"{right[kind][0]} of {right[kind][1]}" for kind in (True, False))
    notes = [
        f"honest deltas accepted: {accepted}; bad ones rejected: {rejected}",
        "each as G1 from the same G0 of the shipped recipe, with the shipped settings and nothing else",
        "scores: creative / logical / dialectical",
        "gain: open items, nats a token against the parent, with its lower bound",
        "won: closed items that the child alone had right, and those that the parent alone had right",
    ]
    header = ["delta", "kind", "what", "verdict", "reason", "recall", "generalization", "style drift", "bound"]
    return keep("verdicts", "Verdicts on real deltas", [*header, "gain; won", "alpha"], rows, notes)


def _home_of(work: Path, delta: Delta) -> Home:
    return Home((work / delta.name).resolve())


def _verdict(home: Home) -> tuple[list[GenerationRow], list[EvalRecord]] | None:
    """A delta's rows and scores, once it is judged: the second generation of its home."""
    judged = judged_generations(home)
    if len(judged) < 2:
        return None
    with Ledger.open(home) as ledger:
        return judged[1], ledger.evals(judged[1][0].gen_id)


def _three(evals: Sequence[EvalRecord], name: str) -> str:
    by_role = {score.role: score for score in evals if score.eval == name}
    return " / ".join(f"{by_role[role].value:.2f}" if role in by_role else "–" for role in ROLES)


def _learned(evals: Sequence[EvalRecord]) -> str:
    """What the roles gained on their new items, from the details of `generalization`."""
    details: dict[Role, Mapping[str, Mapping[str, float]]] = {
        score.role: score.details for score in evals if score.eval == "generalization"
    }
    cells = []
    for role in ROLES:
        parts, own = [], details.get(role, {})
        if (open_ := own.get("open")) and open_.get("n"):
            parts.append(f"{open_['gain']:+.2f} ({open_['low']:+.2f})")
        if (closed := own.get("closed")) and closed.get("n"):
            parts.append(f"{closed['won']}:{closed['lost']}")
        cells.append(" ".join(parts) or "–")
    return " / ".join(cells)


def _link_weights(source: str, target: str) -> str:
    if source.endswith(".safetensors"):
        Path(target).hardlink_to(source)
        return target
    return str(shutil.copy2(source, target))
