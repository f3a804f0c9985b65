"""Replay: examples that the whole line was trained on, mixed in against forgetting. Pure.

Rows are shared out over the generations of the line in proportion to what each trained on, and within a generation over
its categories, so that what was learned long ago is met as often as what was learned last.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from curriculum.example import Example, example_id
from curriculum.mix import shuffled_keys, stratified
from curriculum.proportions import allocate


def replay_rows(new: int, room: int | None, share: float, least: int) -> int:
    """How many rows of a role should be replayed, if the line has as many.

    Args:
        new: rows of new examples, where the number of steps follows from them.
        room: rows of all steps where their number is set; None otherwise.
        share: of all rows; 0 turns replay off.
        least: a short training replays at least so many, but never more than half of its rows.
    """
    if not share:
        return 0
    if room is None:
        return min(max(round(new * share / (1 - share)), least), new)
    return min(max(round(room * share), least), room // 2)


MOST_PASSES = 2
"""Times that what the base says itself is repeated at most: more would be learned by heart."""


def shared_out(rows: int, line: int, base: int, base_share: float) -> tuple[int, int]:
    """How many of the rows that are replayed come from the line, and how many from what the base says itself.

    Args:
        line: examples of earlier generations that may be replayed.
        base: examples of the base's own words.
        base_share: of the rows, in [0, 1]. What the one lacks the other gives; 0 takes none from the base.
    """
    repeatable = base * MOST_PASSES if base_share else 0
    of_base = min(max(round(rows * base_share), rows - line), repeatable, rows)
    return min(rows - of_base, line), of_base


def generations_to_read(line: Sequence[int], rows: int, seed: str) -> list[int]:
    """The generations that replay is drawn from: all of a line, or as many as there are rows if it is longer."""
    return sorted(line if len(line) <= rows else random.Random(f"line:{seed}").sample(sorted(line), rows))


def draw_replay(line: Mapping[int, Iterable[Example]], count: int, seed: str) -> dict[int, list[Example]]:
    """Draw up to `count` different examples of one role; returns them by generation.

    Each generation gets its share by size, at least one where there is room, and shares it out over its categories. An
    example that several generations have counts for the first.
    """
    pools: dict[int, dict[str, Example]] = {}
    known: set[str] = set()
    for gen_id in sorted(line):
        own = {example.id: example for example in line[gen_id] if example.id not in known}
        known |= own.keys()
        if own:
            pools[gen_id] = own
    counts = _counts({gen_id: len(own) for gen_id, own in pools.items()}, min(count, len(known)), seed)
    return {
        gen_id: stratified(pools[gen_id].values(), rows, f"replay:{seed}:{gen_id}")
        for gen_id, rows in counts.items()
        if rows
    }


def draw_half_least_sure(
    candidates: Mapping[int, Sequence[Example]], count: int, nats: Mapping[str, float], seed: str
) -> dict[int, list[Example]]:
    """Take up to `count` of the candidates: half by :func:`draw_replay`, then the least likely; by generation.

    `nats` is each candidate's log-likelihood under the parent, by its id.
    """
    drawn = draw_replay(candidates, count - count // 2, seed)
    known = {example.id for own in drawn.values() for example in own}
    left = [(gen_id, e) for gen_id, own in candidates.items() for e in own if e.id not in known]
    for gen_id, example in sorted(left, key=lambda one: (nats[one[1].id], one[1].id))[: count // 2]:
        drawn.setdefault(gen_id, []).append(example)
    return {gen_id: drawn[gen_id] for gen_id in sorted(drawn)}


def with_answer(example: Example, answer: str) -> Example:
    """The example with another answer, under the id of its content; as it is where there is none."""
    if not answer.strip():
        return example
    name = example_id(example.role, example.kind, example.context, example.input, answer)
    return replace(example, id=name, output=answer)


def _counts(sizes: Mapping[int, int], count: int, seed: str) -> dict[int, int]:
    """Rows of each generation."""
    if not sizes:
        return {}
    found = allocate(count, shuffled_keys({str(gen_id): size for gen_id, size in sizes.items()}, seed))
    counts = {gen_id: found[str(gen_id)] for gen_id in sizes}
    while count >= len(sizes) and (without := [gen_id for gen_id, rows in counts.items() if not rows]):
        largest = max(counts, key=lambda gen_id: (counts[gen_id], -gen_id))
        counts[largest] -= 1
        counts[without[0]] += 1
    return counts
