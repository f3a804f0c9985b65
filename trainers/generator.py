"""What evaluation asks of a model: greedy text and log-likelihoods, whatever engine answers.

`trainers.lean.generator` answers from the trainer's own model in memory, `trainers.reference.generator` through Hugging
Face's forward, and `cluster.server.candidate_eval` through the serving engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ledger.roles import Voice


@dataclass(frozen=True)
class Answer:
    """A greedy continuation."""

    text: str
    """Special tokens left out."""
    ended: bool
    """Whether the end-of-text token came within the limit, of which it is one token."""


@dataclass(frozen=True)
class Likelihood:
    """How likely an answer is after its prompt."""

    mean: float
    """Mean log-probability of the answer's tokens and its end, in nats (<= 0)."""
    greedy: bool
    """Whether each of these tokens is the likeliest one given those before it; of equally likely ones all are."""


class Generator(Protocol):
    """A model with several voices: the three roles, and `base` for no adapter at all."""

    def generate(self, voice: Voice, prompts: Sequence[str], max_new_tokens: int) -> list[Answer]:
        """Greedy continuation of each raw prompt up to the end-of-text token."""
        ...

    def likelihoods(
        self, voice: Voice, pairs: Sequence[tuple[str, str]], max_tokens: int | None = None
    ) -> list[Likelihood]:
        """How likely each (prompt, answer) is.

        An answer loses what lies beyond `max_tokens` of both together, as in training.
        """
        ...

    def count(self, prompt: str) -> int:
        """Tokens of a raw prompt."""
        ...


def prompt_ids(tokenizer: Any, prompt: str) -> list[int]:
    """Tokens of a raw prompt, with the tokenizer's own beginning-of-text if it has one."""
    return list(tokenizer(prompt)["input_ids"])


def answer_ids(tokenizer: Any, answer: str) -> list[int]:
    """Tokens of an answer and the end-of-text token, which is learned with it."""
    return [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def counter(tokenizer: Any) -> Callable[[str], int]:
    """Counts the tokens of a raw prompt, for :func:`curriculum.transcript.fit`."""
    return lambda prompt: len(prompt_ids(tokenizer, prompt))


def row_ids(tokenizer: Any, prompt: str, answer: str, max_tokens: int | None) -> tuple[list[int], int]:
    """(tokens of a prompt and its answer, how many are the prompt's); the answer loses its end beyond `max_tokens`."""
    begin = prompt_ids(tokenizer, prompt)
    return [*begin, *answer_ids(tokenizer, answer)][:max_tokens], len(begin)
