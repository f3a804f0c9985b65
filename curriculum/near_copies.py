"""Near copies: texts whose word 5-grams have a Jaccard similarity of at least 0.8, found by keys that such texts share.

Up to eight 5-grams, a near copy has at most one more or less, at an end: three keys find every one. Longer texts have
MinHash keys, one a band (datasketch): two of similarity s share at least one with probability 1 - (1 - s⁴)¹², which is
0.998 at 0.8, 0.99999 at 0.9, and 0.09 at 0.3. Of texts at hand `near_pairs` compares those that the keys may miss. The
keys stay in the ledger for good, so nothing of them may change.
"""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasketch import MinHash

WORDS = 5
"""Words of a shingle; a shorter text is one shingle."""
FEW = 8
"""Most shingles of a text whose near copies are found without MinHash."""
SIMILARITY = 0.8
BANDS, ROWS = 12, 4
_LATEST = 100

_PUNCTUATION = "".join(chr(code) for code in range(0x3100) if unicodedata.category(chr(code)).startswith("P"))


def words_of(text: str) -> list[str]:
    """The words in one spelling: NFKC, casefolded, without punctuation at their ends."""
    words = unicodedata.normalize("NFKC", text).casefold().split()
    return [word.strip(_PUNCTUATION) or word for word in words]


def shingles_of(words: Sequence[str]) -> list[str]:
    """Every five words in a row, each once, in their order."""
    return list(dict.fromkeys(" ".join(words[at : at + WORDS]) for at in range(max(1, len(words) - WORDS + 1))))


def near_copy_keys(words: Sequence[str]) -> tuple[int, ...]:
    """The keys of a text, of which it shares at least one with a near copy."""
    shingles = shingles_of(words)
    keys: list[int] = []
    if len(shingles) <= FEW:
        keys.append(_set_key(shingles))
    if WORDS <= len(shingles) <= FEW:  # one of 5 may be missing, one of 4 makes it too different
        keys += [_set_key(shingles[1:]), _set_key(shingles[:-1])]
    if len(shingles) >= FEW:
        sketch = _empty_sketch().copy()
        sketch.update_batch([shingle.encode(errors="surrogatepass") for shingle in shingles])
        rows = sketch.hashvalues.astype("<u8").reshape(BANDS, ROWS)
        keys += [_signed(f"band {number}", row.tobytes()) for number, row in enumerate(rows)]
    return tuple(keys)


def near_pairs(texts: Sequence[Sequence[str]]) -> Iterator[tuple[int, int]]:
    """Places of near copies among long texts, given as shingles.

    Prefix filtering: two sets this similar share one of their rarest elements. A shingle of very many texts is followed
    only to the latest of them; so many near copies find each other by their keys.
    """
    frequency = Counter(chain.from_iterable(texts))
    holders: dict[str, deque[int]] = defaultdict(lambda: deque(maxlen=_LATEST))
    sets = [frozenset(text) for text in texts]
    for place, own in enumerate(sets):
        if len(own) < FEW:
            continue
        rarest = sorted(own, key=lambda shingle: (frequency[shingle], shingle))
        prefix = rarest[: len(own) - math.ceil(SIMILARITY * len(own)) + 1]
        for other in sorted({other for shingle in prefix for other in holders[shingle]}):
            shared = len(own & sets[other])
            if shared >= SIMILARITY * (len(own) + len(sets[other]) - shared):
                yield other, place
        for shingle in prefix:
            holders[shingle].append(place)


def text_key(kind: str, text: str) -> int:
    """64 bits of a hash of the text, signed as SQLite's integers are; equal texts of two kinds have two keys."""
    return _signed(kind, text.encode(errors="surrogatepass"))


def _set_key(shingles: Collection[str]) -> int:
    return text_key("shingles", "\n".join(sorted(shingles)))


def _signed(kind: str, data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8, person=kind.encode()).digest(), "big", signed=True)


@cache
def _empty_sketch() -> MinHash:
    from datasketch import MinHash  # imports SciPy: only where texts are compared

    return MinHash(num_perm=BANDS * ROWS, seed=1, scheme="affine64")
