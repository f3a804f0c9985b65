"""The prompts that an answer is tried under."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from curriculum.example import make_example
from trainers.evals.rivals import rivals_of

WORDS = ("sea", "rain", "moss", "bread", "train", "bell")


def asked(question, answer, context=""):
    return make_example(
        role="creative", stage="conversations", category="talk", kind="hybrid", input=question, output=answer,
        context=context, source="t",
    )  # fmt: skip


def test_the_most_similar_prompts_are_rivals():
    item = asked("What of the grey sea in winter?", "It waits.")
    near = [asked(f"What of the grey sea in {season}?", season) for season in ("spring", "summer", "autumn")]
    far = [asked(f"How do I bake bread number {n}?", f"slowly {n}") for n in range(20)]
    assert set(rivals_of([item], [*far, *near, item])[0]) == set(near)


def test_equal_prompts_and_equal_answers_are_no_rivals():
    item = asked("What now?", "Rest.")
    pool = [
        item,
        asked("What now?", "Walk."),
        asked("And now?", "Rest."),
        asked("What now?", "Sing.", context="Night."),
    ]
    assert rivals_of([item], pool) == [[pool[3]]]


@given(st.lists(st.tuples(*[st.sampled_from(WORDS)] * 3), min_size=2, max_size=12), st.randoms(use_true_random=False))
def test_the_order_of_items_and_pool_changes_nothing(questions, shuffled: random.Random):
    pool = [asked(" ".join(words), f"answer {n}") for n, words in enumerate(questions)]
    expected = dict(zip([item.id for item in pool], rivals_of(pool, pool), strict=True))
    mixed = shuffled.sample(pool, len(pool))
    found = dict(zip([item.id for item in mixed], rivals_of(mixed, shuffled.sample(pool, len(pool))), strict=True))
    assert found == expected
    for item, others in zip(pool, rivals_of(pool, pool), strict=True):
        assert len({(other.context, other.input) for other in [item, *others]}) == len(others) + 1
