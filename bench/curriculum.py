"""How fast the curriculum is made: best of several runs in this process.

    python -m bench.curriculum

The bar: 6,650 puzzles in at most 50 ms.
"""

import time
from collections.abc import Callable

from bench.report import keep
from curriculum.agl.puzzles import REFERENCE_TOTAL, generate_puzzles, puzzle_examples
from curriculum.conversations.dialogues import dialogue_examples
from curriculum.parquet import encode_examples
from curriculum.recipes import build_recipe
from curriculum.replay import draw_replay

REPEATS = 7
"""Runs of each; the best is shown, since other programs can only slow one down."""

PUZZLE_BAR_MS = 50.0


def main() -> None:
    puzzles = generate_puzzles(seed=1)
    recipe = build_recipe("logical", 12_000, seed=1)
    rows: dict[str, tuple[int, float]] = {
        "puzzles (plain tuples)": (REFERENCE_TOTAL, best_ms(lambda: generate_puzzles(seed=1))),
        "puzzles to examples": (len(puzzles), best_ms(lambda: puzzle_examples(puzzles, "logical"))),
        "logical recipe": (12_000, best_ms(lambda: build_recipe("logical", 12_000, seed=1))),
        "creative recipe": (12_000, best_ms(lambda: build_recipe("creative", 12_000, seed=1))),
        "replay draw": (12_000, best_ms(lambda: draw_replay({0: recipe}, 100, "parent"))),
        "parquet bytes": (12_000, best_ms(lambda: encode_examples(recipe))),
        "sample dialogues": (len(dialogue_examples("logical")), best_ms(lambda: dialogue_examples("logical"))),
    }
    met = rows["puzzles (plain tuples)"][1] <= PUZZLE_BAR_MS
    keep(
        "curriculum",
        "How fast the curriculum is made",
        ("part", "examples", "best ms", "examples a ms"),
        [(name, f"{count:,}", f"{ms:.1f}", f"{count / ms:.0f}") for name, (count, ms) in rows.items()],
        [
            f"best of {REPEATS} runs in one process; the bar is 6,650 puzzles in at most {PUZZLE_BAR_MS:.0f} ms: "
            + ("met" if met else "NOT met")
        ],
    )


def best_ms(work: Callable[[], object]) -> float:
    """Milliseconds of the fastest of `REPEATS` runs."""
    times = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times) * 1000


if __name__ == "__main__":
    main()
