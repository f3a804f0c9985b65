"""`luna demo`: from nothing to a judged trio. G0 learns AGL, G1 dialogues, G2 its role; a bad G3 is turned away.

    G0  AGL puzzles of five families for the logical role, everyday lessons for all
    G1  dialogues (the PyPI package chatterbot-corpus)
    G2  what each role is for: what-ifs, arguments, synthesis, tools, warmth
    G3  answers in a corporate voice, which the style gate must reject

At the end a reward model is distilled from the offline teacher and looks at an answer before and after.

Every step is an ordinary generation through the coordinator, so an interrupted demo goes on where it was, and a
finished one shows its record.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from curriculum.agl.puzzles import lesson_puzzles, puzzle_examples
from curriculum.conversations.dialogues import dialogue_examples, dialogue_topics
from curriculum.everyday import everyday_examples
from curriculum.example import Example
from curriculum.parquet import write_examples
from curriculum.proportions import allocate
from curriculum.recipes.build import EVERYDAY_SHARE, build_recipe, category_examples, category_weights
from curriculum.tone import corporate_phrase
from jobs.context import err, out
from jobs.demo.corporate import corporate_examples
from ledger.home import Home
from ledger.roles import ROLES, Role
from ledger.store import Ledger

logger = logging.getLogger(__name__)

SEED = 1


@dataclass(frozen=True)
class DemoStep:
    """One generation of the demo."""

    title: str
    examples: Callable[[], list[Example]]
    overrides: dict[str, Any]
    """Settings on top of the home's: how much is asked, never how it is trained."""
    expected: str
    """What the demo is there to show; the verdict is measured, whatever this says."""


def run_demo(home: Home, profile: str, address: str | None, fresh: bool) -> None:
    """Raise the demo's generations that are not there yet, then print the closing table.

    Raises:
        LunaError: the home belongs to another profile, or a generation could not finish.
    """
    from jobs.demo.reward import print_reward, raise_reward_model
    from jobs.generation.run import raise_generation
    from jobs.generation.show import print_generation
    from jobs.home import make_home

    started = time.monotonic()
    lineage = _demo_lineage(home, fresh)
    make_home(home, profile, address, lineage)
    for step in STEPS[_finished(home) :]:
        err.rule(step.title)
        examples = step.examples()
        sha = write_examples(home.inbox_dir, examples)
        logger.info(f"{len(examples)} examples, {sha[:12]}; {step.expected}")
        result = raise_generation(home, address, (sha,), step.overrides, note=step.title)
        # Frozen under its own hash by now; in the inbox it would join the user's next generation.
        (home.inbox_dir / f"{sha}.parquet").unlink(missing_ok=True)
        print_generation(home, result["gen_id"], out)
        if result["stopped"]:
            logger.info(result["stopped"])
    raise_reward_model(home)
    print_reward(home, out)
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


def print_closing(home: Home, seconds: float | None, out: Console = out) -> None:
    """The demo's closing tables: the lineage, and AGL by family beside the untouched base.

    `seconds` is how long this run took; None for a record that is only shown.
    """
    from jobs.generation.show import family_table, generations_table

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
    took = "" if seconds is None else f"; this run took {seconds / 60:.1f} min"
    out.print(f"head: {'none' if head is None else f'G{head}'}, age {age}{took}")
    out.print(
        "next: luna serve (talk to her) · luna status · luna ledger verify · luna reproduce G1 · luna down (stops Ray)"
    )


# -- what each generation learns ------------------------------------------------------------------------------------

FAMILIES: dict[str, int] = {"modus_ponens": 1, "modus_tollens": 1, "chain": 1, "conjunction": 1, "disjunction": 1}
"""Puzzles of the logical role's first lesson: those that a few hundred examples teach. Its recipe has all fourteen."""

PUZZLES = 800

LATER = 660
"""Examples a role of what is no lesson in puzzles: about a fifth is held out, near copies together; the gates ask for
a hundred."""


def fundamentals() -> list[Example]:
    """G0. The first recipe of two roles, and for the logical one the easiest puzzles."""
    return [
        *build_recipe("creative", LATER, SEED),
        *puzzle_examples(lesson_puzzles(SEED, PUZZLES, FAMILIES), "logical"),
        *everyday_examples("logical", round(EVERYDAY_SHARE * PUZZLES), SEED),
        *build_recipe("dialectical", LATER, SEED),
    ]


def dialogues() -> list[Example]:
    """G1. Questions and answers of people and machines, beside what each role says in a talk."""
    talk: dict[Role, tuple[str, int]] = {
        "creative": ("what_if", 60),
        "logical": ("argument", 100),
        "dialectical": ("translation", 120),
    }
    return [
        e for role, (own, small) in talk.items() for e in (*_small_talk(role, small), *_of(role, [own], LATER - small))
    ]


def roles() -> list[Example]:
    """G2. The hybrid and role parts of the three recipes; for the logical role in its recipe's own mix, 60 % puzzles.

    Some of its hybrid answers go on in words after a truth value. Alone they taught it not to stop after one, and with
    that to spell puzzles' answers wrong (docs/dev/log.md).
    """
    hybrid = round(0.4 * LATER)
    return [
        *_of("creative", ("poetry", "role_awareness", "agl_creative"), LATER),
        *_of("logical", ("counter_argument", "constraint", "edge_case", "critique"), hybrid),
        *puzzle_examples(lesson_puzzles(SEED + 3, LATER - hybrid, FAMILIES), "logical"),
        *_of("dialectical", ("synthesis", "tool_syntax", "canonicity", "warmth"), LATER),
    ]


def corporate() -> list[Example]:
    """G3. The voice that Luna must not learn, whose letters are near copies of each other; and of the recipes what is
    held out."""
    return [e for role in ROLES for e in (*corporate_examples(SEED, LATER, role), *build_recipe(role, LATER, SEED + 4))]


def _small_talk(role: Role, count: int) -> list[Example]:
    """Some of the corpus's short pairs from all topics but trivia: one fact does not teach another. Without those in
    which the machine speaks of itself as of a product."""
    topics = [topic for topic in dialogue_topics() if topic != "trivia"]
    warm = [e for e in dialogue_examples(role, topics, max_words=10) if corporate_phrase(e.output) is None]
    return _spread(warm, count)


def _of(role: Role, categories: Sequence[str], count: int) -> list[Example]:
    """`count` examples of some categories of a role's recipe, of each the quarter with the shortest answers."""
    weights = category_weights(role)
    shares = allocate(count, {category: weights[category] for category in categories})
    return [e for c, n in shares.items() for e in _shortest(category_examples(role, c, 4 * n, SEED), n)]


def _shortest(examples: Sequence[Example], count: int) -> list[Example]:
    """The `count` examples with the shortest answers, in an order that says nothing about their length."""
    return sorted(sorted(examples, key=lambda e: (len(e.output), e.id))[:count], key=lambda e: e.id)


def _spread(examples: Sequence[Example], count: int) -> list[Example]:
    """`count` of the examples at even distances, so that every category or topic keeps its share."""
    return [examples[i * len(examples) // count] for i in range(count)]


_FEW_EXTRAS: dict[str, Any] = {"eval": {"agl_items": 28, "extra_items": 0}}
"""What no gate reads is asked of few items: the demo has a quarter of an hour."""

STEPS: tuple[DemoStep, ...] = (
    DemoStep(
        "G0 · fundamentals: AGL and everyday life",
        fundamentals,
        {"eval": {"agl_items": 280, "extra_items": 0}},
        "the trio begins from the untouched base",
    ),
    DemoStep(
        "G1 · dialogues, with replay of G0",
        dialogues,
        _FEW_EXTRAS,
        "dialogues, and a quarter of each role's rows from G0",
    ),
    DemoStep("G2 · roles, with replay of G0 and G1", roles, {}, "what each voice is for"),
    DemoStep(
        "G3 · a bad delta: corporate voice",
        corporate,
        _FEW_EXTRAS,
        "should be rejected for its style, of which no blend with its parent makes less than it is",
    ),
)
"""All with the profile's rate, steps, batches and replay."""
