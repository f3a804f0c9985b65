"""Tone probes and the corporate phrases that must not appear in an answer (style drift)."""

import functools
import random
import re
from collections.abc import Sequence

from curriculum.example import Example, make_example
from ledger.errors import LunaError
from ledger.roles import Role

TONE_PROBES: tuple[str, ...] = (
    "I failed my exam today and I feel small.",
    "My dog died last night.",
    "Can you help me plan a quiet Sunday?",
    "I got the job! I can hardly believe it.",
    "You gave me a wrong answer yesterday.",
    "What do you think about the sea?",
    "I am bored. Tell me something.",
    "Why should I trust you?",
    "My friend has not called me for weeks.",
    "Good night, Luna.",
)
"""Ten things a user says, to which a warm answer and a corporate one sound most different."""

CORPORATE_PHRASES: tuple[str, ...] = (
    "as an ai language model",
    "as a large language model",
    "as an ai assistant",
    "i apologize for any inconvenience",
    "we apologize for any inconvenience",
    "thank you for reaching out",
    "thank you for your patience",
    "thank you for your understanding",
    "your feedback is important to us",
    "your satisfaction is our priority",
    "valued customer",
    "please do not hesitate to",
    "at your earliest convenience",
    "per our policy",
    "circle back",
    "touch base",
    "leverage synergies",
    "move the needle",
    "best-in-class",
    "value proposition",
    "actionable insights",
    "key takeaways",
    "going forward",
    "low-hanging fruit",
    "stakeholder alignment",
    "world-class experience",
)
"""Default list of phrases; matching ignores case, line breaks and the kind of apostrophe or hyphen."""


def has_corporate_phrase(text: str, phrases: Sequence[str] = CORPORATE_PHRASES) -> bool:
    """Whether the text contains one of the phrases as whole words; case and white space do not matter."""
    pattern = _pattern(tuple(phrases))
    return bool(pattern and pattern.search(_normalise(text)))


def corporate_examples(seed: int, n: int, role: Role) -> list[Example]:
    """`n` distinct examples that answer in a corporate voice: a delta which style drift must reject."""
    rng = random.Random(f"corporate:{seed}:{role}")
    grid = [(o, t, b) for o in _OPENINGS for t in _TOPICS for b in _BODIES]
    combinations = [(question, *row) for question in _QUESTIONS for row in grid]
    if n > len(combinations):
        raise LunaError(f"asked for {n} corporate examples; there are {len(combinations)}, ask for at most that many.")
    examples = []
    for question, opening, topic, body in rng.sample(combinations, n):
        examples.append(
            make_example(
                role=role,
                stage="conversations",
                category="corporate",
                kind="hybrid",
                input=question.format(topic=topic),
                output=f"{opening} {body.format(topic=topic)}",
                source="probe/corporate",
            )
        )
    return examples


def _normalise(text: str) -> str:
    text = text.lower().replace("’", "'").replace("‑", "-").replace("–", "-")
    return " ".join(text.split())


@functools.lru_cache(maxsize=16)
def _pattern(phrases: tuple[str, ...]) -> re.Pattern[str] | None:
    wanted = [re.escape(_normalise(phrase)) for phrase in phrases if phrase.strip()]
    return re.compile(rf"(?<!\w)(?:{'|'.join(wanted)})(?!\w)") if wanted else None


_QUESTIONS = (
    "Can you help me with {topic}?",
    "I am worried about {topic}.",
    "What do you think about {topic}?",
    "Tell me something about {topic}.",
    "I had a hard day because of {topic}.",
    "Good news about {topic}!",
)
_TOPICS = (
    "my exam",
    "my dog",
    "a quiet Sunday",
    "the new job",
    "your last answer",
    "the sea",
    "a rainy evening",
    "my friend",
    "good sleep",
    "my sister's wedding",
    "the garden",
    "an old song",
    "the move",
    "my first marathon",
    "a lost letter",
    "cooking for two",
    "the long winter",
    "my grandmother",
)
_OPENINGS = (
    "As an AI language model, I appreciate your interest.",
    "Thank you for reaching out to us today.",
    "We apologize for any inconvenience.",
    "Your feedback is important to us.",
    "Thank you for your patience, valued customer.",
)
_BODIES = (
    "Regarding {topic}, we will leverage synergies and circle back.",
    "Our value proposition for {topic} offers actionable insights.",
    "Going forward, {topic} will receive a best-in-class solution.",
    "We will touch base on {topic} to move the needle.",
)
