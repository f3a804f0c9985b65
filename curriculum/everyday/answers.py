"""What is right as an answer to an everyday question, and what is no answer in words."""

import re
import unicodedata

from curriculum.agl import kleene
from curriculum.everyday.questions import EverydayQuestion

MOST_WORDS = 40
"""Words from an answer's beginning in which the right one must stand."""

GLYPHS = frozenset(kleene.GLYPHS + "◕◔○◐" + "→↔∧∨¬⊻∃∄∀∈∉⊂∅∴∵⊕Δφψ✓✗")
"""What an answer in AGL begins with: truth values, certainties, signs. Emoji are none of them."""

_WORD = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}\b)")
_ASKED = re.compile(r"[^.!?\n]*\?")
_BEFORE = " \t\r\n\"'“”‘’([{*_`#>-"

_SPELLED = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety"""
_NUMBERS = dict(zip(_SPELLED.split(), [*range(20), *range(20, 100, 10)], strict=True))


def is_right(question: EverydayQuestion, answer: str) -> bool:
    """Whether one of the accepted words or phrases stands among the answer's first forty words.

    Whole words, case aside; a number's word is the number. Of "yes" and "no" the first one said counts. What the
    answer asks back does not: an echo of the question is no answer.
    """
    said = spoken(_ASKED.sub(" ", answer))[:MOST_WORDS]
    wanted = [spoken(phrase) for phrase in question.accepted]
    if ["yes"] in wanted or ["no"] in wanted:
        first = [word for word in said if word in ("yes", "no")][:1]
        return first in wanted
    return any(stands_in(phrase, said) for phrase in wanted)


def bare_glyph(answer: str) -> str | None:
    """The AGL glyph that an answer begins with, or None."""
    first = answer.lstrip(_BEFORE)[:1]
    return first if first in GLYPHS else None


def spoken(text: str) -> list[str]:
    """A text's words and numbers in one spelling: NFKC, casefolded, numbers up to 99 as digits."""
    plain = _THOUSANDS.sub("", unicodedata.normalize("NFKC", text)).casefold()
    words: list[str] = []
    tens = False
    for word in _WORD.findall(plain):
        number = _NUMBERS.get(word)
        if number is None:
            words.append(word)
        elif tens and 0 < number < 10:
            words[-1] = str(int(words[-1]) + number)
        else:
            words.append(str(number))
        tens = number is not None and number >= 20
    return words


def stands_in(phrase: list[str], words: list[str]) -> bool:
    """Whether the words of a phrase stand among others, one behind the other; an empty phrase stands nowhere."""
    return bool(phrase) and any(words[at : at + len(phrase)] == phrase for at in range(len(words)))
