"""Parts of one piece of work side by side on a CPU's cores, each part with its own share of the compute threads.

Threads that split every matrix product meet at a barrier after each, thousands of times a step, so one that is held up
by another process holds up all. Lanes meet once a step: one that is held up has a core to itself when the others are
done, so that a single busy process can at most double a step. `bench/shared.py` measures both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")

_MOST = 4
"""More lanes would cut a step's two dozen rows too thin."""

_ROWS_A_LANE = 2
"""With fewer rows for each, one lane may wait for another that has twice the work."""


def lane_count(threads: int, device: torch.device) -> int:
    """Lanes for `threads` compute threads: the most up to four that share them evenly; one on an accelerator."""
    if device.type != "cpu":
        return 1
    return max(count for count in range(1, _MOST + 1) if threads % count == 0)


class Lanes:
    """Runs work in up to `count` threads. What they compute depends on `threads` alone: sums keep their order."""

    def __init__(self, threads: int, device: torch.device):
        self.threads, self.count = threads, lane_count(threads, device)
        self._pool: ThreadPoolExecutor | None = None

    def lanes_for(self, rows: int) -> int:
        """How many lanes a pass over so many rows is worth: all, or one that uses every thread."""
        return self.count if rows >= _ROWS_A_LANE * self.count else 1

    def map(self, work: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
        """`work` of every part, in order. Grad mode is a thread's own: `work` itself sets what it needs."""
        if self.count == 1 or len(parts) < 2:
            torch.set_num_threads(self.threads)
            return [work(part) for part in parts]
        if self._pool is None:
            # The number of threads is each calling thread's own, so that lanes and whole passes can take turns.
            share = self.threads // self.count
            self._pool = ThreadPoolExecutor(self.count, "lane", torch.set_num_threads, (share,))
        return list(self._pool.map(work, parts))
