"""The holdout, split by example hash: an example is on the same side in every generation."""

from collections.abc import Iterable

from curriculum.example import Example
from ledger.errors import LunaError

HOLDOUT_PERCENT = 20
"""Share of new examples, in percent, that is kept from training and used to measure generalization."""


def is_holdout(example_id: str, percent: int = HOLDOUT_PERCENT) -> bool:
    """Whether the example with this id (SHA-256, hex) is held out; `percent` is in 0..100."""
    if not 0 <= percent <= 100:
        raise LunaError(f"holdout percent is {percent}; it must be between 0 and 100.")
    # 60 bits of the hash, so that modulo 100 is even to about one part in 10^16.
    return int(example_id[:15], 16) % 100 < percent


def split_holdout(examples: Iterable[Example], percent: int = HOLDOUT_PERCENT) -> tuple[list[Example], list[Example]]:
    """(training part, holdout), each in the given order."""
    train: list[Example] = []
    holdout: list[Example] = []
    for example in examples:
        (holdout if is_holdout(example.id, percent) else train).append(example)
    return train, holdout
