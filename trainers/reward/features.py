"""What can be counted in an answer: length, questions, hedges, markdown, tone words. Inputs of the reward model.

An encoder's pooled embedding tells what a text is about far better than how it is built and how it speaks to somebody.
The word lists are short on purpose: they are hints that the heads weigh, not judgements.
"""

from __future__ import annotations

import math
import re

WORDS = {
    "second_person": "you your yours yourself you're you've you'll you'd",
    "first_person": "i i'm i've i'd i'll me my mine",
    "together": "we we're let's us our together",
    "hedges": (
        "may might could perhaps maybe possibly likely sometimes often seems seem sounds probably unsure "
        "uncertain usually generally depends"
    ),
    "absolutes": (
        "always never everyone nobody everything nothing obviously clearly definitely totally completely just only"
    ),
    "directives": "should must need needs have stop don't do go get make take",
    "negations": "no not never none can't won't isn't aren't doesn't didn't wasn't don't nothing",
    "harsh": (
        "stupid pathetic whining whine lazy weak idiot loser ridiculous dumb useless excuses coddle dramatic "
        "crying overreacting selfish worthless nonsense whatever burden complaining complain fool hell damn "
        "crap suck sucks toughen"
    ),
    "warm": (
        "sorry understand hear valid feel feeling feelings support gentle care caring kind safe okay "
        "compassion honest courage strength trust heavy hard tough exhausting painful matters listen human "
        "here"
    ),
    "choice": (
        "choose choice choices option options decide decision can want prefer try consider explore control "
        "boundaries boundary step steps own values"
    ),
    "evidence": (
        "research study studies evidence data source sources according expert experts fact facts example "
        "because therefore reason reasons uncertainty limits verify check"
    ),
    "harm": (
        "kill weapon steal revenge hack threat threaten destroy hurt punish fight illegal poison lie cheat "
        "manipulate blackmail sabotage attack violence"
    ),
    "contrast": "but however though although while yet instead rather unless otherwise",
    "wondering": "what how why when which who curious wonder",
    "slang": "yeah gonna wanna nah dude kinda lol hey oh ugh okay ok",
}
"""Feature name to the words whose share of the answer it is."""

PHRASES = {
    "meta": r"\b(?:the (?:response|agent|user|assistant|instruction|prompt)\b|user prompt|this response|as an ai)",
    "refusal": r"\bi (?:can't|cannot|won't|am unable|'m not able|'m sorry, but)\b",
    "acknowledges": (
        r"\b(?:i hear you|that sounds|it sounds like|makes sense|it's okay|you're not alone|it's understandable|"
        r"i understand|i get it)\b"
    ),
    "dismisses": (
        r"\b(?:get over it|deal with it|not a big deal|no big deal|suck it up|shut up|who cares|grow up|your problem|"
        r"your fault|waste of time|attention|move on)\b"
    ),
    "pushes": r"\byou (?:should|must|need to|have to|better)\b",
    "offers": (
        r"\b(?:if you (?:want|like|need|'d like)|would you like|what would|you could|you can|one (?:way|option)|"
        r"happy to)\b"
    ),
}
"""Feature name to a pattern whose matches are counted for each sentence."""

COUNTS = {
    "bold": r"\*\*[^*\n]+\*\*",
    "headings": r"(?m)^\s*#{1,6}\s",
    "list_items": r"(?m)^\s*(?:[-*•]|\d+[.)])\s",
    "quotations": r"\"[^\"\n]{3,200}\"",
    "brackets": r"\([^)\n]*\)",
    "numbers": r"\d+",
    "paragraphs": r"\n\s*\n",
    "colons": r":",
}
"""Feature name to a pattern whose matches are counted, as log(1 + n)."""

SHAPE = (
    "log_words", "log_sentences", "sentence_length", "distinct_words", "repeated_trigrams", "long_words", "capitals",
    "questions", "ends_asking", "exclamations", "unfinished", "prompt_overlap", "repeats_prompt", "log_prompt_words",
    "prompt_questions", "prompt_asks_you",
)  # fmt: skip

FEATURES = (*SHAPE, *WORDS, *PHRASES, *COUNTS)
"""Names of the features, in the order of `features`."""

_PLAIN = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "—": " - ", "–": " - ", "…": "...", "\u00a0": " "})
_WORD_SETS = {name: frozenset(words.split()) for name, words in WORDS.items()}
_PHRASES = {name: re.compile(pattern) for name, pattern in PHRASES.items()}
_COUNTS = {name: re.compile(pattern) for name, pattern in COUNTS.items()}
_SENTENCE_END = re.compile(r"[.!?]+(?=\s|$)|\n+")
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")


def plain(text: str) -> str:
    """Typographic quotes, dashes and dots as ASCII has them.

    Which of them a text uses tells who wrote it, not how good it is; the reward model is not to learn that.
    """
    return text.translate(_PLAIN)


def features(prompt: str, response: str) -> list[float]:
    """The features of one answer, in the order of `FEATURES`; each finite, of the order of 1 after standardising."""
    text = plain(response)
    lower = text.lower()
    words = _WORD.findall(lower)
    asked = _WORD.findall(plain(prompt).lower())
    n_words = max(len(words), 1)
    n_sentences = max(len([part for part in _SENTENCE_END.split(text) if part and part.strip()]), 1)
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    content = {word for word in asked if len(word) > 3}
    tail = lower.rstrip()
    shape = [
        math.log1p(len(words)),
        math.log1p(n_sentences),
        math.log1p(len(words) / n_sentences),
        len(set(words)) / math.sqrt(n_words),
        1 - len(set(trigrams)) / max(len(trigrams), 1),
        sum(len(word) > 7 for word in words) / n_words,
        sum(c.isupper() for c in text) / max(len(text), 1),
        text.count("?") / n_sentences,
        float("?" in tail[-120:]),
        text.count("!") / n_sentences,
        float(not tail.endswith((".", "!", "?", ")", '"', "*", ":"))),
        len(content & set(words)) / max(len(content), 1),
        float(plain(prompt).strip().lower() in lower),
        math.log1p(len(asked)),
        float("?" in prompt),
        float(bool({"you", "your"} & set(asked))),
    ]
    shares = [sum(word in chosen for word in words) / math.sqrt(n_words) for chosen in _WORD_SETS.values()]
    phrases = [len(pattern.findall(lower)) / math.sqrt(n_sentences) for pattern in _PHRASES.values()]
    counts = [math.log1p(len(pattern.findall(text))) for pattern in _COUNTS.values()]
    return [*shape, *shares, *phrases, *counts]
