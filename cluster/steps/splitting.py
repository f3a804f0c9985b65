"""The split of what is new, as the ledger's known sides have it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from curriculum.example import Example
from curriculum.preferences.pairs import Preference
from curriculum.split import Split, keys_of, keys_of_pair, split_by_group
from ledger.store import Ledger


def split_new(
    ledger: Ledger, lineage: str, examples: Sequence[Example], pairs: Sequence[Preference], percent: int
) -> Split:
    """Both sides of what is new, each in the order of ids: a file's hash says what it holds, wherever that came from.

    What belongs to something that the lineage has on one side goes there as well.
    """
    examples, pairs = sorted(examples, key=_by_id), sorted(pairs, key=_by_id)
    keys = set(chain(*map(keys_of, examples), *map(keys_of_pair, pairs)))
    return split_by_group(examples, pairs, percent, ledger.sides_of(keys, lineage))


def _by_id(item: Example | Preference) -> str:
    return item.id
