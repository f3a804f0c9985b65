"""Finds corporate and moralising speech: patterns by family over one spelling of the text.

`curriculum/data/corporate_phrases.toml` has the patterns, regular expressions of whole words. A `{name}` in one stands
for any of the words that `[words]` lists under the name.
"""

import functools
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from ledger.files import read_toml

_PATTERNS = Path(__file__).resolve().parent.parent / "data" / "corporate_phrases.toml"

_SPELLINGS = str.maketrans(dict.fromkeys("’‘`", "'") | dict.fromkeys("‐‑–—", "-") | dict.fromkeys('*_#“”",()', " "))
_EXPANSIONS = (
    ("can't|can not", "cannot"),
    ("won't", "will not"),
    ("(?<=[a-z])n't", " not"),
    ("(?<=let)'s", " us"),
    ("(?<=it)'s|(?<=that)'s|(?<=here)'s|(?<=what)'s|(?<=how)'s", " is"),
    ("'m", " am"),
    ("'re", " are"),
    ("'ve", " have"),
    ("'ll", " will"),
    ("'d", " would"),
)
_SHORT = tuple((re.compile(rf"(?:{short})\b"), long) for short, long in _EXPANSIONS)


def corporate_phrase(text: str, extra: Sequence[str] = ()) -> str | None:
    """The first corporate or moralising words of a text in their plain spelling, or None.

    `extra` are further phrases, found as whole words; case, white space, contractions and commas do not matter.
    """
    plain = plain_spelling(text)
    phrases = (re.compile(rf"(?<!\w){re.escape(phrase)}(?!\w)") for phrase in map(plain_spelling, extra) if phrase)
    found = [match for pattern in (*_patterns(), *phrases) if (match := pattern.search(plain))]
    return min(found, key=lambda match: (match.start(), -match.end())).group() if found else None


def plain_spelling(text: str) -> str:
    """Lower case, one kind of apostrophe and hyphen, contractions written out, no commas, quotes or emphasis."""
    plain = unicodedata.normalize("NFKC", text).lower().translate(_SPELLINGS)
    for short, long in _SHORT:
        plain = short.sub(long, plain)
    return " ".join(plain.split())


@functools.cache
def _patterns() -> tuple[re.Pattern[str], ...]:
    table = read_toml(_PATTERNS)
    words = {name: "|".join(listed) for name, listed in table.pop("words").items()}
    spelled = (re.sub(r"\{([a-z]+)\}", lambda name: f"(?:{words[name[1]]})", p) for f in table.values() for p in f)
    return tuple(re.compile(rf"\b(?:{pattern})(?!\w)") for pattern in spelled)
