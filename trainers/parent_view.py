"""Asking a parent about examples that may be replayed: how likely their answers are to it, and what it says itself."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from curriculum.example import Example
from curriculum.parent_view import ParentView
from curriculum.transcript import LengthSettings, fit
from ledger.errors import LunaError
from trainers.generator import Generator


def parent_views(
    generator: Generator, examples: Sequence[Example], with_own: bool, lengths: LengthSettings
) -> dict[str, ParentView]:
    """The view of each example's role, by the id of the example.

    Args:
        with_own: let it answer too; an answer that does not end within `lengths.answer_tokens` counts as none.

    Raises:
        LunaError: an adapter is missing, or gives likelihoods that are no numbers.
    """
    found: dict[str, ParentView] = {}
    for role, members in groupby(sorted(examples, key=lambda e: (e.role, e.id)), key=lambda e: e.role):
        own = list(members)
        prompts = [fit(role, e.input, e.context, lengths.room, generator.count).prompt for e in own]
        pairs = [(prompt, example.output) for prompt, example in zip(prompts, own, strict=True)]
        likely = generator.likelihoods(role, pairs, lengths.max_tokens)
        answers = generator.generate(role, prompts, lengths.answer_tokens) if with_own else []
        texts = [answer.text if answer.ended else "" for answer in answers] or [""] * len(own)
        for example, one, text in zip(own, likely, texts, strict=True):
            if not one.mean <= 0:
                raise LunaError(
                    f"the parent of {role} gives example {example.id[:12]} a log-likelihood of {one.mean}; its adapter "
                    "is broken. Restore it (`luna ledger verify` names what was changed)."
                )
            found[example.id] = ParentView(one.mean, text)
    return found
