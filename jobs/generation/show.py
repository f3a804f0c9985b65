"""What is printed: tables of generations, scores, data sets and states."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table

from jobs.generation.gates import examples, findings, gates_of, gates_table, legend, plain_gates
from ledger.home import Home
from ledger.records import EvalRecord, GenerationRow
from ledger.rules.ages import age_name
from ledger.rules.gates import GateSettings
from ledger.store import Ledger, Stores


def print_generation(home: Home, gen_id: int, out: Console, as_json: bool = False) -> None:
    """One generation: each gate with child and parent side by side, and every other score with its 95 % interval."""
    with Stores.open(home) as stores:
        rows, evals = stores.ledger.generation(gen_id), stores.ledger.evals(gen_id)
        trained = stores.journal.step_result(rows[0].run_id, "train")
        idle, smaller = held_back(trained), micro_batches(trained)
        request = next((run.request for run in stores.journal.runs() if run.run_id == rows[0].run_id), None)
    gated = gates_of(rows, evals, _gates_then(request))
    if as_json:
        content = {
            "rows": [_plain(row) for row in rows],
            "evals": [_plain(score) for score in evals],
            "gates": plain_gates(gated),
        }
        out.print_json(json.dumps(content, ensure_ascii=False))
        return
    first = rows[0]
    parent = "the base" if first.parent_gen is None else f"G{first.parent_gen}"
    out.print(f"[bold]G{gen_id}[/] from {parent}: {_verdict(first)}  {first.reason}")
    out.print(
        f"{steps_text(rows)} steps, lr {lr_text(rows)}, {first.walltime_min:.2f} min, engine {first.engine}, "
        f"{first.dtype} on {first.device} with {first.threads} threads, delta {first.data_delta_sha[:12]}"
    )
    if gated:
        out.print(gates_table(gated, [row.role for row in rows]))
        for line in (*legend(gated), *examples(evals), *findings(evals)):
            out.print(line, markup=False, soft_wrap=True)
    table = Table("score", *(row.role for row in rows), title=None)
    shown = {one.gate for one in gated}
    for name in dict.fromkeys(score.eval for score in evals if score.eval not in shown):
        by_role = {score.role: score for score in evals if score.eval == name}
        table.add_row(name, *(_score(by_role.get(row.role)) for row in rows))
    table.add_row("loss (not judged)", *(f"{row.loss_start:.3f} → {row.loss_end:.3f}" for row in rows))
    # Before, the file held a set of which the steps took a part.
    counted = "rows trained" if first.collected_sha else "examples in the file"
    table.add_row(f"{counted}, of these replayed", *(f"{row.n_delta + row.n_replay}, {row.n_replay}" for row in rows))
    if idle:
        table.add_row("steps that moved nothing", *(f"{idle.get(row.role, 0)} of {row.steps}" for row in rows))
    if smaller:
        table.add_row("micro-batches, as memory asked", *(smaller.get(row.role, "") for row in rows))
    table.add_row("adapter", *(row.child_sha[:12] for row in rows))
    if any(row.alpha != 1.0 for row in rows):
        table.add_row("parent + α (child − parent)", *(f"α = {row.alpha:g}" for row in rows))
    out.print(table)


def _gates_then(request: Mapping[str, Any] | None) -> GateSettings:
    """The bounds that a generation was judged with, by its recorded request."""
    from cluster.request import GenerationRequest

    return GenerationRequest.from_record(request).settings.gates if request else GateSettings()


def held_back(trained: Mapping[str, Any] | None) -> dict[str, int]:
    """Planned steps by role that did not change the adapter, as far as the journal knows of any."""
    outcomes = {role: found.get("outcome", {}) for role, found in (trained or {}).get("roles", {}).items()}
    counts = {role: sum(own.get("skipped_updates", {}).values()) for role, own in outcomes.items()}
    return {role: count for role, count in counts.items() if count}


def print_generations(home: Home, out: Console, as_json: bool = False) -> None:
    """Every generation of the current lineage, one line each."""
    with Ledger.open(home) as ledger:
        rows, head = ledger.rows(), ledger.head()
    generations = [list(of_one) for _, of_one in groupby(rows, key=lambda row: row.gen_id)]
    if as_json:
        out.print_json(json.dumps([[_plain(row) for row in generation] for generation in generations]))
        return
    out.print(generations_table(generations, head))


def generations_table(generations: Sequence[Sequence[GenerationRow]], head: int | None) -> Table:
    """Scores as creative / logical / dialectical."""
    table = Table("gen", "parent", "verdict", "recall", "generalization", "style drift", "steps", "minutes")
    for rows in generations:
        first = rows[0]
        name = f"G{first.gen_id}" + (" ← head" if first.gen_id == head else "")
        parent = "base" if first.parent_gen is None else f"G{first.parent_gen}"
        alphas = [f"{row.alpha:g}" for row in rows]
        alpha = "" if set(alphas) == {"1"} else f" α={_once_or_each(alphas)}"
        table.add_row(
            name, parent, _verdict(first) + alpha,
            _three(row.eval_recall for row in rows),
            _three(row.eval_generalization for row in rows),
            _three(row.eval_style_drift for row in rows),
            steps_text(rows), f"{max(row.walltime_min for row in rows):.1f}",
        )  # fmt: skip
    return table


def steps_text(rows: Sequence[GenerationRow]) -> str:
    """One number where the roles took equally many steps, else one for each."""
    return _once_or_each([str(row.steps) for row in rows])


def lr_text(rows: Sequence[GenerationRow]) -> str:
    """The peak learning rate where the roles had the same, else one for each."""
    return _once_or_each([f"{row.lr:g}" for row in rows])


def _once_or_each(texts: Sequence[str]) -> str:
    return " / ".join(texts if len(set(texts)) > 1 else texts[:1])


def print_status(
    home: Home,
    running: dict[str, Any] | None,
    dashboard: str,
    grown: dict[str, Any],
    out: Console,
    as_json: bool,
) -> None:
    """Head, age, karma and cadence (`jobs.status.growth`), the last generation's gates, and what runs now."""
    with Stores.open(home) as stores:
        ledger = stores.ledger
        lineage, head, age = ledger.current_lineage(), ledger.head(), ledger.age()
        last, stop, open_run = ledger.last_judged(), ledger.stop_of(), stores.journal.open_run(lineage)
    waiting = list(home.inbox_dir.glob("*.parquet"))
    if as_json:
        content = {
            "home": str(home.root), "lineage": lineage, "head": head, "age": age,
            "age_name": None if age is None else age_name(age),
            "last": [_plain(row) for row in last], "stopped": stop.reason if stop else None,
            "open_run": open_run.run_id if open_run else None, "running": running, "dashboard": dashboard,
            "inbox_files": len(waiting), **grown,
        }  # fmt: skip
        out.print_json(json.dumps(content))
        return
    out.print(f"home {home.root}, lineage {lineage}", soft_wrap=True)
    out.print("head: none yet" if head is None else f"head: [bold]G{head}[/], age {age} ({age_name(age or 0)})")
    for line in _growth_lines(grown):
        out.print(line, soft_wrap=True)
    if last:
        out.print(f"last judged: G{last[0].gen_id} {_verdict(last[0])}: {last[0].reason}")
        out.print(generations_table([last], head))
    if stop:
        out.print(f"[red]{stop.reason}[/]")
    if running and running["running"]:
        at = running["progress"]
        where = f", step {at['step']}/{at['steps']}, {at['seconds_left']:.0f} s left" if at else ""
        out.print(f"running: G{running['gen_id']} ({running['step']}{where})")
    elif open_run:
        out.print(f"interrupted: G{open_run.gen_id} at {open_run.next_step}; `luna generation run` resumes it")
    else:
        out.print("running: nothing")
    out.print(f"inbox: {len(waiting)} files" + (f"; dashboard {dashboard}" if dashboard else ""))


def _growth_lines(grown: dict[str, Any]) -> list[str]:
    karma, new = grown["karma"], grown["cadence"]
    due = "enough to learn from" if new["due"] else "not yet enough to learn from"
    return [
        f"karma: {karma['earned']:.1f} of {karma['threshold']} ({karma['progress']:.0%})"
        + (": the next age is due" if karma["due"] else ""),
        f"new since: {new['conversation_pairs']} of {new['conversation_pairs_needed']} conversation pairs, "
        f"{new['preference_pairs']} of {new['preference_pairs_needed']} preference pairs: {due}"
        + (", quiet hours now" if new["quiet"] else ""),
    ]


def family_table(evals: Sequence[EvalRecord]) -> Table:
    """Exact accuracy on held-out AGL puzzles by family: the logical role beside the untouched base."""
    ours, base = (_by_category(evals, name) for name in ("agl_accuracy", "base_agl_accuracy"))
    table = Table("family", "base", "logical")
    for family, (passed, n) in ours.items():
        before = base.get(family)
        table.add_row(
            family.removeprefix("agl/"), "" if before is None else f"{before[0]}/{before[1]}", f"{passed}/{n}"
        )
    return table


def _by_category(evals: Sequence[EvalRecord], name: str) -> dict[str, tuple[int, int]]:
    for score in evals:
        if score.eval == name and score.role == "logical":
            return {key: (marks[0], marks[1]) for key, marks in score.details["by_category"].items()}
    return {}


def micro_batches(trained: Mapping[str, Any] | None) -> dict[str, str]:
    """By role in how many parts a step was cut, and from which on, where memory asked for more than the settings."""
    raised = {role: found.get("micro_batches", ()) for role, found in (trained or {}).get("roles", {}).items()}
    return {
        role: ", ".join(f"{parts} from step {first + 1}" for first, parts in own) for role, own in raised.items() if own
    }


def _score(score: EvalRecord | None) -> str:
    if score is None:
        return ""
    if score.n == 0:
        return f"{score.value:.3f} by definition"
    return f"{score.value:.3f} [{score.low:.2f}, {score.high:.2f}] n={score.n}"


def _three(values: Any) -> str:
    return " / ".join("–" if value is None else f"{value:.2f}" for value in values)


def _verdict(row: GenerationRow) -> str:
    return f"[green]{row.verdict}[/]" if row.verdict == "accepted" else f"[red]{row.verdict}[/]"


def _plain(record: GenerationRow | EvalRecord) -> dict[str, Any]:
    return record.model_dump(mode="json")
