"""Whole counts in given proportions."""

from collections.abc import Mapping

from ledger.errors import LunaError


def allocate(total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Split `total` in the proportions of `weights` by largest remainder; the counts sum to `total` exactly.

    Equal remainders go to the earlier key. Raises `LunaError` for a negative total or when all weights are 0.
    """
    whole = sum(weights.values())
    if total < 0 or whole <= 0 or min(weights.values()) < 0:
        raise LunaError(
            f"cannot split {total} examples by {dict(weights)}; give a total of at least 0 and some weight."
        )
    shares = {key: total * weight / whole for key, weight in weights.items()}
    counts = {key: int(share) for key, share in shares.items()}
    by_remainder = sorted(shares, key=lambda key: counts[key] - shares[key])
    for key in by_remainder[: total - sum(counts.values())]:
        counts[key] += 1
    return counts
