"""What evaluation asks of a model: greedy text and log-likelihoods, whatever engine answers.

`trainers.lean.generator` answers from the trainer's own model in memory, `trainers.reference.generator` through Hugging
Face's forward, and `cluster.server.candidate_eval` through the serving engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ledger.roles import Voice


class Generator(Protocol):
    """A model with several voices: the three roles, and `base` for no adapter at all."""

    def generate(self, voice: Voice, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        """Greedy continuation of each raw prompt up to the end-of-text token, special tokens left out."""
        ...

    def mean_log_likelihoods(
        self, voice: Voice, pairs: Sequence[tuple[str, str]], max_tokens: int | None = None
    ) -> list[float]:
        """For each (prompt, answer): the mean log-probability of the answer's tokens and its end, in nats (<= 0).

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
