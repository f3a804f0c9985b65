"""The 95 % intervals of a measured share and of a mean."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, sqrt
from statistics import fmean, stdev

Z_95 = 1.959964
"""Two-sided 95 % quantile of the normal distribution."""


def wilson_interval(successes: int, n: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927, JASA 22:209-212).

    Args:
        successes: items that succeeded, 0 to ``n``.
        n: items in all; with 0 nothing is known and the interval is (0, 1).
        z: quantile of the normal distribution.

    Returns:
        Lower and upper bound, both in [0, 1] and with ``successes / n`` between them.

    Raises:
        ValueError: if ``successes`` is not between 0 and ``n``.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"successes must be between 0 and n; got {successes} of {n}")
    if n == 0:
        return 0.0, 1.0
    share = successes / n
    centre = share + z * z / (2 * n)
    spread = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At both ends the exact bound is the share itself; rounding would put it a hair inside.
    low = 0.0 if successes == 0 else (centre - spread) / scale
    high = 1.0 if successes == n else (centre + spread) / scale
    return low, high


def mean_interval(values: Sequence[float], z: float = Z_95) -> tuple[float, float, float]:
    """A mean with the normal interval around it.

    Args:
        values: one an item; with a single one nothing is known of its spread, and the interval is unbounded.
        z: quantile of the normal distribution.

    Returns:
        Mean, lower and upper bound.

    Raises:
        ValueError: there is no value.
    """
    if not values:
        raise ValueError("the mean of no values is asked for")
    mean = fmean(values)
    spread = z * stdev(values) / sqrt(len(values)) if len(values) > 1 else inf
    return mean, mean - spread, mean + spread
