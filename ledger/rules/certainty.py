"""When a growing set of items has told enough (DESIGN section 6).

Sets are asked block by block. After a block the verdict is certain when the interval of the share lies on one side of
the gate's bound; otherwise the next block is asked, and after the last one the share alone decides. The numbers below
are those for which a share three points from a bound is judged wrongly at most once in twenty, looks, blends and all:
`bench/results/verdict_simulation.md`.
"""

from __future__ import annotations

from ledger.intervals import Z_95, wilson_interval

MOST_ITEMS = 600
"""Items after which the share alone decides."""
BLOCK = 100
"""Items asked between two looks."""
Z_CERTAIN = Z_95
"""Quantile of the interval at a look. A wider one costs a third more items and errs hardly less."""


def is_certain(passed: int, asked: int, bound: float, z: float = Z_CERTAIN) -> bool:
    """Whether the interval of `passed` of `asked` items lies wholly above or wholly below a bound."""
    low, high = wilson_interval(passed, asked, z)
    return low > bound or high < bound
