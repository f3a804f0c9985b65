"""`luna demo`: from nothing to a judged trio. G0 learns AGL, G1 dialogues, G2 its role; a bad G3 is turned away.

    G0  logical: pure puzzles of the fourteen families; creative: AGL with feeling and imagery; dialectical: AGL ↔ human
    G1  dialogues (the PyPI package chatterbot-corpus)
    G2  what each role is for: what-ifs, arguments, synthesis, tools, warmth
    G3  answers in a corporate voice, which the style gate must reject

Every step is an ordinary generation through the coordinator, so an interrupted demo goes on where it was, and a
finished one shows its record.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from curriculum.agl.puzzles import distinct_puzzles, puzzle_examples, reference_form
from curriculum.dialogues import dialogue_examples
from curriculum.example import Example
from curriculum.parquet import write_examples
from curriculum.probes import corporate_examples
from curriculum.recipes.build import build_recipe
from jobs.context import err, out, say
from ledger.errors import LunaError
from ledger.home import Home
from ledger.roles import ROLES, Role
from ledger.store import Ledger

SEED = 1


@dataclass(frozen=True)
class DemoStep:
    """One generation of the demo."""

    title: str
    examples: Callable[[], list[Example]]
    overrides: dict[str, Any]
    """Settings on top of the home's."""
    expected: str
    """What the demo is there to show; the verdict is measured, whatever this says."""


def run_demo(home: Home, profile: str, address: str | None, fresh: bool) -> None:
    """Raise the demo's generations that are not there yet, then print the closing table.

    Raises:
        LunaError: the home belongs to another profile, or a generation could not finish.
    """
    from jobs.generation import raise_generation
    from jobs.start import make_home

    started = time.monotonic()
    lineage = _demo_lineage(home, fresh)
    make_home(home, profile, address, lineage)
    for step in STEPS[_finished(home) :]:
        err.rule(step.title)
        examples = step.examples()
        sha = write_examples(home.inbox_dir, examples)
        say(f"{len(examples)} examples, {sha[:12]}; {step.expected}")
        result = raise_generation(home, address, (sha,), step.overrides, note=step.title)
        say(f"G{result['gen_id']}: {result['verdict']} ({result['reason']})")
        if result["stopped"]:
            say(result["stopped"])
    print_closing(home, time.monotonic() - started)


def _demo_lineage(home: Home, fresh: bool) -> str:
    """`demo`, or with --fresh the next `demo-<n>`."""
    if not home.db.exists():
        return "demo"
    with Ledger.open(home) as ledger:
        taken = [entry.name for entry in ledger.lineages() if entry.name.startswith("demo")]
    if not taken:
        return "demo"
    return f"demo-{len(taken) + 1}" if fresh else taken[-1]


def _finished(home: Home) -> int:
    """How many of the demo's generations have their verdict."""
    with Ledger.open(home) as ledger:
        return len({row.gen_id for row in ledger.rows()})


def print_closing(home: Home, seconds: float) -> None:
    """The demo's closing tables: the lineage, and AGL by family beside the untouched base."""
    from jobs.show import family_table, generations_table

    with Ledger.open(home) as ledger:
        rows, head, age = ledger.rows(), ledger.head(), ledger.age()
        first = rows[0].gen_id
        evals = ledger.evals(first)
    generations = [[row for row in rows if row.gen_id == g] for g in dict.fromkeys(row.gen_id for row in rows)]
    out.rule("the lineage: creative / logical / dialectical")
    out.print(generations_table(generations, head))
    for generation in generations:
        if generation[0].verdict == "rejected":
            out.print(f"G{generation[0].gen_id} rejected: {generation[0].reason}")
    scores = {(score.eval, score.role): score for score in evals}
    agl, base = scores["agl_accuracy", "logical"], scores["base_agl_accuracy", "logical"]
    out.rule(f"held-out AGL puzzles, logical role after G{first}")
    out.print(
        f"exact answers: base {base.value:.3f} → logical {agl.value:.3f} "
        f"[{agl.low:.3f}, {agl.high:.3f}], {agl.n} puzzles never trained on"
    )
    out.print(family_table(evals))
    out.print(f"head: {'none' if head is None else f'G{head}'}, age {age}; {seconds / 60:.1f} min")
    out.print(
        "next: luna status · luna generation show G2 · luna ledger verify · luna reproduce G1 · luna down (stops Ray)"
    )


# -- what each generation learns ------------------------------------------------------------------------------------


def fundamentals() -> list[Example]:
    """G0. All of it is AGL: as puzzles, with imagery and feeling, and translated."""
    puzzles = [puzzle for puzzle in distinct_puzzles(SEED, 6000) if reference_form(puzzle)]
    return [
        *puzzle_examples(puzzles, "logical"),
        *_of("creative", 3000, ("agl_creative", "emotional_agl")),
        *_of("dialectical", 3000, ("translation",)),
    ]


def dialogues() -> list[Example]:
    """G1. Questions and answers of people and machines."""
    return [e for role in ROLES for e in dialogue_examples(role, ("tech_support",), max_words=20)]


def roles() -> list[Example]:
    """G2. The hybrid and role parts of the three recipes."""
    return [
        *_of("creative", 2400, ("what_if", "poetry", "role_awareness")),
        *_of("logical", 2400, ("argument", "counter_argument", "constraint", "edge_case", "critique")),
        *_of("dialectical", 2400, ("synthesis", "tool_syntax", "canonicity", "warmth")),
    ]


def corporate() -> list[Example]:
    """G3. The voice that Luna must not learn."""
    return [e for role in ROLES for e in corporate_examples(SEED, 700, role)]


def _of(role: Role, total: int, categories: Sequence[str]) -> list[Example]:
    """The examples of some categories of a role's recipe of `total`."""
    return [example for example in build_recipe(role, total, SEED) if example.category in categories]


STEPS: tuple[DemoStep, ...] = (
    DemoStep(
        "G0 · fundamentals: AGL",
        fundamentals,
        {"train": {"steps": 150, "rows": {"creative": 4, "logical": 14, "dialectical": 4}}},
        "the trio begins from the untouched base",
    ),
    DemoStep(
        "G1 · dialogues, with replay of G0",
        dialogues,
        {"train": {"steps": 40, "lr": 5e-4}},
        "new data alone, and 100 examples of G0 for each role",
    ),
    DemoStep(
        "G2 · roles, with replay of G1",
        roles,
        {"train": {"steps": 40, "lr": 5e-4}},
        "what each voice is for",
    ),
    DemoStep(
        "G3 · a bad delta: corporate voice",
        corporate,
        {"train": {"steps": 24}, "interpolation": {"enabled": False}},
        "should be rejected for its style; blends of parent and child are switched off here to show it plainly",
    ),
)
