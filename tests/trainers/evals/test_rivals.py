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


def test_a_question_of_its_own_category_is_a_nearer_rival_than_a_more_similar_one_of_another():
    """Else answers that were shuffled within their categories still fit their own prompts best, by their kind."""

    def of(category, question):
        return make_example(
            role="creative", stage="conversations", category=category, kind="hybrid", input=question, output=question,
            source="t",
        )  # fmt: skip

    item = of("talk", "What of the grey sea?")
    own = [of("talk", f"How are you on day {n}?") for n in range(3)]
    others = [of("what_if", f"What of the grey sea {word}?") for word in WORDS]
    assert rivals_of([item], [*others, *own, item])[0] == sorted(own, key=lambda one: one.id)
    assert [one.category for one in rivals_of([item], [*others, *own[:2], item])[0]] == ["talk", "talk", "what_if"]


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
