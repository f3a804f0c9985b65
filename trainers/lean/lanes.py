"""Parts of one piece of work side by side on a CPU's cores, each part with its own share of the compute threads.

Threads that split every matrix product meet at a barrier after each, thousands of times a step, so one that is held up
by another process holds up all. Lanes meet once a step. Measured on two cores, steps of 550 tokens: alone 2.5 s either
way; beside one process that never rests 5 s with two lanes, 19 s with two threads a product.
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

_TOKENS_A_LANE = 256
"""With fewer, each lane spends its time on fetching the weights: 250 tokens took 1.2 s whole and 1.8 s in two lanes."""


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

    def lanes_for(self, tokens: int) -> int:
        """How many lanes a pass over so many tokens is worth: all, or one that uses every thread."""
        return self.count if tokens >= _TOKENS_A_LANE * self.count else 1

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
