"""From examples to token rows, and which rows each step takes."""

from __future__ import annotations

from typing import Any

from curriculum.example import Example
from curriculum.preferences.pairs import Preference
from curriculum.render import render_prompt
from trainers.lean.generator import answer_ids, prompt_ids
from trainers.lean.packing import Row


def tokenise(tokenizer: Any, example: Example, max_tokens: int) -> Row:
    """The example's prompt and answer as one row, at most `max_tokens` long.

    A longer answer is cut at its end, to no less than half of the room; a prompt that is still too long loses its
    middle, so that the role's header and the question's end both stay.
    """
    prompt = prompt_ids(tokenizer, render_prompt(example.role, example.input, example.context))
    prompt, (answer,) = _fitted(prompt, [answer_ids(tokenizer, example.output)], max_tokens)
    return Row([*prompt, *answer], len(prompt), example.weight)


def tokenise_pair(tokenizer: Any, pair: Preference, max_tokens: int) -> tuple[Row, Row]:
    """The chosen and the rejected row of a pair, cut as in :func:`tokenise`; both begin with the same prompt."""
    prompt = prompt_ids(tokenizer, render_prompt(pair.role, pair.prompt, pair.context))
    answers = [answer_ids(tokenizer, answer) for answer in (pair.chosen, pair.rejected)]
    prompt, (chosen, rejected) = _fitted(prompt, answers, max_tokens)
    return Row([*prompt, *chosen], len(prompt)), Row([*prompt, *rejected], len(prompt))


def _fitted(prompt: list[int], answers: list[list[int]], max_tokens: int) -> tuple[list[int], list[list[int]]]:
    answers = [answer[: max(max_tokens // 2, max_tokens - len(prompt))] for answer in answers]
    room = max_tokens - max(map(len, answers))
    if len(prompt) > room:
        head = room // 2
        prompt = prompt[:head] + prompt[len(prompt) - (room - head) :]
    return prompt, answers


def rows_of_step(step: int, steps: int, rows: int, available: int) -> list[int]:
    """Indices into a role's ordered training set for one step (0-based).

    With more examples than the run has room for, they are thinned evenly, so that every stage keeps its share; with
    fewer, the order starts over. The order itself is never changed.
    """
    room = steps * rows
    places = range(step * rows, (step + 1) * rows)
    if available > room:
        return [place * available // room for place in places]
    return [place % available for place in places]
