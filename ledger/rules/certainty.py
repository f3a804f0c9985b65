"""Stub."""

from __future__ import annotations

from ledger.intervals import wilson_interval

Z = 2.576


def is_certain(passed: int, asked: int, bound: float, z: float = Z) -> bool:
    """Whether the interval of a share lies on one side of a bound."""
    low, high = wilson_interval(passed, asked, z)
    return low > bound or high < bound
