"""What evaluation asks of a model: greedy text and log-likelihoods, whatever engine answers.

`trainers.lean.generator` answers from the trainer's own model in memory, `trainers.reference.generator` through Hugging
Face's forward, and `cluster.server.candidate_eval` through the serving engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ledger.roles import Voice


class Generator(Protocol):
    """A model with several voices: the three roles, and `base` for no adapter at all."""

    def generate(self, voice: Voice, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        """Greedy continuation of each raw prompt up to the end-of-text token, special tokens left out."""
        ...

    def mean_log_likelihoods(self, voice: Voice, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """For each (prompt, answer): the mean log-probability of the answer's tokens and its end, in nats (<= 0)."""
        ...


def prompt_ids(tokenizer: Any, prompt: str) -> list[int]:
    """Tokens of a raw prompt, with the tokenizer's own beginning-of-text if it has one."""
    return list(tokenizer(prompt)["input_ids"])


def answer_ids(tokenizer: Any, answer: str) -> list[int]:
    """Tokens of an answer and the end-of-text token, which is learned with it."""
    return [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
