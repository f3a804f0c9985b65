"""Whether one of two models is better on the same items (McNemar 1947, in its exact form)."""

from __future__ import annotations

from math import comb


def paired_p(won: int, lost: int) -> float:
    """How likely at least so many wins would be, if each item on which two models differ fell to either by a fair coin.

    Args:
        won: items that the first model passes and the second does not.
        lost: items the other way round.

    Returns:
        The one-sided p value; 1.0 where they differ on no item.
    """
    differ = won + lost
    return sum(comb(differ, wins) for wins in range(won, differ + 1)) / 2**differ
