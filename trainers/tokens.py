"""From examples to token rows, and which rows each step takes."""

from __future__ import annotations

from typing import Any

from curriculum.example import Example
from curriculum.render import render_prompt
from trainers.generator import answer_ids, prompt_ids
from trainers.packing import Row


def tokenise(tokenizer: Any, example: Example, max_tokens: int) -> Row:
    """The example's prompt and answer as one row, at most `max_tokens` long.

    A longer answer is cut at its end, to no less than half of the room; a prompt that is still too long loses its
    middle, so that the role's header and the question's end both stay.
    """
    prompt = prompt_ids(tokenizer, render_prompt(example.role, example.input, example.context))
    answer = answer_ids(tokenizer, example.output)
    answer = answer[: max(max_tokens // 2, max_tokens - len(prompt))]
    room = max_tokens - len(answer)
    if len(prompt) > room:
        head = room // 2
        prompt = prompt[:head] + prompt[len(prompt) - (room - head) :]
    return Row([*prompt, *answer], len(prompt), example.weight)


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
