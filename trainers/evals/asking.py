"""Putting items to a model: how likely it finds their true answers, and whether it gives the closed ones itself."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from curriculum.example import Example
from curriculum.transcript import LengthSettings, fit
from ledger.roles import Role
from trainers.evals.models import Speaker
from trainers.generator import Answer, Generator


@dataclass(frozen=True)
class Asking:
    """How a role's items are put; prompts and answers are cut as in training."""

    role: Role
    """Whose prompts they are asked in, whoever answers."""
    closed: Collection[str]
    """Categories whose whole answer must come."""
    answer_tokens: int
    """Longest answer to a closed item, without its end."""
    lengths: LengthSettings

    def prompt(self, generator: Generator, question: str, context: str = "") -> str:
        """The role's prompt."""
        return fit(self.role, question, context, self.lengths.room, generator.count).prompt


@dataclass(frozen=True)
class Mark:
    """What a model made of one item."""

    mean: float
    """Mean log-probability of the true answer's tokens and its end, in nats."""
    right: bool | None
    """Whether it gives the answer itself, to its end; None for an open item."""
    greedy: bool = False
    """Whether the true answer's tokens are all its likeliest ones; enough for `right`, and told of open items too."""


def mark(speaker: Speaker, items: Sequence[Example], asking: Asking) -> list[Mark]:
    """Every item's mark, in order.

    One forward over all true answers settles those whose tokens are all the likeliest: greedy decoding gives them. Only
    the other closed ones are decoded, as the same text can also come in other tokens.
    """
    prompts = [asking.prompt(speaker.generator, item.input, item.context) for item in items]
    pairs = [(prompt, item.output) for prompt, item in zip(prompts, items, strict=True)]
    likely = speaker.generator.likelihoods(speaker.voice, pairs, asking.lengths.max_tokens) if pairs else []
    right = [one.greedy if item.category in asking.closed else None for item, one in zip(items, likely, strict=True)]
    missed = [i for i, settled in enumerate(right) if settled is False]
    if missed:
        tokens = asking.answer_tokens + 1  # the end is one
        answers = speaker.generator.generate(speaker.voice, [prompts[i] for i in missed], tokens)
        for i, answer in zip(missed, answers, strict=True):
            right[i] = is_answer(answer, items[i].output)
    return [Mark(one.mean, settled, one.greedy) for one, settled in zip(likely, right, strict=True)]


def is_answer(found: Answer, wanted: str) -> bool:
    """Whether an answer ended and is the wanted one, but for white space at its ends and its kind and amount inside."""
    return found.ended and found.text.split() == wanted.split()
