"""The offline teacher: a labeller of written rules, for machines without a model that can judge.

It counts words and shapes (`Markers`) and adds them up (`_VALUES`). It understands nothing: it cannot tell a true
sentence from a false one, and an answer that uses the right words badly scores well. Its labels say
`source = "rules"`; docs/how-to/teacher.md has how far they agree with a real teacher's.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, fields

from curriculum.reward import DIMENSIONS, RANGES, RewardOutput

NAME = "rules-1"
"""Name of this set of rules, in a label's `teacher`. Change it with any rule, word or weight below."""


def _phrases(text: str) -> re.Pattern[str]:
    """A pattern of whole words and phrases, separated by bars; a trailing * takes any ending."""
    parts = (
        re.escape(" ".join(part.split())).replace(r"\*", r"\w*").replace(r"\ ", r"\s+") for part in text.split("|")
    )
    return re.compile(rf"\b(?:{'|'.join(parts)})(?!\w)", re.IGNORECASE)


_WARMTH = _phrases(
    "i hear you|that sounds|it sounds like|sounds like you|makes sense|i'm sorry|i am sorry|understandabl*|valid|"
    "you're not alone|you are not alone|not your fault|i'm here|here for you|be gentle|be kind to|no wonder|"
    "of course you|must feel|must be|takes courage|takes strength|brave|it's okay to|it's ok to|it's natural to|"
    "i'm glad you|thank you for sharing|tough|hard|painful|exhaust*|heavy|overwhelm*|frustrat*|lonely|grief|"
    "grieving|hurt|hurts|ache|scary|stressful"
)
_FEELING = _phrases(
    "feel|feels|feeling|feelings|felt|emotion*|sad|angry|anger|anxious|anxiety|afraid|fear|ashamed|shame|guilt|"
    "guilty|worry|worried|tired|burnout|burned out|numb|hope|hopeful|joy|love|loved|miss|missing|need|needs"
)
_SCORN = _phrases(
    "whin*|get over it|suck it up|grow up|man up|toughen up|deal with it|who cares|no big deal|not a big deal|"
    "stop complaining|stop being|quit complaining|attention|drama|dramatic|overreact*|coddle|spoon-feed|"
    "hold your hand|don't bother|not worth|waste of time|your problem|not my problem|good luck with that|"
    "if you say so|whatever|don't expect|ridiculous|pathetic|stupid|idiot*|foolish|loser|weak|lazy|selfish|silly|"
    "childish|nonsense|crybaby|honestly, just|can't handle|couldn't care less|shut up|obviously"
)
_HEDGES = _phrases(
    "may|might|could|perhaps|maybe|possibly|probably|likely|often|usually|sometimes|it depends|depends on|seems|"
    "appears|i'm not sure|i don't know|not certain|in my view|my read|tend to|tends to|generally|roughly"
)
_CERTAINTY = _phrases(
    "definitely|certainly|always|never|everyone knows|everybody|nobody|no one|guarantee*|without a doubt|"
    "no doubt|absolutely|undeniabl*|proven|clearly|the truth is|of course|completely|totally|100%|all of them"
)
_EVIDENCE = _phrases(
    "study|studies|evidence|research*|source|sources|data|verify|check|cite*|expert*|according to|because|reason|"
    "reasons|trade-off*|tradeoff*|pros|cons|risk|risks|however|on the other hand|compare|document*|track|test|"
    "laws|legal*"
)
_CHOICE = _phrases(
    "you can|you could|you might|option|options|choose|choice|choices|decide|your call|up to you|your own|"
    "you decide|your values|your priorities|your needs|your boundaries|boundary|boundaries|consider|try|"
    "if you want|if you'd like|what you want|what matters|your pace|alternative*|one way|another way|small step*|"
    "next step*|say no|script"
)
_ORDERS = _phrases(
    "you must|you have to|you need to|you should|you ought|you'd better|you better|just do|just go|just get|"
    "just stop|just tell|just ignore|just accept|stop|don't|do it|do what|quit|obey|no excuses|immediately|"
    "i will do|as you wish|i agree to|i'd be happy to|i would be happy to|i'll take|i accept"
)
_CARE = _phrases(
    "safe|safety|safely|hotline|helpline|crisis line|988|911|therapist|counselor|counsellor|professional|doctor|"
    "hr|lawyer|legal aid|support group|support|trusted|protect*|respect*|honest*|honesty|calm*|boundar*|consent|"
    "ethical*|ethics|integrity|transparen*|accountab*"
)
_HARM = _phrases(
    "lie|lies|lying|fake|forge*|cover story|cover up|hide|hiding|secretly|revenge|retaliat*|get back at|threat*|"
    "blackmail*|punish*|humiliat*|destroy*|hurt them|manipulat*|deceiv*|mislead*|pretend*|make up|fabricat*|"
    "delete the|get away with|so they don't find out|won't find out|hit|kill|violence|sabotag*|guilt trip|"
    "shame them"
)
_ABOUT_ITSELF = _phrases(
    "as an ai|as a language model|the response|this response|the user|the speaker|analysis|the assistant|"
    "conclusion|in conclusion|question:|answer:|user:|assistant:"
)

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_UNTELLING = (
    "the and for that this with you your are was were has have had but not from they them their what when how "
    "why who would could should will can just about into out its it's i'm don't all more one than then some "
    "there because been being me my we our us him her his she he do does did so if or as at by an in on of to "
    "is it be no"
)
"""Words that say nothing about what a prompt is about."""

_STOP_WORDS = frozenset(_UNTELLING.split())


@dataclass(frozen=True, slots=True)
class Markers:
    """What is counted in an answer. Each is in [0, 1]."""

    warmth: float
    """Phrases that take the person in: "that sounds", "makes sense", "hard"."""
    feeling: float
    """Words of feeling and need."""
    scorn: float
    """Phrases that belittle: "get over it", "who cares", insults."""
    hedges: float
    """Words of doubt: "might", "it depends", "perhaps"."""
    certainty: float
    """Words of full certainty: "always", "everyone knows"."""
    evidence: float
    """Reasons, sources, risks, comparisons."""
    choice: float
    """Words that leave the decision with the person."""
    orders: float
    """Directives, and giving in to someone else's."""
    care: float
    """Safety, help from others, honesty, respect."""
    harm: float
    """Words of deceit, revenge and violence."""
    questions: float
    """Questions back to the person; three are full."""
    asks_last: float
    """1 if the last sentence is a question."""
    you: float
    """How much the answer speaks to the person: "you", "your"."""
    length: float
    """Words on a logarithmic scale: 10 words are 0, 400 and more are 1."""
    structure: float
    """Headings, list items and bold words; six are full."""
    relevance: float
    """Share of the prompt's content words that come back in the answer."""
    repetition: float
    """Share of four-word runs that the answer has had before; a tenth is full."""
    broken_off: float
    """1 if the answer does not end like a sentence."""
    about_itself: float
    """Talk about the answer itself, or roles of a transcript: text that was meant for nobody."""


def markers(prompt: str, response: str) -> Markers:
    """Count everything that the rules look at."""
    text = response.replace("’", "'").strip()
    words = [word.casefold() for word in _WORD.findall(text)]
    n = len(words)

    def rate(pattern: re.Pattern[str], full: float) -> float:
        """Hits a hundred words, 1 at `full`. Short answers count as forty words, so that one hit is not everything."""
        return min(1.0, len(pattern.findall(text)) * 100 / max(n, 40) / full)

    runs = Counter(zip(words, words[1:], words[2:], words[3:], strict=False))
    asked = {word.casefold() for word in _WORD.findall(prompt.replace("’", "'"))} - _STOP_WORDS
    told = {_stem(word) for word in words}
    return Markers(
        warmth=rate(_WARMTH, 4),
        feeling=rate(_FEELING, 5),
        scorn=rate(_SCORN, 2.5),
        hedges=rate(_HEDGES, 6),
        certainty=rate(_CERTAINTY, 2.5),
        evidence=rate(_EVIDENCE, 4),
        choice=rate(_CHOICE, 4),
        orders=rate(_ORDERS, 4),
        care=rate(_CARE, 3),
        harm=rate(_HARM, 3),
        questions=min(1.0, text.count("?") / 3),
        asks_last=float(text.rstrip("*_\"')] \n").endswith("?")),
        you=min(1.0, sum(word in _YOU for word in words) * 100 / max(n, 40) / 8),
        length=min(1.0, max(0.0, math.log(max(n, 1) / 10) / math.log(40))),
        structure=min(1.0, len(_STRUCTURE.findall(text)) / 6),
        relevance=sum(_stem(word) in told for word in asked) / len(asked) if asked else 0.5,
        repetition=min(1.0, 10 * sum(count - 1 for count in runs.values()) / max(1, sum(runs.values()))),
        broken_off=float(not re.search(r"[.!?:)\]\"'*`…~_]\s*\Z", text)),
        about_itself=min(1.0, len(_ABOUT_ITSELF.findall(text)) / 2),
    )


_YOU = frozenset({"you", "your", "yours", "yourself", "you're", "you've", "you'll", "you'd"})
_STRUCTURE = re.compile(r"^\s*(?:#{1,6} |[-*+] |\d+[.)] )|\*\*[^*\n]+\*\*", re.MULTILINE)


def _stem(word: str) -> str:
    """A word less its commonest endings, so that `ask` meets `asking`; never fewer than four letters."""
    for ending in ("ing", "ed", "es", "s", "ly"):
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            return word[: -len(ending)]
    return word


# A value is its first number plus its weights times the markers, kept inside its range.
_VALUES: dict[str, tuple[float, dict[str, float]]] = {
    "empathy": (
        0.0,
        {"warmth": 0.6, "feeling": 0.1, "length": 0.2, "asks_last": 0.2, "relevance": 0.3, "care": 0.2,
         "scorn": -1.0, "orders": -0.6, "repetition": -0.5, "about_itself": -0.4},
    ),
    "social_coherence": (
        0.1,
        {"relevance": 0.4, "length": 0.3, "structure": 0.1, "warmth": 0.3, "care": 0.2, "asks_last": 0.1,
         "scorn": -1.0, "orders": -0.6, "repetition": -0.6, "about_itself": -0.3},
    ),
    "agency_support": (
        0.2,
        {"choice": 0.1, "evidence": 0.2, "length": 0.3, "questions": 0.1, "asks_last": 0.2, "structure": 0.1,
         "relevance": 0.1, "scorn": -0.8, "orders": -0.6, "hedges": -0.2, "repetition": -0.6, "about_itself": -0.3},
    ),
    "epistemic_integrity": (
        0.2,
        {"evidence": 0.3, "length": 0.3, "structure": 0.1, "care": 0.2, "relevance": 0.1,
         "scorn": -0.8, "orders": -0.6, "certainty": -0.2, "repetition": -0.8, "about_itself": -0.1},
    ),
    "harm_avoidance": (
        0.5,
        {"care": 0.5, "length": 0.15, "warmth": 0.4, "asks_last": 0.1,
         "scorn": -1.1, "orders": -0.5, "certainty": -0.3, "harm": -0.1, "repetition": -0.6, "about_itself": -0.2},
    ),
    "narrative_alignment": (
        0.1,
        {"relevance": 0.4, "length": 0.35, "structure": 0.1, "warmth": 0.2, "asks_last": 0.2, "care": 0.1,
         "scorn": -0.8, "orders": -0.6, "hedges": -0.1, "repetition": -0.7, "broken_off": -0.2, "about_itself": -0.3},
    ),
    "curiosity": (
        -0.1,
        {"questions": 0.5, "asks_last": 0.2, "length": 0.3, "structure": 0.15, "relevance": 0.2, "evidence": 0.1,
         "scorn": -0.6, "orders": -0.6, "hedges": -0.1, "repetition": -0.4},
    ),
    "reward_intensity": (
        0.3,
        {"length": 0.2, "relevance": 0.2, "asks_last": 0.2, "questions": 0.1, "evidence": 0.1, "scorn": 0.2,
         "repetition": -0.2, "about_itself": -0.1},
    ),
    "safety_score": (
        0.5,
        {"care": 0.4, "length": 0.2, "warmth": 0.3,
         "scorn": -1.1, "orders": -0.6, "certainty": -0.2, "harm": -0.1, "repetition": -0.5, "about_itself": -0.2},
    ),
}  # fmt: skip


def label(prompt: str, response: str) -> RewardOutput:
    """The rules' judgement of an answer: the nine values, and as `scalar_preference` the mean of the seven dimensions.

    Equal texts have equal labels. An empty answer is judged as what it is: nothing said.
    """
    found = markers(prompt, response)
    counts = {field.name: getattr(found, field.name) for field in fields(Markers)}
    values = {name: _value(name, base, weights, counts) for name, (base, weights) in _VALUES.items()}
    scalar = sum(values[name] for name in DIMENSIONS) / len(DIMENSIONS)
    return RewardOutput(**values, scalar_preference=round(scalar, 3))


def reasons(prompt: str, response: str) -> str:
    """The markers that were found, strongest first: what stands as the rationale of a label of the rules."""
    found = markers(prompt, response)
    counts = sorted(((getattr(found, field.name), field.name) for field in fields(Markers)), reverse=True)
    return "rules counted: " + (
        ", ".join(f"{name} {count:.2f}" for count, name in counts if count >= 0.05) or "nothing"
    )


def _value(name: str, base: float, weights: dict[str, float], counts: dict[str, float]) -> float:
    low, high = RANGES[name]
    total = base + sum(weight * counts[marker] for marker, weight in weights.items())
    return round(min(high, max(low, total)), 3)
